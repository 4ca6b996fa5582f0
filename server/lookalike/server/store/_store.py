"""The store: what was acknowledged, as it is on the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar
from uuid import UUID

import apsw
import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import DataLoss
from lookalike.backends.files import Files
from lookalike.backends.types import Changes, Keys, Vectors
from lookalike.server.domain import CollectionRecord, Filter, Item, Job, StoredImage, View
from lookalike.server.store._changes import ChangeLog
from lookalike.server.store._checking import Fault, check_database, check_items, doubtful
from lookalike.server.store._configs import COLLECTION, to_collection, to_job
from lookalike.server.store._connect import (
    Readers,
    check_sqlite,
    lock,
    migrations,
    open_reader,
    open_writer,
    read_meta,
)
from lookalike.server.store._damage import DamagedItems
from lookalike.server.store._facets import ValueCounts
from lookalike.server.store._filters import to_sql
from lookalike.server.store._mark import Mark
from lookalike.server.store._mending import Found, mend_indexes
from lookalike.server.store._moment import Moment, hold
from lookalike.server.store._opening import check_files, check_mark, database
from lookalike.server.store._room import Room
from lookalike.server.store._rows import (
    COLUMNS,
    FULL_COLUMNS,
    ORIGINAL,
    THUMBNAIL,
    VECTOR_JOIN,
    Row,
    damaged,
    image_crc,
    is_sound,
    micros,
    name_of,
    to_item,
)
from lookalike.server.store._selection import Selection
from lookalike.server.store._tables import Tables
from lookalike.server.store._transaction import Transaction
from lookalike.server.store._vectors import find_damaged, read_block
from lookalike.server.store._wal import fold_log, log_of
from lookalike.server.store._writer import Writer

T = TypeVar("T")
# `list` is a method of Store, which hides the type from its annotations.
Items: TypeAlias = list[Item]
Rows: TypeAlias = list[Row]
Collections: TypeAlias = list[CollectionRecord]
JobList: TypeAlias = list[Job]
Params: TypeAlias = list[Any]
Numbers: TypeAlias = list[int]
Faults: TypeAlias = list[Fault]

_VECTOR_CHUNK_BYTES = 8 * 2**20
_ROWS_AT_ONCE = 1024


class Store:
    """Collections, items, vectors, pictures and jobs in one SQLite database.

    Writes are operations on a Transaction, run by the store's one writer thread in
    the order they were given and durable when their Future is done. Reads run on
    any thread, each sees one state, and every row that is read is compared with
    its checksum. A damaged item is as if it were not there, but for `get` and `image`,
    which raise DataLoss; so do all reads where the database itself is damaged.
    """

    def __init__(
        self,
        directory: Path,
        lock_file: int,
        db: apsw.Connection,
        clock: Callable[[], float],
        vfs: str | None,
        files: Files | None = None,
        found: Found | None = None,
    ) -> None:
        self.directory, self.read_only = directory, False
        self.listener: Callable[[int, Mapping[int, Changes]], None] | None = None
        """Called with (seq, {collection number: Changes}) after each commit that changed
        collections or items, on the writer thread, before the Futures of that commit
        are done. What it raises is logged, no more: the commit stands."""
        self.damaged = DamagedItems()
        for number, items in (found or {}).items():
            self.damaged.note(number, items)
        self._lock_file = lock_file
        self._closed = False
        self._vfs, path = vfs, database(directory)
        meta = read_meta(db)
        self.uuid = meta.uuid
        self._mark = Mark(directory / "mark", UUID(self.uuid).bytes, files)
        try:
            check_mark(self._mark, meta.seq)
        except BaseException:
            self._mark.close()
            raise
        fold_log(db, log_of(path), self._mark)
        self._readers = Readers(lambda: open_reader(path, vfs))
        self._tables = Tables(self.moment)
        self._selection = Selection(self._read, self.damaged, self._tables)
        room = Room(directory, db, files)
        self._writer = Writer(db, meta, self._mark, clock, self._deliver, room)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        clock: Callable[[], float] = time.time,
        vfs: str | None = None,
        files: Files | None = None,
    ) -> Self:
        """Open the store of a data folder, made if there is none; `vfs` as SQLite names it.

        Raises FailedPrecondition (another server has it, newer format, not writable)
        and DataLoss (damaged, or behind what was acknowledged).
        """
        check_sqlite()
        lock_file = lock(directory, files)
        reach("store.lock.taken")
        try:
            check_files(directory)
            db = open_writer(database(directory), vfs, migrations(), micros(clock()), files)
            reach("store.open.checked")
            try:
                return cls(directory, lock_file, db, clock, vfs, files, mend_indexes(db))
            except BaseException:
                db.close()
                raise
        except BaseException:
            os.close(lock_file)
            raise

    def close(self) -> None:
        """Finish the writes that are queued, wait for reads, release the data folder."""
        if self._closed:
            return
        self._closed = True
        # Writes first: the listener may read while they end.
        self._writer.finish()
        self._tables.close()
        self._readers.close()
        reach("store.close.before")
        self._writer.close()
        self._mark.close()
        os.close(self._lock_file)

    def seq(self) -> int:
        """Return the number of the last commit that changed collections or items."""
        return self._writer.seq

    def write(self, op: Callable[[Transaction], T]) -> Future[T]:
        """Have an operation run and committed; its Future is done when that is durable.

        Any thread. An operation that raises is undone alone, and its Future raises the
        same. The Future raises DiskFull (try again later), DataLoss (the disk failed;
        reads go on), Unavailable (closed). The queue has no bound of its own.
        """
        return self._writer.submit(op)

    # ------------------------------------------------------------------ reads

    def collections(self) -> Collections:
        """Return all collections by number."""
        rows = self._read(f"SELECT {COLLECTION} FROM collections ORDER BY number")
        return [to_collection(row) for row in rows]

    def get(self, number: int, item_id: str, view: View) -> Item | None:
        """Return an item; None if there is none. Raises DataLoss if it is damaged."""
        source, condition = "items AS i", "i.collection = ? AND i.id = ?"
        if items := self._items(source, condition, (number, item_id), view, number):
            return items[0]
        if self.damaged.keys_named(number, (item_id,)):
            raise damaged(item_id, self._name(number))
        return None

    def digest(self, number: int, item_id: str) -> bytes | None:
        """Return an item's digest; None if there is none, or if the item is damaged.

        Storing a damaged item anew replaces it.
        """
        rows = self._read(
            f"SELECT {FULL_COLUMNS} FROM items AS i {VECTOR_JOIN} "
            "WHERE i.collection = ? AND i.id = ?",
            number,
            item_id,
        )
        return rows[0][5] if rows and is_sound(rows[0]) else None

    def fetch(self, keys: Sequence[int], view: View, number: int | None = None) -> dict[int, Item]:
        """Return items by key; those that are gone or damaged are missing.

        `number` is that of their collection, which a damaged row may not know any more.
        """
        if not len(keys):
            return {}
        wanted = apsw.carray(np.asarray(keys, np.int64))
        source = "carray(?) AS wanted CROSS JOIN items AS i ON i.key = wanted.value"
        return {item.key: item for item in self._items(source, "1", (wanted,), view, number)}

    def list(self, number: int, where: Filter, after_id: str, count: int, view: View) -> Items:
        """Return at most `count` items that pass, by id in byte order, behind `after_id`."""
        while True:
            params: list[Any] = [after_id, count]
            passes = to_sql(where, params)
            left_out = self.damaged.but(number)
            condition = (  # in order of the ids, so that a page costs no more than it shows
                f"i.collection = {number:d} AND i.id > ?1{left_out} AND {passes} "
                "ORDER BY i.collection, i.id LIMIT ?2"
            )
            items = self._items("items AS i", condition, params, view, number)
            if self.damaged.but(number) == left_out:  # else a full page has become short
                return items

    def count(self, number: int, where: Filter) -> int:
        """Count the items that pass. Raises FilterInvalid."""
        return self._selection.count(number, where)

    def count_values(self, number: int, where: Filter, field: str, count: int) -> ValueCounts:
        """Count the values of a field over the items that pass; the `count` most frequent.

        Equal counts by value: booleans, then numbers, then texts. Raises FilterInvalid.
        """
        return self._selection.count_values(number, where, field, count)

    def select_keys(self, number: int, where: Filter) -> Keys:
        """Return the keys of the items that pass, rising. Raises FilterInvalid.

        Where the fields of the filter are in memory, it is the same array for the same
        filter until something changes, and not to be written to.
        """
        return self._selection.keys(number, where)

    def keys(self, number: int) -> Keys:
        """Return the keys of all items, rising."""
        return self.select_keys(number, Filter())

    def vectors(self, number: int, keys: Keys) -> Vectors:
        """Return (len(keys), dim) float32 in the order of `keys`, verified.

        Raises KeyError if a key is not in the collection (any more) or its item is
        damaged, DataLoss.
        """
        dim = self._dimension(number)
        step = max(1, _VECTOR_CHUNK_BYTES // (4 * max(dim, 1)))
        wanted = np.ascontiguousarray(keys, np.int64)
        if not len(wanted):
            return np.zeros((0, dim), np.float32)
        if not self.damaged.keys(number).isdisjoint(wanted.tolist()):
            raise KeyError("an item is damaged")
        parts = [
            self._vectors(number, wanted[start : start + step])
            for start in range(0, len(wanted), step)
        ]
        return np.frombuffer(b"".join(parts), "<f4").reshape(len(wanted), -1)

    def image(self, key: int, original: bool) -> StoredImage | None:
        """Return a kept picture of an item; None if it is not kept or the item is gone."""
        table, bit = ("originals", ORIGINAL) if original else ("thumbnails", THUMBNAIL)
        rows = self._read(
            "SELECT i.first_key, i.kept & ?2, CAST(p.media_type AS BLOB), p.data, p.crc "
            f"FROM items AS i LEFT JOIN {table} AS p ON p.first_key = i.first_key "
            "WHERE i.key = ?1",
            key,
            bit,
        )
        if not rows or not rows[0][1]:
            return None
        first_key, _, media_type, data, crc = rows[0]
        if not isinstance(data, bytes) or image_crc(first_key, media_type, data) != crc:
            raise damaged(*self._names(key))
        return StoredImage(media_type.decode("utf-8"), data)

    def look_for_damage(self, number: int) -> None:
        """Read every row of a collection, without its vectors, 2 us each; note damaged ones."""
        after = -1
        while keys := self.rows(number, after, _ROWS_AT_ONCE):
            self.fetch(doubtful(self._read, keys), View.ID, number)
            after = keys[-1]

    def rows(self, number: int, after: int, count: int) -> Numbers:
        """Return at most `count` keys behind `after`, rising, those of damaged items too."""
        sql = "SELECT key FROM items WHERE collection = ? AND key > ? ORDER BY key LIMIT ?"
        return [key for (key,) in self._read(sql, number, after, count)]

    def check_database(self) -> Iterator[str | None]:
        """Yield what is wrong with tables and their indexes; None after each step."""
        return check_database(self._read)

    def check_items(self, number: int, keys: Sequence[int]) -> Faults:
        """Read items with their vectors and pictures; return what does not fit."""
        return check_items(self._read, number, keys)

    def jobs(self) -> JobList:
        """Return all jobs, the newest first."""
        rows = self._read(
            "SELECT id, kind, collection, state, done_count, total_count, phase, error_code, "
            "error_message, create_time, start_time, end_time FROM jobs "
            "ORDER BY create_time DESC, number DESC"
        )
        return [to_job(row) for row in rows]

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """Hold on to the store as it is now. The log grows until it is let go."""
        with self._writer.hold_log(), self._readers.lend() as db:
            with hold(db, database(self.directory), self._vfs) as moment:
                yield moment

    # --------------------------------------------------------------- insides

    def _deliver(self, seq: int, log: ChangeLog) -> None:
        if self._tables.listens:
            self._tables.tell(seq, log.items())
        changes = log.fold(seq)
        for number, change in changes.items():
            self.damaged.forget(number, change.removed.tolist())
        if self.listener is not None:
            self.listener(seq, changes)

    def _read(self, sql: str, *params: Any) -> Rows:
        with self._readers.lend() as db:
            return db.execute(sql, params).fetchall()

    def _items(
        self, source: str, condition: str, params: Sequence[Any], view: View, number: int | None
    ) -> Items:
        """Read sound items; others are noted, and left out."""
        columns, join = (FULL_COLUMNS, VECTOR_JOIN) if view is View.FULL else (COLUMNS, "")
        rows = self._read(f"SELECT {columns} FROM {source} {join} WHERE {condition}", *params)
        items: list[Item] = []
        for row in rows:
            if not is_sound(row):
                self.damaged.note(row[1] if number is None else number, {row[0]: name_of(row)})
            elif row[0] not in self.damaged.keys(row[1]):
                items.append(to_item(row, view))
        return items

    def _dimension(self, number: int) -> int:
        rows = self._read(f"SELECT {COLLECTION} FROM collections WHERE number = ?", number)
        return to_collection(rows[0]).config.dimension if rows else 0

    def _vectors(self, number: int, keys: Keys) -> bytes:
        try:
            if (block := read_block(self._read, number, keys)) is not None:
                return block
        except DataLoss:
            pass  # of the tables' pages: there may be keys that can be read
        self.damaged.note(number, find_damaged(self._read, keys))
        raise KeyError("an item is damaged")

    def _name(self, number: int) -> str:
        rows = self._read("SELECT CAST(name AS BLOB) FROM collections WHERE number = ?", number)
        return bytes(rows[0][0]).decode("utf-8", "replace") if rows else ""

    def _names(self, key: int) -> tuple[str, str]:
        """Return the id of an item and the name of its collection."""
        rows = self._read("SELECT CAST(id AS BLOB), collection FROM items WHERE key = ?", key)
        return (*name_of((0, 0, 0, rows[0][0])), self._name(rows[0][1])) if rows else ("", "")
