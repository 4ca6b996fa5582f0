"""The store: what was acknowledged, as it is on the disk."""

from __future__ import annotations

import json
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
from lookalike.server.store._errors import damaged_file
from lookalike.server.store._facets import ValueCounts, count_values, read_counts
from lookalike.server.store._filters import of_collection, to_sql
from lookalike.server.store._mark import Mark
from lookalike.server.store._moment import Moment, hold
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
    to_item,
    vector_crc,
)
from lookalike.server.store._transaction import Transaction
from lookalike.server.store._writer import Writer

T = TypeVar("T")
# `list` is a method of Store, which hides the type from its annotations.
Items: TypeAlias = list[Item]
Rows: TypeAlias = list[Row]
Collections: TypeAlias = list[CollectionRecord]
JobList: TypeAlias = list[Job]
Params: TypeAlias = list[Any]

_VECTOR_CHUNK_BYTES = 8 * 2**20


class Store:
    """Collections, items, vectors, pictures and jobs in one SQLite database.

    Writes are operations on a Transaction, run by the store's one writer thread in
    the order they were given and durable when their Future is done. Reads run on
    any thread, each sees one state, and every row that is read is compared with
    its checksum. Reads raise DataLoss for damage.
    """

    def __init__(
        self,
        directory: Path,
        lock_file: int,
        db: apsw.Connection,
        clock: Callable[[], float],
        vfs: str | None,
        files: Files | None = None,
    ) -> None:
        self.directory = directory
        self.listener: Callable[[int, Mapping[int, Changes]], None] | None = None
        """Called with (seq, {collection number: Changes}) after each commit that changed
        collections or items, on the writer thread, before the Futures of that commit
        are done. What it raises is logged, no more: the commit stands."""
        self._lock_file = lock_file
        self._closed = False
        self._indexed_fields: dict[int, frozenset[str]] = {}
        self._vfs = vfs
        path = _database(directory)
        meta = read_meta(db)
        self.uuid = meta.uuid
        self._mark = Mark(directory / "mark", UUID(self.uuid).bytes, files)
        self._check_mark(meta.seq)
        self._readers = Readers(lambda: open_reader(path, vfs))
        self._writer = Writer(db, meta, self._mark, clock, self._deliver)

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
            _check_present(directory)
            db = open_writer(_database(directory), vfs, migrations(), micros(clock()), files)
            reach("store.open.checked")
            try:
                return cls(directory, lock_file, db, clock, vfs, files)
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
        """Return an item; None if there is none."""
        rows = self._items("items AS i", "i.collection = ? AND i.id = ?", (number, item_id), view)
        return rows[0] if rows else None

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

    def fetch(self, keys: Sequence[int], view: View) -> dict[int, Item]:
        """Return items by key; those that are gone are missing."""
        if not len(keys):
            return {}
        wanted = apsw.carray(np.asarray(keys, np.int64))
        source = "carray(?) AS wanted CROSS JOIN items AS i ON i.key = wanted.value"
        return {item.key: item for item in self._items(source, "1", (wanted,), view)}

    def list(self, number: int, where: Filter, after_id: str, count: int, view: View) -> Items:
        """Return at most `count` items that pass, by id in byte order, behind `after_id`."""
        params: list[Any] = [after_id, count]
        passes = to_sql(where, params)
        condition = (  # in order of the ids, so that a page costs no more than it shows
            f"i.collection = {number:d} AND i.id > ?1 AND {passes} "
            "ORDER BY i.collection, i.id LIMIT ?2"
        )
        return self._items("items AS i", condition, params, view)

    def count(self, number: int, where: Filter) -> int:
        """Count the items that pass. Raises FilterInvalid."""
        params: list[Any] = []
        passes = self._passes(number, where, params)
        sql = f"SELECT count(*) FROM items AS i WHERE {passes}"
        return int(self._read(sql, *params)[0][0])

    def count_values(self, number: int, where: Filter, field: str, count: int) -> ValueCounts:
        """Count the values of a field over the items that pass; the `count` most frequent.

        Equal counts by value: booleans, then numbers, then texts. Raises FilterInvalid.
        """
        sql, params = count_values(number, where, field, count, self._indexed(number, where))
        return read_counts(self._read(sql, *params))

    def select_keys(self, number: int, where: Filter) -> Keys:
        """Return the keys of the items that pass, rising. Raises FilterInvalid."""
        params: list[Any] = []
        passes = self._passes(number, where, params)
        # One row for all: each row costs a round through the interpreter's lock.
        [(text,)] = self._read(
            f"SELECT group_concat(i.key, ',') FROM items AS i WHERE {passes}",
            *params,
        )
        keys = _int64(text)
        return keys if (keys[1:] > keys[:-1]).all() else np.sort(keys)

    def keys(self, number: int) -> Keys:
        """Return the keys of all items, rising."""
        return self.select_keys(number, Filter())

    def vectors(self, number: int, keys: Keys) -> Vectors:
        """Return (len(keys), dim) float32 in the order of `keys`, verified.

        Raises KeyError if a key is not in the collection (any more), DataLoss.
        """
        dim = self._dimension(number)
        step = max(1, _VECTOR_CHUNK_BYTES // (4 * max(dim, 1)))
        wanted = np.ascontiguousarray(keys, np.int64)
        if not len(wanted):
            return np.zeros((0, dim), np.float32)
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
            raise self._damaged(key)
        return StoredImage(media_type.decode("utf-8"), data)

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
            with hold(db, _database(self.directory), self._vfs) as moment:
                yield moment

    # --------------------------------------------------------------- insides

    def _deliver(self, seq: int, changes: Mapping[int, Changes]) -> None:
        if self.listener is not None:
            self.listener(seq, changes)

    def _read(self, sql: str, *params: Any) -> Rows:
        with self._readers.lend() as db:
            return db.execute(sql, params).fetchall()

    def _items(self, source: str, condition: str, params: Sequence[Any], view: View) -> Items:
        columns, join = (FULL_COLUMNS, VECTOR_JOIN) if view is View.FULL else (COLUMNS, "")
        rows = self._read(f"SELECT {columns} FROM {source} {join} WHERE {condition}", *params)
        for row in rows:
            if not is_sound(row):
                raise self._damaged(row[0])
        return [to_item(row, view) for row in rows]

    def _passes(self, number: int, where: Filter, params: Params) -> str:
        """Return the condition that items are of the collection and pass."""
        indexed = self._indexed(number, where)
        passes = to_sql(where, params, indexed)
        return f"{of_collection(number, where, indexed)} AND {passes}"

    def _indexed(self, number: int, where: Filter) -> frozenset[str]:
        """Return the fields that filters of a collection find by an index."""
        if not where:
            return frozenset()
        if (known := self._indexed_fields.get(number)) is None:
            rows = self._read(
                "SELECT config ->> 'indexed_fields' FROM collections WHERE number = ?", number
            )
            if not rows:
                return frozenset()
            # For good: set when the collection is made, and no number is used twice.
            known = self._indexed_fields[number] = frozenset(json.loads(rows[0][0] or "[]"))
        return known

    def _dimension(self, number: int) -> int:
        rows = self._read(f"SELECT {COLLECTION} FROM collections WHERE number = ?", number)
        return to_collection(rows[0]).config.dimension if rows else 0

    def _vectors(self, number: int, keys: Keys) -> bytes:
        """Read vectors as one block.

        One row for all, the blobs joined in SQLite: a row for each would cost each a
        round through the interpreter's lock, 0.6 ms under load against 15 us.
        """
        [(live, order, crcs, block)] = self._read(
            "SELECT count(i.key), group_concat(v.key, ','), group_concat(v.crc, ','), "
            "CAST(group_concat(v.vector, '') AS BLOB) FROM carray(?2) AS wanted "
            "LEFT JOIN items AS i ON i.key = wanted.value AND i.collection = ?1 "
            f"{VECTOR_JOIN}",
            number,
            apsw.carray(keys),
        )
        if live < len(keys):
            raise KeyError("an item is gone")
        size = len(block or b"") // len(keys)
        stored = _int64(crcs)
        if np.array_equal(_int64(order), keys) and len(block) == size * len(keys):
            view = memoryview(block)
            for at, (key, crc) in enumerate(zip(keys.tolist(), stored.tolist(), strict=True)):
                if vector_crc(key, view[at * size : (at + 1) * size]) != crc:
                    raise self._damaged_vector(keys)
            return bytes(block)
        raise self._damaged_vector(keys)

    def _damaged_vector(self, keys: Keys) -> DataLoss:
        """Find the damaged one of some vectors, one of which is."""
        for key in keys.tolist():
            rows = self._read("SELECT vector, crc FROM vectors WHERE key = ?", key)
            if not rows or not isinstance(rows[0][0], bytes):
                return self._damaged(key)
            if vector_crc(key, rows[0][0]) != rows[0][1]:
                return self._damaged(key)
        return damaged_file()

    def _damaged(self, key: int) -> DataLoss:
        rows = self._read(
            "SELECT CAST(i.id AS BLOB), c.name FROM items AS i "
            "LEFT JOIN collections AS c ON c.number = i.collection WHERE i.key = ?",
            key,
        )
        item_id, collection = rows[0] if rows else (b"", "")
        return damaged((item_id or b"").decode("utf-8", "replace"), collection or "")

    def _check_mark(self, seq: int) -> None:
        """Raise DataLoss if the database is behind what was acknowledged."""
        remembered = self._mark.read()
        if remembered > seq:
            self._mark.close()
            raise DataLoss(
                f"The store is at change {seq}, but change {remembered} was acknowledged: its "
                "log is damaged, or an older copy was put back. Restore a newer backup, or "
                'remove the file "mark" from the data folder to go on with what is there.'
            )
        self._mark.write(seq)


def _check_present(directory: Path) -> None:
    """Raise DataLoss for a folder whose database has gone: a new one would hide that."""
    mark = directory / "mark"
    if mark.exists() and mark.stat().st_size and not _database(directory).exists():
        raise DataLoss(
            'The data folder has the file "mark" of a database, but no "store.db". Restore '
            'the whole folder, or remove the file "mark" to begin with nothing.'
        )


def _database(directory: Path) -> Path:
    return directory / "store.db"


def _int64(text: str | None) -> Keys:
    """Read numbers that SQLite has joined with commas."""
    return np.fromstring(text, np.int64, sep=",") if text else np.zeros(0, np.int64)
