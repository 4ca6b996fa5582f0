"""The short way of queries by vector answers as the way of all others does."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.errors import DimensionMismatch, VectorNotFinite, VectorZero
from lookalike.backends.types import Hits, Metric
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    Answer,
    CollectionConfig,
    Condition,
    Filter,
    NewItem,
    SearchOptions,
    Test,
    Vector,
    VectorQuery,
    View,
)
from lookalike.server.finding import Wanted, find

DIM = 8
COUNT = 400


@pytest.fixture(scope="module", params=list(Metric))
def house(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    with open_house(tmp_path_factory.mktemp("plain")) as made:
        made.library.create_collection(
            CollectionConfig("v", model="none", dimension=DIM, metric=request.param), exist_ok=False
        )
        # On a grid, each vector several times, so that many scores are equal.
        rows = rng.integers(-2, 3, (COUNT, DIM)).astype(np.float32) + np.float32(0.5)
        rows[200:] = rows[:200]
        names = rng.permutation(COUNT)
        made.put(
            [
                NewItem(f"{n}", vector=v, metadata={"odd": bool(n % 2)})
                for n, v in zip(names, rows, strict=True)
            ],
            "v",
        )
        yield made


def shown(answer: object) -> list[tuple[str, float, object, bool]]:
    assert isinstance(answer, Answer), answer
    return [
        (m.item.id, m.score, m.item.metadata, m.item.vector is not None) for m in answer.matches
    ]


OPTIONS = [
    SearchOptions(),
    SearchOptions(limit=1, view=View.ID),
    SearchOptions(limit=37, view=View.ID),
    SearchOptions(limit=COUNT + 10, view=View.ID),
    SearchOptions(limit=20, view=View.FULL),
    SearchOptions(limit=COUNT, min_score=0.25),
    SearchOptions(min_score=1e9),
    SearchOptions(limit=300, filter=Filter(all=(Condition("odd", Test.EQ, True),))),
    SearchOptions(filter=Filter(all=(Condition("odd", Test.EQ, "neither"),))),
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_the_short_way_answers_as_the_long_one_does(house: House, options: SearchOptions) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    vectors = np.random.default_rng(seed).integers(-2, 3, (24, DIM)).astype(np.float32) + 0.5
    collection = house.library.collection("v")
    least = -np.inf if options.min_score is None else options.min_score
    long = find(collection, [Wanted(collection.accept(v), options, least) for v in vectors])
    requests = [("v", VectorQuery(v), options) for v in vectors]
    together = house.searcher.search_batch(requests, deadline=None)
    alone = [house.searcher.search(*request, deadline=None) for request in requests]
    for expected, one, other in zip(long, alone, together, strict=True):
        assert shown(one) == shown(other) == shown(expected)
        assert one.matched_count == expected.matched_count
        assert one.exact == expected.exact


def test_each_query_of_a_batch_has_its_own_error(house: House) -> None:
    options = SearchOptions(limit=3, view=View.ID)
    good = np.ones(DIM, np.float32)
    vectors = [good, np.ones(3, np.float32), good, good * np.float32("nan"), good * 0, good]
    requests = [("v", VectorQuery(v), options) for v in vectors]
    found = house.searcher.search_batch(requests, deadline=None)
    assert isinstance(found[1], DimensionMismatch)
    assert isinstance(found[3], VectorNotFinite)
    if house.library.collection("v").record.config.metric is Metric.COSINE:
        assert isinstance(found[4], VectorZero)
    assert shown(found[0]) == shown(found[2]) == shown(found[5])
    assert len(shown(found[5])) == 3
    bad = house.searcher.search_batch(requests[3:4] * 2, deadline=None)
    assert [type(error) for error in bad] == [VectorNotFinite] * 2


def test_items_that_went_meanwhile_are_looked_for_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index may name keys that the store has no more: there are full answers all the same."""
    search, stale = Collection.search, [True]

    def late(collection: Collection, vectors: Vector, *more: object) -> Hits:
        hits = search(collection, vectors, *more)  # type: ignore[arg-type]
        if stale.pop() if stale else False:
            hits = Hits(hits.ids + 10**6, hits.scores, hits.exact)
        return hits

    monkeypatch.setattr(Collection, "search", late)
    for view in (View.ID, View.BASIC):
        stale[:] = [True]
        options = SearchOptions(limit=5, view=view)
        first = house.searcher.search(
            "v", VectorQuery(np.ones(DIM, np.float32)), options, deadline=None
        )
        assert not stale
        again = house.searcher.search(
            "v", VectorQuery(np.ones(DIM, np.float32)), options, deadline=None
        )
        assert len(shown(first)) == 5
        assert shown(first) == shown(again)


def test_callers_at_the_same_time_each_have_their_own_answer(house: House) -> None:
    options = SearchOptions(limit=5, view=View.ID)
    vectors = np.random.default_rng(5).standard_normal((60, DIM)).astype(np.float32)
    requests = [("v", VectorQuery(v), options) for v in vectors]
    expected = [shown(house.searcher.search(*r, deadline=None)) for r in requests]
    wrong: list[int] = []

    def call(start: int) -> None:
        for i in range(start, start + 60):
            found = house.searcher.search(*requests[i % 60], deadline=None)
            if shown(found) != expected[i % 60]:
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(7 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_bad_vector_fails_alone_among_callers_at_the_same_time(tmp_path: Path) -> None:
    options = SearchOptions(limit=2, view=View.ID)
    with open_house(tmp_path) as made:
        made.library.create_collection(
            CollectionConfig("v", model="none", dimension=DIM), exist_ok=False
        )
        made.put(
            [NewItem(f"{i}", vector=np.eye(DIM, dtype=np.float32)[i]) for i in range(DIM)], "v"
        )
        outcomes: list[object] = []

        def call(vector: Vector) -> None:
            for _ in range(40):
                try:
                    made.searcher.search("v", VectorQuery(vector), options, deadline=None)
                    outcomes.append("found")
                except (VectorZero, DimensionMismatch) as error:
                    outcomes.append(type(error))

        kinds = [np.ones(DIM), np.zeros(DIM), np.ones(3), np.ones(DIM)]
        threads = [threading.Thread(target=call, args=(k.astype(np.float32),)) for k in kinds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [outcomes.count(kind) for kind in ("found", VectorZero, DimensionMismatch)] == [
            80,
            40,
            40,
        ]
