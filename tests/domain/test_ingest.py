"""What becomes of items: order, errors of one alone, nothing done twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.errors import CollectionNotFound
from lookalike.server.domain import (
    CollectionConfig,
    ImageQuery,
    ItemQuery,
    NewItem,
    Outcome,
    SearchOptions,
    VectorQuery,
    View,
    WriteMode,
)
from made_pictures import encoded, jpeg


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as house:
        yield house


@pytest.fixture
def vectors(house: House) -> str:
    house.library.create_collection(
        CollectionConfig("vectors", model="none", dimension=4), exist_ok=False
    )
    return "vectors"


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def best(house: House, collection: str, query: np.ndarray) -> str:
    answer = house.searcher.search(
        collection, VectorQuery(query), SearchOptions(limit=1), deadline=None
    )
    return answer.matches[0].item.id


def test_the_later_of_two_pictures_of_one_id_wins(house: House) -> None:
    items = [NewItem("same", jpeg(i)) for i in range(12)]
    results = house.put(items)
    assert results[0].outcome is Outcome.CREATED
    assert all(r.outcome is Outcome.UPDATED for r in results[1:])
    found = house.searcher.search("", ImageQuery(jpeg(11)), SearchOptions(limit=5), deadline=None)
    assert [m.item.id for m in found.matches] == ["same"]
    assert found.matches[0].score > 0.999


def test_a_thousand_items_of_one_id_do_not_pile_up_one_stack(house: House, vectors: str) -> None:
    items = [NewItem("same", vector=vector(1, 2, 3, 4)) for _ in range(1024)]
    results = house.put(items, vectors, bulk=True)
    outcomes = [r.outcome for r in results]
    assert outcomes[0] is Outcome.CREATED
    assert set(outcomes[1:]) == {Outcome.UNCHANGED}


def test_one_bad_item_does_not_sink_the_others(house: House) -> None:
    results = house.put(
        [
            NewItem("a", jpeg(1)),
            NewItem("b", b"no picture"),
            NewItem("c", vector=vector(1, 2, 3)),
            NewItem("", None, None),
            NewItem("e", jpeg(2)),
        ]
    )
    assert [r.outcome for r in results] == [
        Outcome.CREATED, Outcome.FAILED, Outcome.FAILED, Outcome.FAILED, Outcome.CREATED,
    ]  # fmt: skip
    reasons = [r.error.reason for r in results if r.error]
    assert reasons == ["IMAGE_FORMAT_UNSUPPORTED", "DIMENSION_MISMATCH", "INPUTS_EMPTY"]


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ((float("nan"), 0, 0, 1), "VECTOR_NOT_FINITE"),
        ((float("inf"), 0, 0, 1), "VECTOR_NOT_FINITE"),
        ((0, 0, 0, 0), "VECTOR_ZERO"),
        ((1, 2), "DIMENSION_MISMATCH"),
    ],
)
def test_bad_vectors_are_named(
    house: House, vectors: str, numbers: tuple[float, ...], reason: str
) -> None:
    [result] = house.put([NewItem("v", vector=vector(*numbers))], vectors)
    assert result.error is not None
    assert result.error.reason == reason


def test_the_very_same_item_is_not_embedded_again(house: House) -> None:
    items = [NewItem(f"i-{n}", jpeg(n), metadata={"n": n}) for n in range(6)]
    house.put(items)
    before = house.models.stats()["builtin"].items
    assert {r.outcome for r in house.put(items)} == {Outcome.UNCHANGED}
    assert house.models.stats()["builtin"].items == before
    changed = [NewItem("i-0", jpeg(0), metadata={"n": 99})]
    assert house.put(changed)[0].outcome is Outcome.UPDATED


def test_an_item_without_an_id_is_named_by_its_content(house: House) -> None:
    first, second = house.put([NewItem("", jpeg(1)), NewItem("", jpeg(1))])
    assert first.id == second.id
    assert first.id.startswith("sha256:")
    assert {first.outcome, second.outcome} == {Outcome.CREATED, Outcome.UNCHANGED}


def test_write_modes(house: House, vectors: str) -> None:
    house.put([NewItem("a", vector=vector(1, 0, 0, 0))], vectors)
    other = [NewItem("a", vector=vector(0, 1, 0, 0)), NewItem("b", vector=vector(0, 0, 1, 0))]
    skipped, created = house.put(other, vectors, WriteMode.SKIP_EXISTING)
    assert (skipped.outcome, created.outcome) == (Outcome.SKIPPED, Outcome.CREATED)
    [refused] = house.put(other[:1], vectors, WriteMode.CREATE_ONLY)
    assert refused.error is not None
    assert refused.error.reason == "ITEM_EXISTS"
    assert best(house, vectors, vector(1, 0, 0, 0)) == "a"
    again = [NewItem("a", vector=vector(1, 0, 0, 0))]
    assert house.put(again, vectors, WriteMode.CREATE_ONLY)[0].outcome is Outcome.UNCHANGED


def test_concurrent_writers_of_the_same_ids_leave_one_of_each(house: House, vectors: str) -> None:
    def write(worker: int) -> None:
        for turn in range(20):
            house.put(
                [
                    NewItem(f"id-{i}", vector=vector(worker + 1, turn + 1, i + 1, 1))
                    for i in range(8)
                ],
                vectors,
            )

    threads = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collection = house.library.collection(vectors)
    assert collection.info().item_count == 8
    stats = collection.engine.stats()
    assert stats.count == 8
    for i in range(8):
        item = collection.get(f"id-{i}", View.FULL)
        assert item.vector is not None
        assert best(house, vectors, item.vector) == f"id-{i}"
    assert house.ingest.under_way == 0


def test_an_unknown_collection_fails_the_whole_call(house: House) -> None:
    with pytest.raises(CollectionNotFound):
        house.put([NewItem("a", jpeg(1))], "nowhere")


def test_an_item_query_leaves_the_item_itself_out(house: House) -> None:
    house.put([NewItem(f"i-{n}", jpeg(n)) for n in range(5)])
    answer = house.searcher.search("", ItemQuery("i-2"), SearchOptions(limit=10), deadline=None)
    assert {m.item.id for m in answer.matches} == {"i-0", "i-1", "i-3", "i-4"}


def test_equal_scores_come_by_id(house: House, vectors: str) -> None:
    house.put([NewItem(i, vector=vector(1, 1, 0, 0)) for i in "dbca"], vectors)
    answer = house.searcher.search(
        vectors, VectorQuery(vector(1, 1, 0, 0)), SearchOptions(limit=4), deadline=None
    )
    assert [m.item.id for m in answer.matches] == ["a", "b", "c", "d"]


def test_an_engine_that_fails_is_opened_anew_before_the_answer(
    house: House, vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put([NewItem("a", vector=vector(1, 0, 0, 0))], vectors)
    engine = house.library.collection(vectors).engine

    def broken(changes: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(engine, "apply", broken)
    [result] = house.put([NewItem("b", vector=vector(0, 1, 0, 0))], vectors)
    assert result.outcome is Outcome.CREATED
    assert house.library.collection(vectors).engine is not engine
    assert best(house, vectors, vector(0, 1, 0, 0)) == "b"


def test_a_picture_with_a_vector_is_kept_but_not_embedded(house: House, vectors: str) -> None:
    house.put([NewItem("a", jpeg(1), vector=vector(1, 0, 0, 0))], vectors)
    item = house.library.collection(vectors).get("a", View.BASIC)
    assert item.image is not None
    assert item.image.has_thumbnail
    assert house.models.stats() == {}


def test_a_one_colour_picture_can_be_stored_and_found(house: House) -> None:
    plain = encoded(np.full((40, 40, 3), 200, np.uint8), "PNG")
    house.put([NewItem("plain", plain), NewItem("scene", jpeg(3))])
    answer = house.searcher.search("", ImageQuery(plain), SearchOptions(limit=1), deadline=None)
    assert answer.matches[0].item.id == "plain"
