"""Which items pass a filter: told from memory where its fields are there, else by SQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from lookalike.backends.types import Keys
from lookalike.server.domain import Filter
from lookalike.server.store._damage import DamagedItems
from lookalike.server.store._facets import ValueCounts, count_values, read_counts
from lookalike.server.store._filters import is_led, of_collection, to_sql
from lookalike.server.store._rows import Row
from lookalike.server.store._tables import Tables
from lookalike.server.store._vectors import int64

Read: TypeAlias = Callable[..., list[Row]]
"""Runs SQL with parameters and returns all rows."""


class Selection:
    """Answers filters. Any thread."""

    def __init__(self, read: Read, damaged: DamagedItems, tables: Tables) -> None:
        self._read = read
        self._damaged = damaged
        self._tables = tables
        self._indexed_fields: dict[int, frozenset[str]] = {}

    def keys(self, number: int, where: Filter) -> Keys:
        """Return the keys of the items that pass, rising. Raises FilterInvalid."""
        if (found := self._from_table(number, where)) is not None:
            return found
        params: list[Any] = []
        passes = self._passes(number, where, params)
        # One row for all: each row costs a round through the interpreter's lock.
        [(text,)] = self._read(
            f"SELECT group_concat(i.key, ',') FROM items AS i WHERE {passes}",
            *params,
        )
        keys = int64(text)
        if where:
            led = is_led(where, self._indexed(number, where))
            self._tables.asked(number, where, len(keys), led)
        return keys if (keys[1:] > keys[:-1]).all() else np.sort(keys)

    def count(self, number: int, where: Filter) -> int:
        """Count the items that pass. Raises FilterInvalid."""
        if (found := self._from_table(number, where)) is not None:
            return len(found)
        params: list[Any] = []
        passes = self._passes(number, where, params)
        sql = f"SELECT count(*) FROM items AS i WHERE {passes}"
        return int(self._read(sql, *params)[0][0])

    def count_values(self, number: int, where: Filter, field: str, count: int) -> ValueCounts:
        """Count the values of a field over the items that pass. Raises FilterInvalid."""
        indexed, left_out = self._indexed(number, where), self._damaged.but(number)
        sql, params = count_values(number, where, field, count, indexed, left_out)
        return read_counts(self._read(sql, *params))

    def _from_table(self, number: int, where: Filter) -> Keys | None:
        if not where or self._damaged.keys(number):
            return None
        return self._tables.keys(number, where)

    def _passes(self, number: int, where: Filter, params: list[Any]) -> str:
        """Return the condition that items are of the collection and pass."""
        indexed = self._indexed(number, where)
        passes = to_sql(where, params, indexed)
        return f"{of_collection(number, where, indexed)}{self._damaged.but(number)} AND {passes}"

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
