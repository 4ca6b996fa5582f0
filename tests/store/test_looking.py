"""Looking for damage when collections are opened: each row is read, by SQLite's own sums."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lookalike.server.domain import View
from lookalike.server.store import Store
from lookalike.server.store._checking import doubtful
from store.making import create, item, put

CHANGES = (
    "metadata = replace(metadata, 'hello', 'hellp')",
    "metadata = '{'",
    "digest = CAST(x'00' || substr(digest, 2) AS BLOB)",
    "sha256 = NULL",
    "first_key = 1",
    "width = 641",
    "width = NULL",
    "height = CAST(height AS TEXT) || '0'",
    "media_type = 'image/bmp'",
    "size_bytes = size_bytes + 1",
    "kept = kept + 1",
    "create_us = create_us + 1",
    "seq = seq + 1",
    "crc = crc + 1",
    "id = 'bae'",
)


def prepared(folder: Path) -> int:
    store = Store.open(folder)
    number = create(store, "shop").number
    strange = {"words": "grün\u0000 \u2028 'x'", "list": [1.0, None, True], "": {}}
    put(
        store,
        number,
        [
            item("aaa", 1.0),
            item("bad", 2.0, {"word": "hello"}, thumbnail=b"t", original=b"o"),
            item("grün\x00日本", 3.0, strange, original=b""),
            item("'; --", 4.0, {}, thumbnail=b"t"),
        ],
    )
    store.close()
    return number


def test_no_sound_row_is_doubted(tmp_path: Path) -> None:
    number = prepared(tmp_path)
    store = Store.open(tmp_path)
    keys = store.keys(number).tolist()
    assert len(store.fetch(keys, View.BASIC)) == 4
    assert doubtful(store._read, keys) == []
    assert doubtful(store._read, [*keys, 99]) == []
    store.look_for_damage(number)
    assert not store.damaged.keys(number)
    store.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_row_is_noted(tmp_path: Path, change: str) -> None:
    number = prepared(tmp_path)
    db = sqlite3.connect(tmp_path / "store.db")
    db.execute(f"UPDATE items SET {change} WHERE id = 'bad'")
    db.commit()
    db.close()
    store = Store.open(tmp_path)
    store.look_for_damage(number)
    assert set(store.damaged.keys(number)) == {2}
    store.close()
