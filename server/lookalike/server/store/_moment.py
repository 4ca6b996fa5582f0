"""The store as it was after one commit, for those who read all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from lookalike.backends.errors import ResourceExhausted
from lookalike.server.domain import CollectionRecord, Filter, Item, StoredImage, View
from lookalike.server.store import _backup
from lookalike.server.store._configs import COLLECTION, to_collection
from lookalike.server.store._connect import read_meta
from lookalike.server.store._filters import json_path, of_collection, to_sql
from lookalike.server.store._rows import (
    FULL_COLUMNS,
    ORIGINAL,
    THUMBNAIL,
    VECTOR_JOIN,
    damaged,
    image_crc,
    is_sound,
    to_item,
)
from lookalike.server.store._table import Cells

_CELL_ROWS = 4096
MOST_LOG_BYTES = 2**30
"""The log of a store grows while a moment is held; one that is held longer is let go."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An item with all that the store has of it; `item.vector` is set."""

    item: Item
    digest: bytes
    thumbnail: bytes | None
    original: StoredImage | None


class Moment:
    """One state of the store. One thread at a time, and only until it is let go.

    What it reads does not change, however much is written meanwhile. Methods raise
    DataLoss for damage, and ResourceExhausted when the log has grown too much.
    """

    def __init__(self, db: apsw.Connection, path: Path, vfs: str | None) -> None:
        self._db = db
        self._vfs = vfs
        self._log = path.with_name(path.name + "-wal")
        self._log_before = self._log_bytes()
        meta = read_meta(db)
        self.uuid, self.seq = meta.uuid, meta.seq
        self.format_version = int(db.pragma("user_version"))
        self.size_bytes = int(db.pragma("page_count")) * int(db.pragma("page_size"))

    def copy_to(self, path: Path, pause: Callable[[float], None]) -> None:
        """Copy the database into a new file; see `_backup.copy`."""
        _backup.copy(self._db, path, self._vfs, pause)

    def collection(self, number: int) -> CollectionRecord | None:
        """Return a collection as it was; None if there was none of this number."""
        sql = f"SELECT {COLLECTION} FROM collections WHERE number = ?"
        rows = self._db.execute(sql, (number,)).fetchall()
        return to_collection(rows[0]) if rows else None

    def count(self, number: int, where: Filter) -> int:
        """Count the items that pass. Raises FilterInvalid."""
        params: list[Any] = []
        passes = to_sql(where, params)
        sql = f"SELECT count(*) FROM items AS i WHERE {of_collection(number, where)} AND {passes}"
        rows: list[Any] = self._db.execute(sql, params).fetchall()
        return int(rows[0][0])

    def cells(self, number: int, fields: Sequence[str]) -> Iterator[Cells]:
        """Yield times and some fields of all items, by key; see `Table`."""
        paths = [json_path(field) for field in fields]
        chosen = "".join(
            f", json_type(metadata, ?{i}), json_extract(metadata, ?{i})"
            for i in range(3, len(paths) + 3)
        )
        sql = (
            f"SELECT key, create_us, update_us{chosen} FROM items "
            f"WHERE collection = {number:d} AND key > ?1 ORDER BY key LIMIT ?2"
        )
        after: Any = -1
        while rows := self._db.execute(sql, (after, _CELL_ROWS, *paths)).fetchall():
            yield Cells.of_rows(rows, fields)
            after = rows[-1][0]

    def items(
        self, record: CollectionRecord, where: Filter, *, images: bool, at_once: int
    ) -> Iterator[Exported]:
        """Iterate over the items that pass, by id; `at_once` are in memory, without pictures."""
        after = ""
        while rows := self._page(record.number, where, after, at_once):
            for row in rows:
                yield self._exported(row, record.config.name, images)
            after = rows[-1][3].decode("utf-8")

    def _page(
        self, number: int, where: Filter, after: str, count: int
    ) -> Sequence[tuple[Any, ...]]:
        if self._log_bytes() > self._log_before + MOST_LOG_BYTES:
            raise ResourceExhausted(
                "More was written meanwhile than the server keeps aside for one reader. Read "
                "faster, take less at once with a filter, or make a backup."
            )
        params: list[Any] = [after, count]
        passes = to_sql(where, params)
        return self._db.execute(
            f"SELECT {FULL_COLUMNS} FROM items AS i {VECTOR_JOIN} WHERE i.collection = {number:d} "
            f"AND i.id > ?1 AND {passes} ORDER BY i.collection, i.id LIMIT ?2",
            params,
        ).fetchall()

    def _log_bytes(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _exported(self, row: tuple[Any, ...], collection: str, images: bool) -> Exported:
        if not is_sound(row):
            raise damaged(bytes(row[3] or b"").decode("utf-8", "replace"), collection)
        item, kept, first_key = to_item(row, View.FULL), row[11] or 0, row[2]
        thumbnail = original = None
        if images and kept & THUMBNAIL:
            thumbnail = self._image("thumbnails", first_key, item.id, collection).data
        if images and kept & ORIGINAL:
            original = self._image("originals", first_key, item.id, collection)
        return Exported(item, row[5], thumbnail, original)

    def _image(self, table: str, first_key: int, item_id: str, collection: str) -> StoredImage:
        rows: list[Any] = self._db.execute(
            f"SELECT CAST(media_type AS BLOB), data, crc FROM {table} WHERE first_key = ?",
            (first_key,),
        ).fetchall()
        if rows:
            media_type, data, crc = rows[0]
            if isinstance(data, bytes) and image_crc(first_key, media_type, data) == crc:
                return StoredImage(media_type.decode("utf-8"), data)
        raise damaged(item_id, collection)


@contextmanager
def hold(db: apsw.Connection, path: Path, vfs: str | None) -> Iterator[Moment]:
    """Hold on to the present state of a connection that reads."""
    db.execute("BEGIN")
    try:
        yield Moment(db, path, vfs)
    finally:
        if db.in_transaction:  # an error of the disk may have ended it
            db.execute("ROLLBACK")
