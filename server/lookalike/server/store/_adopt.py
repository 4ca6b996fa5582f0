"""A copied database made into a store of its own: looked at, adapted, given an identity."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from lookalike.backends.errors import DataLoss, FailedPrecondition
from lookalike.backends.types import IndexSpec
from lookalike.server.domain import CollectionRecord
from lookalike.server.store import _connect as connect
from lookalike.server.store._configs import COLLECTION, to_collection, to_job, to_row
from lookalike.server.store._errors import translated
from lookalike.server.store._rows import (
    FULL_COLUMNS,
    ORIGINAL,
    THUMBNAIL,
    VECTOR_JOIN,
    Meta,
    image_crc,
    is_sound,
)

Choose = Callable[[CollectionRecord], IndexSpec | None]
"""Gives a collection another kind of index; None leaves it as it is."""

_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
_FIELD_INDEX = re.compile(r"items_of_\d+_by_field_\d+")
_MOST_FINDINGS = 20


@dataclass(frozen=True, slots=True)
class Adopted:
    """What a database holds."""

    seq: int
    format_version: int
    """As it was found."""
    collections: int
    items: int
    findings: tuple[str, ...]
    """What is damaged, in words; the first twenty."""


def inspect(path: Path) -> Adopted:
    """Compare everything in a database with its checksums; nothing is changed.

    Raises FailedPrecondition (a newer format, another program's), DataLoss if what is
    damaged is more than single items.
    """
    db = _open(path)
    try:
        with translated():
            return _inspect(db)
    finally:
        db.close()


def adopt(path: Path, choose: Choose) -> None:
    """Bring a database that was inspected up to date, and make it a store of its own.

    It gets a new uuid. After the copied state, its history and that of the store it
    was copied from part: both go on with the same keys, for different vectors. An
    index, a mark or a backup of the one must never be taken for one of the other.
    """
    db = _open(path)
    try:
        with translated():
            connect._migrate(db, connect.migrations())
            db.execute("BEGIN IMMEDIATE")
            rows: list[Any] = db.execute(f"SELECT {COLLECTION} FROM collections").fetchall()
            for record in map(to_collection, rows):
                if (spec := choose(record)) is not None:
                    _set_index(db, record, spec)
            meta = connect.read_meta(db)._replace(uuid=str(uuid.uuid4()))
            db.execute("UPDATE meta SET uuid = ?, crc = ?", (meta.uuid, meta.crc()))
            db.execute("COMMIT")
    finally:
        db.close()


def _open(path: Path) -> apsw.Connection:
    """Open a database as one file, for one user."""
    with translated():
        db = apsw.Connection(str(path), flags=_FLAGS)
        try:
            connect._configure(db, 64 * 1024)
            db.pragma("locking_mode", "exclusive")
            connect._check_ours(db)
            version = db.pragma("user_version")
            if version > (known := len(connect.migrations())):
                raise FailedPrecondition(
                    f"The backup was made by a newer server (version {version} of the format; "
                    f"this one knows {known}). Restore it with that server."
                )
            _check_schema(db, version)
            db.pragma("journal_mode", "delete")
            db.pragma("synchronous", "full")
        except BaseException:
            db.close()
            raise
    return db


def _check_schema(db: apsw.Connection, version: int) -> None:
    """Raise unless the tables, indexes and triggers are those of the format, and no more."""
    plain = apsw.Connection(":memory:")
    for script in connect.migrations()[:version]:
        plain.execute(script)
    expected = set(_schema(plain))
    plain.close()
    for entry in _schema(db):
        kind, name, table, _ = entry
        if (kind, table) == ("index", "items") and _FIELD_INDEX.fullmatch(name):
            continue
        if entry not in expected:
            raise DataLoss(f"The backup has a {kind} {name[:80]!r} that no server made.")
        expected.discard(entry)
    if expected:
        raise DataLoss(f"The backup lacks a {min(expected)[0]} that every store has.")


def _schema(db: apsw.Connection) -> Iterator[tuple[str, str, str, str]]:
    for kind, name, table, sql in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"):
        yield str(kind), str(name), str(table), str(sql)


# ------------------------------------------------------------------ inspection


def _inspect(db: apsw.Connection) -> Adopted:
    if (faults := db.execute("PRAGMA integrity_check(5)").fetchall()) != [("ok",)]:
        raise DataLoss(f"The database is damaged: {faults[0][0]}")
    meta = connect.read_meta(db)
    rows: list[Any] = db.execute(f"SELECT {COLLECTION} FROM collections").fetchall()
    records = {record.number: record for record in map(to_collection, rows)}
    jobs: list[Any] = db.execute(
        "SELECT id, kind, collection, state, done_count, total_count, phase, error_code, "
        "error_message, create_time, start_time, end_time FROM jobs"
    ).fetchall()
    for job in jobs:
        to_job(job)
    findings: list[str] = []
    items = 0
    for item_id, name, fault in _items(db, records, meta):
        items += 1
        if fault and len(findings) < _MOST_FINDINGS:
            findings.append(f'the item "{item_id}" of the collection "{name}": {fault}')
    _check_strays(db)
    version = int(db.pragma("user_version"))
    return Adopted(meta.seq, version, len(records), items, tuple(findings))


def _items(
    db: apsw.Connection, records: dict[int, CollectionRecord], meta: Meta
) -> Iterator[tuple[str, str, str]]:
    """Yield id and collection of each item, and what is wrong with it, if anything."""
    rows: Any = db.execute(f"SELECT {FULL_COLUMNS} FROM items AS i {VECTOR_JOIN} ORDER BY i.key")
    for row in rows:
        record = records.get(row[1])
        name = record.config.name if record is not None else "?"
        item_id = bytes(row[3] or b"").decode("utf-8", "replace")
        fault = ""
        if record is None:
            fault = "its collection is missing"
        elif not is_sound(row) or len(row[16]) != 4 * record.config.dimension:
            fault = "its data or its vector is damaged"
        elif row[0] >= meta.next_key or row[14] > meta.seq:
            fault = "it is newer than the store"
        else:
            fault = _picture_fault(db, row[2], row[11] or 0)
        yield item_id, name, fault


def _picture_fault(db: apsw.Connection, first_key: int, kept: int) -> str:
    for table, bit in (("thumbnails", THUMBNAIL), ("originals", ORIGINAL)):
        if not kept & bit:
            continue
        rows: list[Any] = db.execute(
            f"SELECT CAST(media_type AS BLOB), data, crc FROM {table} WHERE first_key = ?",
            (first_key,),
        ).fetchall()
        if not rows or not isinstance(rows[0][1], bytes):
            return f"its picture is missing among the {table}"
        if image_crc(first_key, rows[0][0], rows[0][1]) != rows[0][2]:
            return f"its picture among the {table} is damaged"
    return ""


def _check_strays(db: apsw.Connection) -> None:
    """Raise DataLoss if something belongs to no item."""
    for table, key, condition in (
        ("vectors", "key", "1"),
        ("thumbnails", "first_key", f"kept & {THUMBNAIL}"),
        ("originals", "first_key", f"kept & {ORIGINAL}"),
    ):
        [(stray,)] = db.execute(
            f"SELECT (SELECT count(*) FROM {table}) - (SELECT count(*) FROM items AS i "
            f"JOIN {table} AS t ON t.{key} = i.{key} WHERE {condition})"
        ).fetchall()
        if stray:
            raise DataLoss(f"The table {table} has {stray} rows that belong to no item.")


def _set_index(db: apsw.Connection, record: CollectionRecord, spec: IndexSpec) -> None:
    changed = replace(record, config=replace(record.config, index=spec))
    db.execute(
        "UPDATE collections SET name = CAST(?2 AS TEXT), config = CAST(?3 AS TEXT), "
        "space = CAST(?4 AS TEXT), create_us = ?5, crc = ?6 WHERE number = ?1",
        to_row(changed),
    )
