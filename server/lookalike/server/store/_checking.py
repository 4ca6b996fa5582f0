"""Reads everything that is stored and compares it with its checksums, a little at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import apsw
import numpy as np

from lookalike.backends.errors import DataLoss
from lookalike.server.store._configs import COLLECTION, to_collection
from lookalike.server.store._rows import (
    COLUMNS,
    FULL_COLUMNS,
    ORIGINAL,
    SUMMED,
    THUMBNAIL,
    VECTOR_JOIN,
    Row,
    image_crc,
    is_sound,
    name_of,
)

Read = Callable[..., list[Row]]

_TABLES: Final = ("meta", "collections", "items", "vectors", "jobs")
"""Pictures are not among them: each is read on its own, with its item."""
_TYPES: Final = frozenset({"blobblob", "blobnull"})
"""Of the digests of a sound row."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in the store that does not fit; `what` is "item", "vector" or "image"."""

    what: str
    key: int
    item_id: str
    message: str


def check_database(read: Read) -> Iterator[str | None]:
    """Yield what is wrong with tables, indexes and collections; None after each step."""
    for table in _TABLES:
        try:
            found = [str(text) for (text,) in read(f"PRAGMA integrity_check({table})")]
        except DataLoss as error:
            found = [error.message]
        yield from [f"the table {table}: {text}" for text in found if text != "ok"]
        yield None
    try:
        for _, rowid, _, _ in read("PRAGMA foreign_key_check(items)"):
            yield f"the item with the key {rowid} belongs to no collection"
        for row in read(f"SELECT {COLLECTION} FROM collections"):
            to_collection(row)
    except DataLoss as error:
        yield error.message


def doubtful(read: Read, keys: Sequence[int]) -> list[int]:
    """Return the keys whose rows, without vectors, may not fit their checksums; 2 us each."""
    rows = read(
        f"SELECT i.key, CAST({SUMMED} AS BLOB), i.crc, typeof(i.digest) || typeof(i.sha256) "
        "FROM carray(?) AS wanted CROSS JOIN items AS i ON i.key = wanted.value",
        apsw.carray(np.asarray(keys, np.int64)),
    )
    return [
        key
        for key, data, crc, types in rows
        if data is None or crc32(data) != crc or types not in _TYPES
    ]


def check_items(read: Read, number: int, keys: Sequence[int]) -> list[Fault]:
    """Read items with vectors and pictures; those that are gone meanwhile are passed over."""
    faults: list[Fault] = []
    for key in keys:
        try:
            rows = read(f"SELECT {FULL_COLUMNS} FROM items AS i {VECTOR_JOIN} WHERE i.key = ?", key)
            faults += _check_item(read, rows[0]) if rows and rows[0][1] == number else []
        except DataLoss as error:
            faults.append(_unreadable(read, key, error))
    return faults


def _unreadable(read: Read, key: int, error: DataLoss) -> Fault:
    """Say what of an item cannot be read: its row, or only its vector or a picture."""
    try:
        rows = read(f"SELECT {COLUMNS} FROM items AS i WHERE i.key = ?", key)
    except DataLoss:
        return Fault("item", key, "", "its row cannot be read")
    item_id = name_of(rows[0])[0] if rows else ""
    try:
        read("SELECT vector FROM vectors WHERE key = ?", key)
    except DataLoss:
        return Fault("vector", key, item_id, "its vector cannot be read")
    return Fault("image", key, item_id, "a picture of it cannot be read")


def _check_item(read: Read, row: Row) -> list[Fault]:
    key, (item_id,) = row[0], name_of(row)
    if not is_sound(row[:16]):
        return [Fault("item", key, item_id, "its row does not fit its checksum")]
    faults: list[Fault] = []
    if not is_sound(row):
        gone = row[16] is None
        text = "its vector is gone" if gone else "its vector does not fit its checksum"
        faults.append(Fault("vector", key, item_id, text))
    for bit, table, name in ((THUMBNAIL, "thumbnails", "thumbnail"), (ORIGINAL, "originals", "original file")):  # fmt: skip
        if (row[11] or 0) & bit and (wrong := _check_picture(read, row, table)):
            faults.append(Fault("image", key, item_id, f"its {name} {wrong}"))
    return faults


def _check_picture(read: Read, row: Row, table: str) -> str:
    first_key, size, sha256 = row[2], row[9], row[10]
    rows = read(
        f"SELECT CAST(media_type AS BLOB), data, crc FROM {table} WHERE first_key = ?", first_key
    )
    if not rows:
        # The item may have been deleted or replaced since its row was read.
        left = read("SELECT first_key FROM items WHERE key = ? AND seq = ?", row[0], row[14])
        return "is gone" if left else ""
    media_type, data, crc = rows[0]
    if not isinstance(data, bytes) or image_crc(first_key, media_type, data) != crc:
        return "does not fit its checksum"
    if table == "originals" and (len(data) != size or hashlib.sha256(data).digest() != sha256):
        left = read("SELECT first_key FROM items WHERE key = ? AND seq = ?", row[0], row[14])
        return "is another file than the one that was stored" if left else ""
    return ""
