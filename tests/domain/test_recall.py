"""Recall that is measured is the recall that there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.errors import Cancelled, CollectionNotFound, Overloaded
from lookalike.backends.types import (
    HnswParams,
    IndexSpec,
    Metric,
    SearchParams,
    Vectors,
    normalize,
)
from lookalike.server.domain import (
    NO_MODEL,
    CollectionConfig,
    NewItem,
    Outcome,
    SearchOptions,
    VectorQuery,
    View,
)
from lookalike.server.recall import Measurement, RecallOptions, Recalls, Source
from lookalike.server.recent import MOST, RecentQueries

SEED = 21
DIM = 48
COUNT = 6000


def nothing() -> None:
    pass


def measured(house: House, name: str, options: RecallOptions) -> Measurement:
    return Recalls(house.library).measure(name, options, nothing)


def gaussian(count: int, seed: int = SEED) -> Vectors:
    print("seed", seed)
    rng = np.random.default_rng(seed)
    return normalize(rng.standard_normal((count, DIM), dtype=np.float32))


def fill(house: House, name: str, vectors: Vectors, config: CollectionConfig) -> None:
    house.library.create_collection(config, exist_ok=False)
    for start in range(0, len(vectors), 2000):
        block = vectors[start : start + 2000]
        items = [NewItem(f"{start + i:06}", vector=vector) for i, vector in enumerate(block)]
        results = house.put(items, name, bulk=True)
        assert all(result.outcome is Outcome.CREATED for result in results)


def search(house: House, name: str, queries: Vectors, k: int = 10) -> None:
    options = SearchOptions(limit=k, view=View.ID)
    house.searcher.search_batch(
        [(name, VectorQuery(query), options) for query in queries], deadline=None
    )


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Vectors]]:
    """Give a collection that a graph with few candidates does not find its way in."""
    vectors = gaussian(COUNT)
    graph = IndexSpec("faiss", HnswParams(m=12, ef_construction=60, ef_search=16))
    with open_house(tmp_path_factory.mktemp("hard"), delta_limit=COUNT - 1) as house:
        config = CollectionConfig("hard", model=NO_MODEL, dimension=DIM, index=graph)
        fill(house, "hard", vectors, config)
        collection = house.library.collection("hard")
        end = time.monotonic() + 60
        while (stats := collection.engine.stats()).building or stats.indexed < COUNT:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield house, vectors


def offline(house: House, vectors: Vectors, options: RecallOptions) -> tuple[float, float]:
    """Return recall and self-match rate of the very sample, by numpy alone."""
    collection = house.library.collection("hard")
    keys = collection.engine.holding().keys()  # type: ignore[union-attr]
    own = np.random.default_rng(options.seed).choice(keys, options.count, replace=False)
    rows = np.searchsorted(keys, own)
    products = vectors[rows].astype(np.float64) @ vectors.T.astype(np.float64)
    products[np.arange(len(rows)), rows] = -np.inf
    truth = np.argsort(-products, axis=1)[:, : options.limit]
    found = self_found = 0
    for i, row in enumerate(rows):
        hits = collection.engine.search(
            vectors[row : row + 1], options.limit + 1, params=options.params
        )
        ids = hits.ids[0]
        self_found += int(ids[0] == keys[row])
        others = ids[ids != keys[row]][: options.limit]
        found += len(np.intersect1d(others, keys[truth[i]]))
    return found / (len(rows) * options.limit), self_found / len(rows)


@pytest.mark.parametrize("limit", [1, 10, 50])
def test_it_agrees_with_a_computation_by_numpy(limit: int, hard: tuple[House, Vectors]) -> None:
    house, vectors = hard
    options = RecallOptions(200, limit, seed=3, source=Source.STORED)
    found = measured(house, "hard", options)
    assert found.recall is not None
    assert found.self_match is not None
    recall, self_match = offline(house, vectors, options)
    assert found.recall.estimate.value == pytest.approx(recall, abs=0.001)
    assert found.recall.estimate.low <= recall <= found.recall.estimate.high
    assert found.self_match.value == pytest.approx(self_match, abs=0.001)
    assert (found.stored, found.recent, found.item_count) == (200, 0, COUNT)
    assert (found.recall.limit, found.recall.estimate.count) == (limit, 200)
    assert not found.exact
    assert found.target == 0.99


def test_fewer_candidates_find_visibly_less(hard: tuple[House, Vectors]) -> None:
    house, _ = hard
    recalls = []
    for ef in (10, 60, 120):
        options = RecallOptions(200, params=SearchParams(ef_search=ef), source=Source.STORED)
        found = measured(house, "hard", options).recall
        assert found is not None
        recalls.append(found.estimate)
    assert recalls[0].value < recalls[1].value < recalls[2].value, recalls
    assert recalls[0].high < recalls[2].low, recalls
    assert recalls[0].high < 0.99, "hard enough to be told"
    exact = measured(house, "hard", RecallOptions(50, params=SearchParams(exact=True)))
    assert exact.exact
    assert exact.recall is not None
    assert exact.recall.estimate.value == 1.0


def test_recent_queries_are_half_of_what_is_asked(hard: tuple[House, Vectors]) -> None:
    house, _ = hard
    assert measured(house, "hard", RecallOptions(20, source=Source.RECENT)).recall is None
    queries = gaussian(60, seed=5)
    search(house, "hard", queries)
    both = measured(house, "hard", RecallOptions(100))
    assert (both.stored, both.recent) == (50, 50)
    many = measured(house, "hard", RecallOptions(300))
    assert (many.stored, many.recent) == (240, 60)
    recent = measured(house, "hard", RecallOptions(300, source=Source.RECENT))
    assert (recent.stored, recent.recent) == (0, 60)
    assert recent.self_match is None
    assert recent.recall is not None
    collection = house.library.collection("hard")
    right = collection.engine.search(queries, 10, params=SearchParams(exact=True))
    found = collection.engine.search(queries, 10)
    share = np.mean(
        [len(np.intersect1d(a, b)) / 10 for a, b in zip(right.ids, found.ids, strict=True)]
    )
    assert recent.recall.estimate.value == pytest.approx(float(share), abs=0.001)


def test_times_and_settings_are_told(hard: tuple[House, Vectors]) -> None:
    house, _ = hard
    found = measured(house, "hard", RecallOptions(40, source=Source.STORED))
    for times, count in ((found.index_times, 40), (found.exact_times, 20)):
        assert times is not None
        assert times.count <= count
        assert 0 < times.mean_ms <= times.p99_ms * 1.0001 or times.p99_ms > 0
    settings = found.segments[0]["settings"]
    assert isinstance(settings, dict)
    assert settings["ef_search"] == 16


def test_measuring_asks_no_queries_of_its_own_into_memory(hard: tuple[House, Vectors]) -> None:
    house, _ = hard
    before = house.library.collection("hard").recent.count
    measured(house, "hard", RecallOptions(40))
    house.library.describe("hard")
    assert house.library.collection("hard").recent.count == before


def test_the_same_seed_asks_the_same(hard: tuple[House, Vectors]) -> None:
    house, _ = hard
    first, same, other = (
        measured(house, "hard", RecallOptions(100, seed=seed, source=Source.STORED)).recall
        for seed in (1, 1, 2**64 - 1)
    )
    assert first is not None
    assert same is not None
    assert other is not None
    assert first.estimate == same.estimate != other.estimate


def test_it_stops_when_it_is_told_and_one_goes_at_a_time(hard: tuple[House, Vectors]) -> None:
    house, _ = hard
    recalls = Recalls(house.library)
    begun, go_on, refused = threading.Event(), threading.Event(), []

    def wait() -> None:
        begun.set()
        assert go_on.wait(30)
        raise Cancelled("enough")

    def first() -> None:
        with pytest.raises(Cancelled):
            recalls.measure("hard", RecallOptions(10_000), wait)
        refused.append(True)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    with pytest.raises(Overloaded, match="one at a time"):
        recalls.measure("hard", RecallOptions(), nothing)
    search(house, "hard", gaussian(3))
    go_on.set()
    thread.join(30)
    assert refused
    assert recalls.measure("hard", RecallOptions(10), nothing).recall is not None


@pytest.mark.parametrize("metric", list(Metric))
def test_few_items_are_answered_sensibly(metric: Metric, tmp_path: Path) -> None:
    vectors = gaussian(5) * np.arange(1, 6, dtype=np.float32)[:, None]
    with open_house(tmp_path) as house:
        config = CollectionConfig("few", model=NO_MODEL, dimension=DIM, metric=metric)
        fill(house, "few", vectors[:0], config)
        empty = measured(house, "few", RecallOptions())
        assert (empty.recall, empty.self_match, empty.item_count) == (None, None, 0)
        search(house, "few", gaussian(2))
        assert measured(house, "few", RecallOptions()).recall is None
        house.put([NewItem("0", vector=vectors[0])], "few")
        one = measured(house, "few", RecallOptions())
        assert one.recall is None
        assert one.self_match is not None
        assert (one.self_match.value, one.stored) == (1.0, 1)
        house.put([NewItem(f"{i}", vector=vectors[i]) for i in range(1, 5)], "few")
        few = measured(house, "few", RecallOptions())
        assert few.recall is not None
        assert few.self_match is not None
        assert (few.recall.limit, few.recall.estimate.value, few.exact) == (4, 1.0, True)
        assert few.self_match.value == 1.0
        with pytest.raises(CollectionNotFound):
            measured(house, "none", RecallOptions())


def test_items_that_go_and_come_meanwhile_do_no_harm(hard: tuple[House, Vectors]) -> None:
    house, vectors = hard
    extra = gaussian(40, seed=9)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            house.put([NewItem(f"x{i}", vector=v) for i, v in enumerate(extra)], "hard")
            house.library.collection("hard").delete([f"x{i}" for i in range(40)], dry_run=False)

    quiet = measured(house, "hard", RecallOptions(200, source=Source.STORED)).recall
    thread = threading.Thread(target=change)
    thread.start()
    try:
        busy = measured(house, "hard", RecallOptions(200, source=Source.STORED)).recall
    finally:
        over.set()
        thread.join()
    assert quiet is not None
    assert busy is not None
    assert busy.estimate.value == pytest.approx(quiet.estimate.value, abs=0.02)
    assert len(vectors) == COUNT


def test_the_latest_queries_are_the_likeliest_to_be_remembered() -> None:
    recent = RecentQueries()
    assert recent.vectors().shape == (0, 0)
    for i in range(0, 4000, 2):
        recent.add(np.full((2, 3), i, np.float32))
    kept = recent.vectors()
    assert kept.shape == (MOST, 3)
    assert recent.count == 4000
    assert 0.55 < (kept[:, 0] >= 4000 - MOST).mean() < 0.72  # 1 - 1/e = 0.63
    one = np.zeros((1, 3), np.float32)
    recent.add(one)
    one += 7
    assert (recent.vectors() == 0).any(), "what was added is a copy"
    recent.add(np.zeros((5000, 3), np.float32))
    recent.forget()
    assert recent.vectors().shape == (0, 0)
    recent.add(np.zeros((600, 32768), np.float32))
    assert recent.vectors().shape == (32, 32768)
