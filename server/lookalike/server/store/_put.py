"""Storing items: what it does to each id is thought through before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apsw
import numpy as np

from lookalike.backends.errors import DimensionMismatch, InvalidArgument, ItemExists, LookalikeError
from lookalike.server.domain import Outcome, ReadyItem, WriteMode, WriteResult
from lookalike.server.store._rows import (
    Row,
    encode_metadata,
    image_crc,
    is_sound,
    picture_columns,
    row_crc,
    vector_bytes,
    vector_crc,
)

_INSERT_ITEM = """
    INSERT INTO items (key, collection, first_key, id, metadata, digest, width, height,
        media_type, size_bytes, sha256, kept, create_us, update_us, seq, crc)
    VALUES (?, ?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, CAST(? AS TEXT), ?, ?, ?,
        ?, ?, ?, ?)"""
UPDATE_ITEM = """
    UPDATE items SET key = ?1, first_key = ?3, metadata = CAST(?5 AS TEXT), digest = ?6,
        width = ?7, height = ?8, media_type = CAST(?9 AS TEXT), size_bytes = ?10, sha256 = ?11,
        kept = ?12, create_us = ?13, update_us = ?14, seq = ?15, crc = ?16
    WHERE key = ?17 AND collection = ?2 AND id = CAST(?4 AS TEXT)"""
INSERT_VECTOR = "INSERT INTO vectors (key, vector, crc) VALUES (?, ?, ?)"
# Many rows in one statement, each row one blob with its numbers in front as decimal digits.
# SQLite takes them without the interpreter's lock; `executemany` takes and drops that lock
# for each row, which costs nothing alone but holds up every search meanwhile.
_INSERT_PLAIN_ITEMS = """
    INSERT INTO items (key, collection, first_key, id, metadata, digest, create_us, update_us,
        seq, crc)
    SELECT key, ?2, key, CAST(substr(row, ids, metadatas - ids) AS TEXT),
        CAST(substr(row, metadatas) AS TEXT), substr(row, 51, ids - 51), ?3, ?3, ?4, crc
    FROM (SELECT value AS row, CAST(substr(value, 1, 20) AS INTEGER) AS key,
        CAST(substr(value, 21, 10) AS INTEGER) AS crc,
        CAST(substr(value, 31, 10) AS INTEGER) AS ids,
        CAST(substr(value, 41, 10) AS INTEGER) AS metadatas FROM carray(?1))"""
_INSERT_VECTORS = """
    INSERT INTO vectors (key, vector, crc)
    SELECT CAST(substr(row, 1, 20) AS INTEGER), substr(row, 31),
        CAST(substr(row, 21, 10) AS INTEGER)
    FROM (SELECT value AS row FROM carray(?))"""


@dataclass(slots=True)
class Standing:
    """Where an id stands: as it is stored, or as it will be."""

    key: int
    first_key: int
    digest: bytes
    vector: bytes
    create_us: int
    stored_key: int
    """Key of the row that is there and stays in use; 0 if there is none."""
    damaged_key: int = 0
    """Key of a damaged row, which is worth nothing: whatever comes takes its place."""
    item: ReadyItem | None = None
    """What is to be written; None if nothing."""
    metadata: str = ""
    picture: Row = ()


def stored(row: Sequence[Any]) -> Standing:
    """Return the standing of a row of FULL_COLUMNS."""
    key = row[0]
    if not is_sound(row):
        return Standing(key, key, b"", b"", 0, stored_key=0, damaged_key=key)
    return Standing(key, row[2], row[5], row[16], row[12], stored_key=key)


@dataclass(slots=True)
class Plan:
    """One call's items, taken one after the other as if each were a call."""

    mode: WriteMode
    dimension: int
    """Numbers of a vector; 0 if not known."""
    now_us: int
    next_key: int
    standings: dict[str, Standing]
    """By id; at first those that are stored."""

    def take(self, item: ReadyItem) -> WriteResult:
        """Decide about the next item; faults of the item are in the result."""
        try:
            metadata, vector = encode_metadata(item.metadata), self._vector(item)
            picture = self._picture(item)
        except LookalikeError as error:
            return WriteResult(item.id, Outcome.FAILED, error)
        old = self.standings.get(item.id)
        if old is not None:
            if self.mode is WriteMode.SKIP_EXISTING:
                return WriteResult(item.id, Outcome.SKIPPED)
            if old.digest == item.digest:
                return WriteResult(item.id, Outcome.UNCHANGED)
            if self.mode is WriteMode.CREATE_ONLY:
                return WriteResult(item.id, Outcome.FAILED, _exists(item.id))
        standing = self._standing(old, item.digest, vector)
        standing.item, standing.metadata, standing.picture = item, metadata, picture
        self.standings[item.id] = standing
        return WriteResult(item.id, Outcome.CREATED if old is None else Outcome.UPDATED)

    def _standing(self, old: Standing | None, digest: bytes, vector: bytes) -> Standing:
        """Return a new standing; what `old` was stays as it is."""
        if old is not None and old.vector == vector:
            return replace(old, digest=digest)
        key, self.next_key = self.next_key, self.next_key + 1
        if old is None or not old.vector:
            damaged_key = old.damaged_key if old is not None else 0
            return Standing(key, key, digest, vector, self.now_us, 0, damaged_key)
        return replace(old, key=key, digest=digest, vector=vector)

    def _vector(self, item: ReadyItem) -> bytes:
        if item.vector.ndim != 1 or (self.dimension and len(item.vector) != self.dimension):
            raise DimensionMismatch(
                f"The vector has {item.vector.size} numbers; the collection has {self.dimension}.",
                field="vector",
                expected=self.dimension,
                actual=item.vector.size,
            )
        return vector_bytes(item.vector)

    def _picture(self, item: ReadyItem) -> Row:
        try:
            return picture_columns(item)
        except ValueError as error:
            raise InvalidArgument(
                "The SHA-256 of the image is not 64 hex digits.", field="image"
            ) from error


def changed(standings: Mapping[str, Standing]) -> Sequence[Standing]:
    """Return those that are to be written, by rising key."""
    return sorted((s for s in standings.values() if s.item is not None), key=lambda s: s.key)


def erase(db: apsw.Connection, keys: Iterable[int]) -> None:
    """Delete items by key, with all that belongs to them."""
    array = apsw.carray(np.fromiter(keys, np.int64))
    db.execute("DELETE FROM items WHERE key IN (SELECT value FROM carray(?))", (array,))


def write(
    db: apsw.Connection, number: int, standings: Sequence[Standing], now_us: int, seq: int
) -> int:
    """Write what a plan came to; return about how many bytes that was."""
    if gone := [s.damaged_key for s in standings if s.damaged_key]:
        erase(db, gone)
    if updates := [
        (*_row(number, s, now_us, seq), s.stored_key) for s in standings if s.stored_key
    ]:
        db.executemany(UPDATE_ITEM, updates)
        pictured = [(s.first_key,) for s in standings if s.stored_key]
        db.executemany("DELETE FROM thumbnails WHERE first_key = ?", pictured)
        db.executemany("DELETE FROM originals WHERE first_key = ?", pictured)
    moved = [s for s in standings if s.key != s.stored_key]
    left = [(s.stored_key,) for s in moved if s.stored_key]
    db.executemany("DELETE FROM vectors WHERE key = ?", left)
    _insert_items(db, number, [s for s in standings if not s.stored_key], now_us, seq)
    packed = tuple(b"%020d%010d%b" % (s.key, vector_crc(s.key, s.vector), s.vector) for s in moved)
    if packed:
        db.execute(_INSERT_VECTORS, (apsw.carray(packed),))
    written = sum(len(s.vector) + len(s.metadata) for s in standings)
    return written + _write_pictures(db, standings)


def _insert_items(
    db: apsw.Connection, number: int, fresh: Sequence[Standing], now_us: int, seq: int
) -> None:
    plain: list[bytes] = []
    others: list[Row] = []
    plain_columns = (None,) * 6 + (now_us,)
    for standing in fresh:
        row = _row(number, standing, now_us, seq)
        key, item_id, metadata, digest, crc = row[0], row[3], row[4], row[5], row[15]
        if row[6:13] != plain_columns or standing.first_key != key:
            others.append(row)
            continue
        ids = 51 + len(digest)
        plain.append(
            b"%020d%010d%010d%010d%b%b%b"
            % (key, crc, ids, ids + len(item_id), digest, item_id, metadata)
        )
    if plain:
        db.execute(_INSERT_PLAIN_ITEMS, (apsw.carray(tuple(plain)), number, now_us, seq))
    db.executemany(_INSERT_ITEM, others)


def _row(number: int, standing: Standing, now_us: int, seq: int) -> Row:
    assert standing.item is not None
    row: Row = (
        standing.key,
        number,
        standing.first_key,
        standing.item.id.encode(),
        standing.metadata.encode(),
        standing.digest,
        *standing.picture,
        standing.create_us,
        now_us,
        seq,
    )
    return (*row, row_crc(row))


def _write_pictures(db: apsw.Connection, standings: Sequence[Standing]) -> int:
    thumbnails, originals = [], []
    for standing in standings:
        item, key = standing.item, standing.first_key
        if item is None or item.image is None:
            continue
        if item.thumbnail is not None:
            thumbnails.append(_picture_row(key, "image/jpeg", item.thumbnail))
        if item.original is not None:
            originals.append(_picture_row(key, item.image.media_type, item.original))
    for table, rows in (("thumbnails", thumbnails), ("originals", originals)):
        db.executemany(
            f"INSERT INTO {table} (first_key, media_type, crc, data) VALUES (?, ?, ?, ?)", rows
        )
    return sum(len(row[3]) for row in (*thumbnails, *originals))


def _picture_row(key: int, media_type: str, data: bytes) -> tuple[int, str, int, bytes]:
    return key, media_type, image_crc(key, media_type.encode(), data), data


def _exists(item_id: str) -> ItemExists:
    return ItemExists(
        f'There is an item "{item_id}" already; nothing was stored. '
        "Choose another id, or let it be replaced.",
        field="id",
        id=item_id,
    )
