"""What is stored comes back, and what is replaced keeps what it should."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.backends.errors import (
    DimensionMismatch,
    InvalidArgument,
    ItemExists,
    ItemNotFound,
)
from lookalike.server.domain import (
    Condition,
    Filter,
    Item,
    Json,
    Outcome,
    StoredImage,
    Test,
    View,
    WriteMode,
)
from lookalike.server.store import Store
from store.making import DIM, create, deleting, do, item, new_digest, put, vector


def outcomes(results: Any) -> list[Outcome]:
    return [result.outcome for result in results]


def test_an_item_comes_back_as_it_was_given(store: Store, clock: Any) -> None:
    number = create(store).number
    metadata: Json = {"brand": "acme", "price": 9.5, "tags": ["a", None, True], "size": {"w": 3.0}}
    given = item("a", 2.0, metadata, thumbnail=b"small", original=b"large")
    assert outcomes(put(store, number, [given])) == [Outcome.CREATED]

    full = store.get(number, "a", View.FULL)
    assert full is not None
    assert full.metadata == metadata
    assert full.image == given.image
    np.testing.assert_array_equal(full.vector, given.vector)
    assert full.vector is not None
    assert full.vector.dtype == np.float32
    assert full.create_time == full.update_time == clock.now
    basic = store.get(number, "a", View.BASIC)
    assert basic == Item(full.key, "a", metadata, given.image, None, clock.now, clock.now)
    assert store.get(number, "a", View.ID) == Item(full.key, "a")
    assert store.fetch([full.key, 999], View.BASIC) == {full.key: basic}
    assert store.fetch([], View.FULL) == {}
    assert store.digest(number, "a") == given.digest
    assert store.image(full.key, False) == StoredImage("image/jpeg", b"small")
    assert store.image(full.key, True) == StoredImage("image/png", b"large")


def test_what_is_not_there_is_none(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("a")])
    assert store.get(number, "b", View.FULL) is None
    assert store.get(number + 1, "a", View.FULL) is None
    assert store.digest(number, "b") is None
    assert store.image(1, True) is None
    assert store.image(77, False) is None


def test_whole_numbers_come_back_as_floats(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"n": 5, "deep": [1, {"m": 2}], "yes": True})])
    found = store.get(number, "a", View.BASIC)
    assert found is not None
    assert repr(found.metadata) == repr({"deep": [1.0, {"m": 2.0}], "n": 5.0, "yes": True})


def test_a_new_vector_gives_a_new_key_and_keeps_the_create_time(store: Store, clock: Any) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, thumbnail=b"old", original=b"old")])
    before = store.get(number, "a", View.BASIC)
    born = clock.now
    clock.now += 5
    assert outcomes(put(store, number, [item("a", 2.0, thumbnail=b"new")])) == [Outcome.UPDATED]
    after = store.get(number, "a", View.FULL)
    assert before is not None
    assert after is not None
    assert after.key > before.key
    assert (after.create_time, after.update_time) == (born, clock.now)
    assert store.fetch([before.key], View.BASIC) == {}
    np.testing.assert_array_equal(after.vector, vector(2.0))
    assert store.image(after.key, False) == StoredImage("image/jpeg", b"new")
    assert store.image(after.key, True) is None
    assert store.image(before.key, False) is None


def test_new_metadata_or_pictures_keep_the_key(store: Store, clock: Any) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"n": 1}, thumbnail=b"old", original=b"old")])
    before = store.get(number, "a", View.BASIC)
    clock.now += 5
    put(store, number, [item("a", 1.0, {"n": 2}, original=b"new")])
    after = store.get(number, "a", View.BASIC)
    assert before is not None
    assert after is not None
    assert after.key == before.key
    assert after.metadata == {"n": 2.0}
    assert (after.create_time, after.update_time) == (before.create_time, clock.now)
    assert store.image(after.key, True) == StoredImage("image/png", b"new")
    assert store.image(after.key, False) is None
    assert after.image is not None
    assert not after.image.has_thumbnail


def test_the_very_same_item_is_unchanged_and_writes_nothing(store: Store, clock: Any) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"n": 1})])
    seq, before = store.seq(), store.get(number, "a", View.BASIC)
    clock.now += 5
    assert outcomes(put(store, number, [item("a", 1.0, {"n": 1})])) == [Outcome.UNCHANGED]
    assert store.seq() == seq
    assert store.get(number, "a", View.BASIC) == before


def test_write_modes_leave_existing_ids_alone(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0)])
    skipped = put(store, number, [item("a", 2.0), item("b", 2.0)], WriteMode.SKIP_EXISTING)
    assert outcomes(skipped) == [Outcome.SKIPPED, Outcome.CREATED]
    failed = put(store, number, [item("a", 2.0), item("c", 2.0)], WriteMode.CREATE_ONLY)
    assert outcomes(failed) == [Outcome.FAILED, Outcome.CREATED]
    assert isinstance(failed[0].error, ItemExists)
    found = store.get(number, "a", View.FULL)
    assert found is not None
    np.testing.assert_array_equal(found.vector, vector(1.0))


def test_the_later_of_two_same_ids_wins_and_both_are_answered(store: Store) -> None:
    number = create(store).number
    twice = [item("a", 1.0), item("b", 5.0), item("a", 2.0), item("a", 2.0, {"x": 1})]
    assert outcomes(put(store, number, twice)) == [
        Outcome.CREATED,
        Outcome.CREATED,
        Outcome.UPDATED,
        Outcome.UPDATED,
    ]
    found = store.get(number, "a", View.FULL)
    assert found is not None
    np.testing.assert_array_equal(found.vector, vector(2.0))
    assert found.metadata == {"x": 1.0}
    assert store.count(number, Filter()) == 2
    assert outcomes(put(store, number, [item("a", 3.0), item("a", 3.0)])) == [
        Outcome.UPDATED,
        Outcome.UNCHANGED,
    ]
    again = [item("d", 1.0), item("d", 2.0)]
    assert outcomes(put(store, number, again, WriteMode.SKIP_EXISTING)) == [
        Outcome.CREATED,
        Outcome.SKIPPED,
    ]


def test_one_bad_item_does_not_sink_the_others(store: Store) -> None:
    number = create(store).number
    bad = [
        item("dim", vector(1.0, dim=DIM + 1)),
        item("nan", 1.0, {"x": float("nan")}),
        item("odd", 1.0, {"x": object()}),
        item("surrogate", 1.0, {"x": "\ud800"}),
    ]
    results = put(store, number, [*bad, item("good")])
    assert outcomes(results) == [Outcome.FAILED] * 4 + [Outcome.CREATED]
    assert isinstance(results[0].error, DimensionMismatch)
    assert all(isinstance(result.error, InvalidArgument) for result in results[:4])
    assert store.count(number, Filter()) == 1


def test_random_puts_agree_with_a_dict(store: Store) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    number = create(store).number
    model: dict[str, tuple[float, float]] = {}
    keys: dict[tuple[str, float], int] = {}
    for _ in range(120):
        mode = rng.choice(list(WriteMode))
        batch = [
            (f"id{rng.randrange(12)}", float(rng.randrange(3)), float(rng.randrange(3)))
            for _ in range(rng.randrange(1, 8))
        ]
        results = put(store, number, [item(i, v, {"m": m}) for i, v, m in batch], mode)
        for (item_id, value, meta), result in zip(batch, results, strict=True):
            assert result.outcome is _expected(model, mode, item_id, (value, meta))
        if rng.random() < 0.2:
            gone = [f"id{rng.randrange(12)}" for _ in range(3)]
            count = do(store, deleting(number, *gone))
            assert count == len(set(gone) & set(model))
            for item_id in gone:
                model.pop(item_id, None)
        found = store.list(number, Filter(), "", 100, View.FULL)
        assert {
            f.id: (float(f.vector[0]), f.metadata["m"]) for f in found if f.vector is not None
        } == model
        live = store.keys(number)
        assert live.tolist() == sorted(f.key for f in found)
        for f in found:  # a key belongs to one id and one vector for ever
            assert keys.setdefault((f.id, f.key), f.key) == f.key
    assert len({key for _, key in keys}) == len(keys)


def _expected(
    model: dict[str, tuple[float, float]], mode: WriteMode, item_id: str, new: tuple[float, float]
) -> Outcome:
    if item_id not in model:
        model[item_id] = new
        return Outcome.CREATED
    if mode is WriteMode.SKIP_EXISTING:
        return Outcome.SKIPPED
    if model[item_id] == new:
        return Outcome.UNCHANGED
    if mode is WriteMode.CREATE_ONLY:
        return Outcome.FAILED
    model[item_id] = new
    return Outcome.UPDATED


# ----------------------------------------------------------------- metadata


def test_a_merge_patch_follows_rfc_7396(store: Store, clock: Any) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"keep": 1.0, "drop": 2.0, "deep": {"x": 1.0, "y": 2.0}})])
    key, old = store.keys(number)[0], store.digest(number, "a")
    clock.now += 3
    patch: Json = {"drop": None, "deep": {"x": None, "z": {"n": None, "m": 1.0}}, "new": [None]}
    after = do(store, lambda t: t.update_metadata(number, "a", patch, new_digest, False))
    assert after.metadata == {"keep": 1.0, "deep": {"y": 2.0, "z": {"m": 1.0}}, "new": [None]}
    assert after == store.get(number, "a", View.BASIC)
    assert (after.key, after.update_time) == (key, clock.now)
    assert old is not None
    assert store.digest(number, "a") == new_digest(old, after.metadata)


def test_replace_takes_the_place_of_all_metadata(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"x": 1.0, "y": 2.0})])
    after = do(store, lambda t: t.update_metadata(number, "a", {"z": None}, new_digest, True))
    assert after.metadata == {"z": None}


def test_a_patch_that_changes_nothing_writes_nothing(store: Store, clock: Any) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"x": 1.0})])
    seq, before = store.seq(), store.get(number, "a", View.BASIC)
    clock.now += 3
    after = do(store, lambda t: t.update_metadata(number, "a", {"x": 1.0}, new_digest, False))
    assert (after, store.seq()) == (before, seq)


def test_update_metadata_of_nothing_is_not_found(store: Store) -> None:
    number = create(store).number
    with pytest.raises(ItemNotFound):
        do(store, lambda t: t.update_metadata(number, "a", {}, new_digest, False))


# ------------------------------------------------------- lists and deletions


def test_pages_follow_the_bytes_of_the_ids(store: Store) -> None:
    number = create(store).number
    ids = ["a", "B", "é", "z", "ß", "漢字", "😀", "\uffee", "a b", "a'b", 'a"b', "%", "_", "a\\b"]
    ids += [f"n{i}" for i in range(30)]
    put(store, number, [item(i, float(n)) for n, i in enumerate(ids)])
    other = create(store, "other").number
    put(store, other, [item("b0", 1.0)])
    seen: list[str] = []
    while page := store.list(number, Filter(), seen[-1] if seen else "", 7, View.ID):
        seen += [found.id for found in page]
    assert seen == sorted(ids, key=lambda i: i.encode())
    for item_id in ids:
        found = store.get(number, item_id, View.BASIC)
        assert found is not None
        assert found.id == item_id


def test_deleted_items_leave_nothing_behind(store: Store, tmp_path: Path) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n}", float(n), original=b"o", thumbnail=b"t") for n in range(9)])
    assert do(store, lambda t: t.delete(number, ["i1", "i2", "i2", "gone"])) == 2
    some = Filter(all=(Condition("@id", Test.ANY_OF, ("i3", "i4")),))
    assert do(store, lambda t: t.delete_where(number, some)) == 2
    assert _rows(store) == [5, 5, 5, 5]
    assert do(store, lambda t: t.delete_collection(number)) == 5
    assert _rows(store) == [0, 0, 0, 0]
    assert store.collections() == []


def _rows(store: Store) -> list[int]:
    def count(table: str) -> int:
        return do(store, lambda t: int(t._db.execute(f"SELECT count(*) FROM {table}").get))

    return [count(table) for table in ("items", "vectors", "thumbnails", "originals")]


def test_large_originals_fit(store: Store) -> None:
    number = create(store).number
    data = bytes(range(256)) * (32 * 2**20 // 256)
    put(store, number, [item("big", original=data)])
    assert store.image(1, True) == StoredImage("image/png", data)


# ------------------------------------------------------------------ vectors


def test_vectors_come_in_the_order_of_the_keys(store: Store) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n:03}", float(n)) for n in range(200)])
    keys = store.keys(number)
    assert keys.dtype == np.int64
    shuffled = np.random.default_rng(1).permutation(keys)
    vectors = store.vectors(number, shuffled)
    assert vectors.shape == (200, DIM)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors[:, 0], shuffled - 1)
    assert store.vectors(number, keys[:0]).shape == (0, DIM)


def test_vectors_of_more_than_one_chunk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.server.store._store._VECTOR_CHUNK_BYTES", 7 * 4 * DIM)
    number = create(store).number
    put(store, number, [item(f"i{n:03}", float(n)) for n in range(100)])
    vectors = store.vectors(number, store.keys(number))
    np.testing.assert_array_equal(vectors[:, 0], np.arange(100))


def test_a_key_that_is_gone_or_elsewhere_is_a_key_error(store: Store) -> None:
    one, two = create(store, "one").number, create(store, "two").number
    put(store, one, [item("a"), item("b")])
    put(store, two, [item("c")])
    for keys in ([1, 99], [1, 3]):
        with pytest.raises(KeyError):
            store.vectors(one, np.array(keys, np.int64))


def test_a_group_is_stored_as_its_items_one_by_one(store: Store) -> None:
    rng = random.Random(11)
    together, apart = create(store).number, create(store, "apart").number
    given = [
        item(
            rng.choice(["", "a", "\u00e9\u4e16", "'; --"]) + str(i),
            rng.random(),
            rng.choice([None, {"text": '\u00e9\u2028"x', "n": float(i)}, {"deep": {"a": [1.0]}}]),
            thumbnail=b"small" if i % 7 == 0 else None,
        )
        for i in range(200)
    ]
    given += [item(one.id, 2.0) for one in given[:3]]  # twice in one call
    put(store, together, given)
    for one in given:
        put(store, apart, [one])
    for number in (together, apart):
        for one in given[3:]:
            found = store.get(number, one.id, View.FULL)
            assert found is not None
            assert found.vector is not None
            assert found.vector.tobytes() == one.vector.tobytes()
            assert (found.metadata, found.image) == (one.metadata, one.image)
            assert store.digest(number, one.id) == one.digest
    assert store.count(together, Filter()) == store.count(apart, Filter()) == 200
    assert not list(store.damaged.keys(together))
