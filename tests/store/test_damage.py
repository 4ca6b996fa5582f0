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

READS: list[Callable[[Store, int], object]] = [
    lambda store, number: store.get(number, "bad", View.FULL),
    lambda store, number: store.fetch(store.keys(number).tolist(), View.FULL),
    lambda store, number: store.list(number, Filter(), "", 10, View.FULL),
]


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
    for read in READS:
        with pytest.raises(DataLoss) as caught:
            read(store, number)
        assert caught.value.metadata == {"id": "bad", "collection": "shop"}
        assert '"bad"' in caught.value.message
        assert str(tmp_path) not in caught.value.message
    for view in View:
        with pytest.raises(DataLoss):
            store.get(number, "bad", view)
        assert store.get(number, "aaa", view) is not None
    assert store.digest(number, "bad") is None
    with pytest.raises(DataLoss):
        do(store, lambda t: t.update_metadata(number, "bad", {"y": 1.0}, new_digest, False))
    keys = store.keys(number)
    with pytest.raises(DataLoss):
        do(store, lambda t: t.replace_vectors(number, keys, np.ones((3, 4), np.float32), "s"))
    store.close()


@pytest.mark.parametrize(
    "change",
    ["vector = CAST(x'01' || substr(vector, 2) AS BLOB)", "vector = x'00'", "crc = 1 - crc"],
)
def test_a_damaged_vector_is_found(tmp_path: Path, change: str) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, f"UPDATE vectors SET {change} WHERE key = 2")
    store = Store.open(tmp_path)
    reads: list[Callable[[Store, int], object]] = [
        *READS,
        lambda s, n: s.vectors(n, s.keys(n)),
        lambda s, n: s.vectors(n, s.keys(n)[1:2]),
    ]
    for read in reads:
        with pytest.raises(DataLoss) as caught:
            read(store, number)
        assert caught.value.metadata == {"id": "bad", "collection": "shop"}
    assert store.get(number, "bad", View.BASIC) is not None
    assert len(store.vectors(number, np.array([1, 3]))) == 2
    store.close()


def test_vectors_that_changed_places_or_are_gone_are_found(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "gone")
    harm(tmp_path, "UPDATE vectors SET vector = (SELECT vector FROM vectors WHERE key = 3), "
        "crc = (SELECT crc FROM vectors WHERE key = 3) WHERE key = 2")  # fmt: skip
    harm(tmp_path / "gone", "DELETE FROM vectors WHERE key = 2")
    for folder in (tmp_path, tmp_path / "gone"):
        store = Store.open(folder)
        with pytest.raises(DataLoss):
            store.vectors(number, store.keys(number))
        with pytest.raises(DataLoss):
            store.get(number, "bad", View.FULL)
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


def test_metadata_that_is_no_json_makes_filters_fail_not_lie(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    harm(tmp_path, "UPDATE items SET metadata = '{\"x\": 5' WHERE id = 'bad'")
    store = Store.open(tmp_path)
    where = Filter((Condition("x", Test.GT, 0.0),))
    for read in (store.count, store.select_keys):
        with pytest.raises(DataLoss):
            read(number, where)
    with pytest.raises(DataLoss):
        do(store, lambda t: t.delete_where(number, where))
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


def contents(store: Store, number: int) -> object:
    items = store.list(number, Filter(), "", 1000, View.FULL)
    pictures = [store.image(f.key, o) for f in items for o in (True, False)]
    vectors = store.vectors(number, store.keys(number))
    return (
        [(f.id, f.metadata, f.image, f.create_time, f.vector.tolist()) for f in items
         if f.vector is not None],
        pictures,
        vectors.tolist(),
        store.collections(),
    )  # fmt: skip


def larger(directory: Path) -> tuple[int, object]:
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
        found += not same_or_refused(folder, number, golden)
        shutil.rmtree(folder)
    print("found", found, "of 60")
    assert found > 5


def test_an_id_that_is_damaged_in_its_index_is_found_or_mended(tmp_path: Path) -> None:
    number, golden = larger(tmp_path / "golden")
    data = (tmp_path / "golden" / "store.db").read_bytes()
    places = [at for at in range(len(data)) if data.startswith(b"i7-3", at)]
    assert len(places) >= 2  # in the table and in the index
    same = []
    for at in places:
        folder = tmp_path / f"at{at}"
        shutil.copytree(tmp_path / "golden", folder)
        (folder / "store.db").write_bytes(data[:at] + b"x" + data[at + 1 :])
        same.append(same_or_refused(folder, number, golden))
    assert True in same  # the index was built anew
    assert False in same  # the table cannot be


def test_an_index_is_not_mended_from_a_damaged_row(tmp_path: Path) -> None:
    number, golden = larger(tmp_path)
    data = bytearray((tmp_path / "store.db").read_bytes())
    # The header of the row's record: the type of `collection`, the constant 1, becomes 0.
    # (There may be old copies of the row on free pages.)
    found = list(re.finditer(rb"\x11\x00[\x01\x02]\x09.{0,24}i7-3", bytes(data), re.DOTALL))
    assert found
    for place in found:
        data[place.start() + 3] = 8
    (tmp_path / "store.db").write_bytes(data)
    assert not same_or_refused(tmp_path, number, golden)


def test_a_truncated_database_is_found(tmp_path: Path) -> None:
    number, golden = larger(tmp_path / "golden")
    data = (tmp_path / "golden" / "store.db").read_bytes()
    for n in range(12):
        folder = tmp_path / f"cut{n}"
        shutil.copytree(tmp_path / "golden", folder)
        (folder / "store.db").write_bytes(data[: len(data) * n // 12])
        assert not same_or_refused(folder, number, golden)


def same_or_refused(folder: Path, number: int, golden: object) -> bool:
    """Return whether all is as it was; fail if anything else is answered."""
    try:
        store = Store.open(folder)
    except (DataLoss, FailedPrecondition):
        return False
    try:
        seen = contents(store, number)
    except DataLoss:
        return False
    finally:
        store.close()
    assert seen == golden
    return True


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
