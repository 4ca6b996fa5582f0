"""Indexes over metadata fields: each of one field of one collection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apsw

from lookalike.server.store._filters import field_key, owned_by


def create(db: apsw.Connection, number: int, fields: Sequence[str]) -> None:
    """Index fields of a collection. Writer thread, in a transaction.

    Reads the whole table of items once for each field, 50 ms for 100,000 items.
    """
    for name, field in zip(_names(number), fields, strict=False):
        db.execute(
            f"CREATE INDEX {name} ON items ({field_key(field, 'metadata')}) "
            f"WHERE {owned_by(number, 'collection')}"
        )


def drop(db: apsw.Connection, number: int, count: int) -> None:
    """Drop the indexes over the fields of a collection. Writer thread, in a transaction."""
    for name, _ in zip(_names(number), range(count), strict=False):
        db.execute(f"DROP INDEX IF EXISTS {name}")


def _names(number: int) -> Iterator[str]:
    place = 0
    while True:
        yield f"items_of_{number:d}_by_field_{place}"
        place += 1
