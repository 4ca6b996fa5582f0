"""Damage is found when it is read, named by item and collection, and never answered with."""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.backends.errors import DataLoss, FailedPrecondition
from lookalike.server.domain import Condition, Filter, Outcome, Test, View
from lookalike.server.store import Store
from store.making import create, do, item, new_digest, put


def seen_by_lists(store: Store, number: int) -> list[list[str]]:
    """Return the ids that reads of many items give, in every view."""
    keys = [1, 2, 3]
    found = [[f.id for f in store.list(number, Filter(), "", 10, view)] for view in View]
    found += [sorted(f.id for f in store.fetch(keys, view).values()) for view in View]
    return [*found, sorted(store.fetch(store.keys(number).tolist(), View.ID)[k].id
        for k in store.keys(number).tolist())]  # fmt: skip


def prepared(directory: Path) -> int:
    store = Store.open(directory)
    number = create(store, "shop").number
    put(
        store,
        number,
        [
            item("aaa", 1.0, {"x": 1.0}, thumbnail=b"t1", original=b"o1"),
            item("bad", 2.0, {"x": 2.0, "word": "hello"}, thumbnail=b"t2", original=b"o2"),
            item("zzz", 3.0, {"x": 3.0}, thumbnail=b"t3", original=b"o3"),
        ],
    )
    store.close()
    return number


def harm(directory: Path, sql: str) -> None:
    db = sqlite3.connect(directory / "store.db")
    db.execute(sql)
    db.commit()
    db.close()


def _asked_for(store: Store, number: int) -> None:
    with pytest.raises(KeyError):
        store.vectors(number, np.array([2]))


def _shown(store: Store, number: int) -> None:
    with pytest.raises(DataLoss):
        store.get(number, "bad", View.FULL)


VECTOR_READS: list[Callable[[Store, int], object]] = [
    _asked_for,
    _shown,
    lambda store, number: store.list(number, Filter(), "", 10, View.FULL),
    lambda store, number: store.fetch([1, 2, 3], View.FULL),
]
COLUMNS = {
    "metadata": "metadata = replace(metadata, 'hello', 'hellp')",
    "metadata is no JSON": "metadata = '{'",
    "metadata is no UTF-8": "metadata = CAST(x'7b2278223a22ff227d' AS TEXT)",
    "digest": "digest = CAST(x'00' || substr(digest, 2) AS BLOB)",
    "first_key": "first_key = 1",
    "width": "width = width + 1",
    "height": "height = NULL",
    "media_type": "media_type = 'image/gif'",
    "size_bytes": "size_bytes = 99",
    "sha256": "sha256 = CAST(substr(sha256, 2) || x'00' AS BLOB)",
    "kept": "kept = 1",
    "create_us": "create_us = create_us + 1",
    "update_us": "update_us = 0",
    "seq": "seq = seq + 1",
    "crc": "crc = crc + 1",
}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_damaged_column_is_found_by_every_read(tmp_path: Path, column: str) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, f"UPDATE items SET {COLUMNS[column]} WHERE id = 'bad'")
    store = Store.open(tmp_path)
    with pytest.raises(DataLoss) as caught:
        store.get(number, "bad", View.FULL)
    assert caught.value.metadata == {"id": "bad", "collection": "shop"}
    assert '"bad"' in caught.value.message
    assert str(tmp_path) not in caught.value.message
    for view in View:
        with pytest.raises(DataLoss):
            store.get(number, "bad", view)
        assert store.get(number, "aaa", view) is not None
    assert seen_by_lists(store, number) == [["aaa", "zzz"]] * 7
    assert store.keys(number).tolist() == [1, 3]
    assert store.count(number, Filter()) == 2
    assert list(store.damaged.keys(number)) == [2]
    assert store.digest(number, "bad") is None
    with pytest.raises(DataLoss):
        do(store, lambda t: t.update_metadata(number, "bad", {"y": 1.0}, new_digest, False))
    keys, vectors = store.keys(number), np.ones((2, 4), np.float32)
    assert do(store, lambda t: t.replace_vectors(number, keys, vectors, "s")) is None
    but = store.damaged.but(number)
    assert do(store, lambda t: t.replace_vectors(number, keys, vectors, "s", but)) is not None
    store.close()


@pytest.mark.parametrize(
    "change",
    ["vector = CAST(x'01' || substr(vector, 2) AS BLOB)", "vector = x'00'", "crc = 1 - crc"],
)
@pytest.mark.parametrize("read", VECTOR_READS)
def test_a_damaged_vector_is_found(
    tmp_path: Path, change: str, read: Callable[[Store, int], object]
) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, f"UPDATE vectors SET {change} WHERE key = 2")
    store = Store.open(tmp_path)
    assert store.get(number, "bad", View.BASIC) is not None
    assert len(store.vectors(number, np.array([1, 3]))) == 2
    assert not store.damaged.keys(number)
    read(store, number)
    assert list(store.damaged.keys(number)) == [2]
    with pytest.raises(DataLoss) as caught:
        store.get(number, "bad", View.FULL)
    assert caught.value.metadata == {"id": "bad", "collection": "shop"}
    assert seen_by_lists(store, number) == [["aaa", "zzz"]] * 7
    with pytest.raises(KeyError):
        store.vectors(number, np.array([1, 2]))
    store.close()


def test_vectors_that_changed_places_or_are_gone_are_found(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "gone")
    harm(tmp_path, "UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE key = 3), "
        "crc = (SELECT crc FROM vectors WHERE key = 3) WHERE key = 2")  # fmt: skip
    harm(tmp_path / "gone", "DELETE FROM vectors WHERE key = 2")
    for folder in (tmp_path, tmp_path / "gone"):
        store = Store.open(folder)
        with pytest.raises(KeyError):
            store.vectors(number, store.keys(number))
        with pytest.raises(DataLoss):
            store.get(number, "bad", View.FULL)
        assert store.keys(number).tolist() == [1, 3]
        store.close()


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("change", ["data = x'00'", "media_type = 'image/bmp'", "crc = crc - 1"])
def test_a_damaged_picture_is_found(tmp_path: Path, original: bool, change: str) -> None:
    prepared(tmp_path)
    harm(tmp_path, f"UPDATE {'originals' if original else 'thumbnails'} SET {change} "
        "WHERE first_key = 2")  # fmt: skip
    store = Store.open(tmp_path)
    with pytest.raises(DataLoss) as caught:
        store.image(2, original)
    assert caught.value.metadata == {"id": "bad", "collection": "shop"}
    assert store.image(1, original) is not None
    assert store.image(2, not original) is not None
    store.close()


def test_a_kept_picture_that_is_missing_is_damage(tmp_path: Path) -> None:
    prepared(tmp_path)
    harm(tmp_path, "DELETE FROM thumbnails WHERE first_key = 2")
    store = Store.open(tmp_path)
    with pytest.raises(DataLoss):
        store.image(2, False)
    store.close()


def test_metadata_that_is_no_json_makes_filters_fail_until_it_is_known(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, "UPDATE items SET metadata = '{\"x\": 5' WHERE id = 'bad'")
    store = Store.open(tmp_path)
    where = Filter((Condition("x", Test.GT, 0.0),))
    for read in (store.count, store.select_keys):
        with pytest.raises(DataLoss):
            read(number, where)
    with pytest.raises(DataLoss):
        do(store, lambda t: t.delete_where(number, where))
    store.look_for_damage(number)
    assert store.count(number, where) == 2
    assert store.select_keys(number, where).tolist() == [1, 3]
    assert store.count_values(number, where, "x", 9) == ([(1.0, 1), (3.0, 1)], 2)
    but = store.damaged.but(number)
    assert do(store, lambda t: t.delete_where(number, where, but)) == 2
    store.close()


def test_storing_a_damaged_item_anew_mends_it(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, "UPDATE vectors SET vector = x'00' WHERE key = 2")
    harm(tmp_path, "UPDATE items SET update_us = 5 WHERE key = 3")
    store = Store.open(tmp_path)
    heard: list[Any] = []
    store.listener = lambda _, changes: heard.append(changes)
    again = [
        item("bad", 2.0, {"x": 2.0, "word": "hello"}, thumbnail=b"t2", original=b"o2"),
        item("zzz", 3.0, {"x": 3.0}, thumbnail=b"t3", original=b"o3"),
        item("zzz", 3.0, {"x": 4.0}, thumbnail=b"t3", original=b"o3"),
    ]
    outcomes = [result.outcome for result in put(store, number, again)]
    assert outcomes == [Outcome.UPDATED] * 3
    assert store.vectors(number, store.keys(number))[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert heard[0][number].removed.tolist() == [2, 3]
    assert [f.metadata["x"] for f in store.list(number, Filter(), "", 9, View.FULL)] == [1, 2, 4]
    store.close()


def test_a_damaged_item_can_be_deleted(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, "UPDATE items SET metadata = '{' WHERE id = 'bad'")
    store = Store.open(tmp_path)
    assert do(store, lambda t: t.delete(number, ["bad"])) == 1
    assert len(store.list(number, Filter(), "", 9, View.FULL)) == 2
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "collections SET config = replace(config, '4', '5')",
        "collections SET name = 'other'",
        "collections SET name = CAST(x'ff' AS TEXT)",
        "collections SET space = ''",
        "collections SET create_us = 0",
    ],
)
def test_a_damaged_collection_is_found(tmp_path: Path, change: str) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, f"UPDATE {change}")
    store = Store.open(tmp_path)
    with pytest.raises(DataLoss):
        store.collections()
    with pytest.raises(DataLoss):
        put(store, number, [item("new")])
    store.close()


@pytest.mark.parametrize("change", ["seq = 9", "next_key = 1", "uuid = 'x'", "create_us = 0"])
def test_damage_of_what_the_store_says_of_itself_is_found(tmp_path: Path, change: str) -> None:
    prepared(tmp_path)
    harm(tmp_path, f"UPDATE meta SET {change}")
    with pytest.raises(DataLoss):
        Store.open(tmp_path)


# ------------------------------------------------------------ damaged files


def contents(store: Store, number: int) -> dict[str, object]:
    """Return all that is known of each item, and of the collection under ""."""
    found: dict[str, object] = {"": store.collections()}
    for f in store.list(number, Filter(), "", 1000, View.FULL):
        assert f.vector is not None
        pictures = [store.image(f.key, original) for original in (True, False)]
        found[f.id] = (f.metadata, f.image, f.create_time, f.vector.tolist(), pictures)
    vectors = store.vectors(number, store.keys(number))
    assert len(vectors) == store.count(number, Filter()) == len(found) - 1
    return found


def larger(directory: Path) -> tuple[int, dict[str, object]]:
    store = Store.open(directory)
    number = create(store, "shop").number
    for n in range(20):
        many = [item(f"i{n}-{m}", n + m / 8, {"n": n}, original=bytes(500)) for m in range(6)]
        put(store, number, many)
    golden = contents(store, number)
    store.close()
    return number, golden


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    number, golden = larger(tmp_path / "golden")
    size = (tmp_path / "golden" / "store.db").stat().st_size
    found = 0
    for n in range(60):
        folder = tmp_path / f"flip{n}"
        shutil.copytree(tmp_path / "golden", folder)
        data = bytearray((folder / "store.db").read_bytes())
        data[rng.randrange(size)] ^= 1 << rng.randrange(8)
        (folder / "store.db").write_bytes(data)
        found += outcome(folder, number, golden) != "same"
        shutil.rmtree(folder)
    print("found", found, "of 60")
    assert found > 5


def test_an_id_that_is_damaged_in_its_index_is_found_or_mended(tmp_path: Path) -> None:
    number, golden = larger(tmp_path / "golden")
    data = (tmp_path / "golden" / "store.db").read_bytes()
    places = [at for at in range(len(data)) if data.startswith(b"i7-3", at)]
    assert len(places) >= 2  # in the table and in the index
    outcomes = []
    for at in places:
        folder = tmp_path / f"at{at}"
        shutil.copytree(tmp_path / "golden", folder)
        (folder / "store.db").write_bytes(data[:at] + b"x" + data[at + 1 :])
        outcomes.append(outcome(folder, number, golden))
    assert "same" in outcomes  # the index was built anew
    assert "part" in outcomes  # the row cannot be


def test_an_item_that_left_its_collection_is_refused_by_the_name_that_the_index_knows(
    tmp_path: Path,
) -> None:
    number, golden = larger(tmp_path)
    data = bytearray((tmp_path / "store.db").read_bytes())
    # The header of the row's record: the type of `collection`, the constant 1, becomes 0.
    # (There may be old copies of the row on free pages.)
    found = list(re.finditer(rb"\x11\x00[\x01\x02]\x09.{0,24}i7-3", bytes(data), re.DOTALL))
    assert found
    for place in found:
        data[place.start() + 3] = 8
    (tmp_path / "store.db").write_bytes(data)
    assert outcome(tmp_path, number, golden) == "part"


def test_a_truncated_database_is_found(tmp_path: Path) -> None:
    number, golden = larger(tmp_path / "golden")
    data = (tmp_path / "golden" / "store.db").read_bytes()
    for n in range(12):
        folder = tmp_path / f"cut{n}"
        shutil.copytree(tmp_path / "golden", folder)
        (folder / "store.db").write_bytes(data[: len(data) * n // 12])
        assert outcome(folder, number, golden) == "refused"


def outcome(folder: Path, number: int, golden: dict[str, object]) -> str:
    """Return what became of it: "same", "part", "refused"; fail if anything else is answered."""
    try:
        store = Store.open(folder)
    except (DataLoss, FailedPrecondition):
        return "refused"
    try:
        store.look_for_damage(number)
        seen = contents(store, number)
        for lost in golden.keys() - seen.keys():
            with pytest.raises(DataLoss, match=lost):
                store.get(number, lost, View.ID)
    except DataLoss:
        return "refused"
    finally:
        store.close()
    assert seen == {item_id: golden[item_id] for item_id in seen}
    return "same" if len(seen) == len(golden) else "part"


def test_a_damaged_log_is_refused_not_cut_in_silence(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    store = Store.open(tmp_path / "live")
    number = create(store).number
    for n in range(30):
        put(store, number, [item(f"i{n}", n)])
    shutil.copytree(tmp_path / "live", tmp_path / "killed")  # as a kill would leave it
    store.close()
    log = (tmp_path / "killed" / "store.db-wal").read_bytes()
    assert len(log) > 30 * 8192
    for n in range(8):
        folder = tmp_path / f"n{n}"
        shutil.copytree(tmp_path / "killed", folder)
        (folder / "store.db-shm").unlink()
        if n == 0:
            good = Store.open(folder)
            assert good.count(number, Filter()) == 30
            good.close()
            continue
        harmed = bytearray(log)
        harmed[rng.randrange(len(log) // 2)] ^= 1 << rng.randrange(8)
        (folder / "store.db-wal").write_bytes(harmed)
        if n == 7:
            (folder / "store.db-wal").unlink()
        with pytest.raises(DataLoss, match="acknowledged"):
            Store.open(folder)
