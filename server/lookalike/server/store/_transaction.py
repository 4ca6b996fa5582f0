"""The operations of one commit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import apsw
import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import CollectionExists, CollectionNotFound, ItemNotFound
from lookalike.backends.types import IndexSpec, Keys, Vectors
from lookalike.server.domain import (
    CollectionConfig,
    CollectionRecord,
    Filter,
    Item,
    Job,
    Json,
    ReadyItem,
    View,
    WriteMode,
    WriteResult,
)
from lookalike.server.store import _field_indexes
from lookalike.server.store._changes import ChangeLog, ItemRow
from lookalike.server.store._configs import COLLECTION, to_collection, to_row
from lookalike.server.store._filters import of_collection, to_sql
from lookalike.server.store._put import (
    INSERT_VECTOR,
    UPDATE_ITEM,
    Plan,
    changed,
    erase,
    stored,
    write,
)
from lookalike.server.store._room import Room
from lookalike.server.store._rows import (
    COLUMNS,
    FULL_COLUMNS,
    VECTOR_JOIN,
    Row,
    damaged,
    decode_metadata,
    encode_metadata,
    is_sound,
    micros,
    row_crc,
    to_item,
    vector_bytes,
    vector_crc,
)

_CHUNK = 1024
"""Rows of one statement where there may be very many."""
_BY_ID = f"SELECT {COLUMNS} FROM items AS i WHERE i.collection = ? AND i.id = ?"


def _matrix(vectors: Sequence[bytes]) -> Vectors:
    """Return vectors as the store keeps them as (len(vectors), dim) float32."""
    block = np.frombuffer(b"".join(vectors), "<f4")
    return block.reshape(len(vectors), -1) if vectors else block.reshape(0, 0)


def merge_patch(target: object, patch: Json) -> dict[str, object]:
    """Apply a JSON merge patch (RFC 7396) to a value; nulls delete."""
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            merged[name] = merge_patch(merged.get(name), value)
        else:
            merged[name] = value
    return merged


class Transaction:
    """What an operation can do; all of it is undone if the operation raises.

    Whatever makes the store larger raises DiskFull before the disk is full: deleting
    needs room, too.

    Writer thread only, and only until the operation returns. It sees what the
    operations before it in the same commit have done.
    """

    def __init__(
        self,
        db: apsw.Connection,
        clock: Callable[[], float],
        seq: int,
        next_key: int,
        room: Room,
    ) -> None:
        self._db = db
        self._room = room
        self._clock = clock
        self.seq = seq
        """Number of this commit, if it changes collections or items."""
        self.next_key = next_key
        self.changes = ChangeLog()
        self.written_bytes = 0

    # ------------------------------------------------------------ collections

    def create_collection(self, config: CollectionConfig, space: str) -> CollectionRecord:
        """Make an empty collection. Raises CollectionExists."""
        now_us = micros(self._clock())
        self._room.need()
        if self._values("SELECT number FROM collections WHERE name = ?", config.name):
            raise CollectionExists(
                f'There is a collection "{config.name}" already. Choose another name, or '
                "delete it first.",
                field="collection.name",
                collection=config.name,
            )
        self._db.execute(
            "INSERT INTO collections (name, config, space, create_us, crc) VALUES (?, '', '', ?, 0)",
            (config.name, now_us),
        )
        number = self._db.last_insert_rowid()
        _field_indexes.create(self._db, number, config.indexed_fields)
        return self._save(CollectionRecord(number, config, space, now_us / 1e6))

    def update_collection(
        self,
        number: int,
        *,
        index: IndexSpec | EllipsisType | None = ...,
        space: str | None = None,
    ) -> CollectionRecord:
        """Change what is given; `index` None means the server's default.

        Raises CollectionNotFound.
        """
        record = self._collection(number)
        if not isinstance(index, EllipsisType):
            record = replace(record, config=replace(record.config, index=index))
        if space is not None:
            record = replace(record, space=space)
        return self._save(record)

    def delete_collection(self, number: int) -> int:
        """Delete a collection with all its items; return how many there were.

        All in one transaction: other writes wait. Raises CollectionNotFound.
        """
        record = self._collection(number)
        _field_indexes.drop(self._db, number, len(record.config.indexed_fields))
        [count] = self._values("SELECT count(*) FROM items WHERE collection = ?", number)
        self._db.execute("DELETE FROM collections WHERE number = ?", (number,))
        reach("store.delete.written")
        self.changes.drop(number)
        return int(count)

    # ------------------------------------------------------------------ items

    def put(self, number: int, items: Sequence[ReadyItem], mode: WriteMode) -> list[WriteResult]:
        """Store items as if one by one, in order; what one of them lacks is in its result.

        The same digest is UNCHANGED and writes nothing. A new vector gives the item a
        new key; new metadata or pictures leave it. An item that is damaged in the
        store is replaced. Raises CollectionNotFound.
        """
        dimension = self._collection(number).config.dimension
        now_us = micros(self._clock())
        found = self._values_of(
            f"SELECT wanted.value, {FULL_COLUMNS} FROM json_each(?) AS wanted CROSS JOIN "
            f"items AS i ON i.id = wanted.value {VECTOR_JOIN} WHERE i.collection = ?",
            (json.dumps(list({item.id for item in items}), ensure_ascii=False), number),
        )
        standings = {item_id: stored(row) for item_id, *row in found}
        plan = Plan(mode, dimension, now_us, self.next_key, standings)
        results = [plan.take(item) for item in items]
        if to_write := changed(plan.standings):
            self._room.need()
            self.next_key = plan.next_key
            self.written_bytes += write(self._db, number, to_write, now_us, self.seq)
            moved = [s for s in to_write if s.key != s.stored_key]
            self.changes.note(
                number,
                dimension,
                [left for s in moved if (left := s.damaged_key or s.stored_key)],
                [s.key for s in moved],
                _matrix([s.vector for s in moved]),
                [ItemRow(s.key, s.metadata, s.create_us, now_us) for s in to_write],
            )
        return results

    def update_metadata(
        self,
        number: int,
        item_id: str,
        metadata: Json,
        digest: Callable[[bytes, Json], bytes],
        replace: bool,
    ) -> Item:
        """Merge `metadata` into an item's (RFC 7396), or put it in its place.

        `digest` is called with the old digest and the new metadata and returns the
        new digest; what it raises undoes the operation. Returns the item without its
        vector. Raises ItemNotFound, DataLoss, InvalidArgument.
        """
        rows = self._values_of(_BY_ID, (number, item_id))
        if not rows:
            raise ItemNotFound(
                f'There is no item "{item_id}" in the collection.', field="id", id=item_id
            )
        old = self._sound(rows[0], item_id)
        new = dict(metadata) if replace else merge_patch(decode_metadata(old[4]), metadata)
        text = encode_metadata(new).encode()
        if text == old[4]:
            return to_item(old, View.BASIC)
        self._room.need()
        row = (*old[:4], text, digest(old[5], new), *old[6:13], micros(self._clock()), self.seq)
        row = (*row, row_crc(row))
        self._db.execute(UPDATE_ITEM, (*row, row[0]))
        self.changes.note(number, rows=[ItemRow(row[0], text, row[12], row[13])])
        return to_item(row, View.BASIC)

    def replace_vectors(
        self, number: int, keys: Keys, vectors: Vectors, space: str, but: str = ""
    ) -> CollectionRecord | None:
        """Give every item a new vector, and so a new key, of another space.

        `vectors` is (len(keys), dim) float32, row i for the item whose key is
        `keys[i]`; keys that are gone are passed over. Returns None, and changes
        nothing, if the collection has items that are not among `keys`; those that
        `but` leaves out (as `DamagedItems.but` says it) stay as they are. All in one
        transaction: other writes wait. Raises CollectionNotFound, DataLoss.
        """
        self._room.need()
        record = self._collection(number)
        order = np.argsort(keys, kind="stable")
        live = np.array(self._keys(number, Filter(), but), np.int64)
        at = np.searchsorted(keys, live, sorter=order)
        rows = order[np.minimum(at, len(keys) - 1)] if len(keys) else at
        if len(live) and (not len(keys) or (keys[rows] != live).any()):
            return None
        added = np.arange(self.next_key, self.next_key + len(live), dtype=np.int64)
        self.next_key += len(live)
        for start in range(0, len(live), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._replace_vectors(live[part], added[part], vectors[rows[part]])
        dimension = int(vectors.shape[1])
        self.changes.note(number, dimension, live, added, np.asarray(vectors[rows], np.float32))
        config = replace(record.config, dimension=dimension)
        return self._save(replace(record, config=config, space=space))

    def delete(self, number: int, ids: Sequence[str], keys: Sequence[int] = ()) -> int:
        """Delete items by id, others by key; return how many of them there were."""
        listed = json.dumps(list(ids), ensure_ascii=False)
        found = self._values(
            "SELECT key FROM items WHERE collection = ? AND id IN (SELECT value FROM json_each(?))",
            number,
            listed,
        )
        return self._delete(number, sorted({*found, *keys}))

    def delete_where(self, number: int, where: Filter, but: str = "") -> int:
        """Delete the items that pass; return how many there were. Raises FilterInvalid.

        `but` is SQL to follow a condition, as `DamagedItems.but` says it.
        """
        return self._delete(number, self._keys(number, where, but))

    # ------------------------------------------------------------------- jobs

    def save_job(self, job: Job) -> None:
        """Store a job as it is now. Jobs have no part in `seq`."""
        self._db.execute(
            "INSERT INTO jobs (id, kind, collection, state, done_count, total_count, phase, "
            "error_code, error_message, create_time, start_time, end_time) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, "
            "collection = excluded.collection, state = excluded.state, "
            "done_count = excluded.done_count, total_count = excluded.total_count, "
            "phase = excluded.phase, error_code = excluded.error_code, "
            "error_message = excluded.error_message, create_time = excluded.create_time, "
            "start_time = excluded.start_time, end_time = excluded.end_time",
            (
                job.id,
                job.kind,
                job.collection,
                job.state.value,
                job.done_count,
                job.total_count,
                job.phase,
                job.error_code,
                job.error_message,
                job.create_time,
                job.start_time,
                job.end_time,
            ),
        )

    def delete_jobs(self, ended_before: float) -> int:
        """Forget the jobs that ended before a time; return how many."""
        gone = self._values(
            "DELETE FROM jobs WHERE state IN ('succeeded', 'failed', 'cancelled') "
            "AND end_time < ? RETURNING number",
            ended_before,
        )
        return len(gone)

    # --------------------------------------------------------------- insides

    def _values_of(self, sql: str, params: Sequence[Any]) -> list[Row]:
        return self._db.execute(sql, params).fetchall()

    def _values(self, sql: str, *params: Any) -> list[Any]:
        return [value for (value,) in self._db.execute(sql, params)]

    def _collection(self, number: int) -> CollectionRecord:
        rows = self._values_of(f"SELECT {COLLECTION} FROM collections WHERE number = ?", (number,))
        if not rows:
            raise CollectionNotFound("The collection is gone; it was deleted.", field="collection")
        return to_collection(rows[0])

    def _save(self, record: CollectionRecord) -> CollectionRecord:
        self._db.execute(
            "UPDATE collections SET name = CAST(?2 AS TEXT), config = CAST(?3 AS TEXT), "
            "space = CAST(?4 AS TEXT), create_us = ?5, crc = ?6 WHERE number = ?1",
            to_row(record),
        )
        self.changes.note(record.number)
        return record

    def _sound(self, row: Row, item_id: str = "") -> Row:
        if is_sound(row):
            return row
        names = self._values("SELECT name FROM collections WHERE number = ?", row[1])
        shown = item_id or bytes(row[3] or b"").decode("utf-8", "replace")
        raise damaged(shown, names[0] if names else "")

    def _keys(self, number: int, where: Filter, but: str = "") -> list[int]:
        params: list[apsw.SQLiteValue | apsw.CArrayBinding] = []
        indexed = self._collection(number).config.indexed_fields if where else ()
        passes = to_sql(where, params, indexed)
        owned = of_collection(number, where, indexed)
        return self._values(
            f"SELECT i.key FROM items AS i WHERE {owned}{but} AND {passes} ORDER BY i.key",
            *params,
        )

    def _delete(self, number: int, keys: list[int]) -> int:
        if keys:
            dim = self._collection(number).config.dimension
            erase(self._db, keys)
            reach("store.delete.written")
            self.changes.note(number, dim, keys)
        return len(keys)

    def _replace_vectors(self, old: Keys, new: Keys, vectors: Vectors) -> None:
        found = self._values_of(
            f"SELECT {COLUMNS} FROM carray(?) AS wanted CROSS JOIN items AS i "
            "ON i.key = wanted.value",
            (apsw.carray(old),),
        )
        updates, inserts = [], []
        for row, key, vector in zip(found, new.tolist(), vectors, strict=True):
            changed_row = (key, *self._sound(row)[1:14], self.seq)
            updates.append((*changed_row, row_crc(changed_row), row[0]))
            data = vector_bytes(vector)
            inserts.append((key, data, vector_crc(key, data)))
        self._db.execute(
            "DELETE FROM vectors WHERE key IN (SELECT value FROM carray(?))", (apsw.carray(old),)
        )
        self._db.executemany(UPDATE_ITEM, updates)
        self._db.executemany(INSERT_VECTOR, inserts)
