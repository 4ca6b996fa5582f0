"""Metadata fields of one collection as arrays, and filters as masks over them.

A filter means here what it means in SQL, see `_filters`; what only SQL can tell (ids,
operands that may be refused) is not answered. One thread at a time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Keys, Mask
from lookalike.server.domain import Condition, Filter, Test
from lookalike.server.store._changes import ItemRow
from lookalike.server.store._column import (
    COMPARE,
    FIRST_ROOM,
    KINDS,
    Column,
    Unanswerable,
    scalar,
    with_room,
)
from lookalike.server.store._filters import canonical_time

TIMES: Final = ("@create_time", "@update_time")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})(\d{3})Z", re.ASCII)


class Cells(NamedTuple):
    """Some rows, column by column."""

    keys: Sequence[int]
    create_us: Sequence[int]
    update_us: Sequence[int]
    fields: Mapping[str, tuple[Sequence[int], Sequence[Any]]]
    """Kinds and values of each field."""

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]], fields: Sequence[str]) -> Self:
        """Take rows of key, times, then json_type and json_extract of each field."""
        keys, create_us, update_us, *rest = zip(*rows, strict=True)
        cells = {
            field: ([KINDS[kind] for kind in rest[2 * i]], rest[2 * i + 1])
            for i, field in enumerate(fields)
        }
        return cls(keys, create_us, update_us, cells)


def fields_of(where: Condition | Filter) -> Iterator[str]:
    """Yield the fields that a filter looks at."""
    if isinstance(where, Condition):
        yield where.field
        return
    for part in (*where.all, *where.any, *where.none):
        yield from fields_of(part)


def is_kept(field: str) -> bool:
    """Tell whether a field of metadata can be held in a column."""
    return field not in ("", "@id", *TIMES) and "\0" not in field


class Table:
    """Keys, times and some fields of all items of a collection, as they were at `seq`."""

    def __init__(self, fields: Collection[str]) -> None:
        self.columns = {field: Column(field) for field in fields}
        self.seq = 0
        self._keys = np.zeros(FIRST_ROOM, np.int64)
        self._create_us = np.zeros(FIRST_ROOM, np.int64)
        self._update_us = np.zeros(FIRST_ROOM, np.int64)
        self._alive = np.zeros(FIRST_ROOM, np.bool_)
        self._count = 0
        self._dead = 0

    @property
    def rows(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        arrays = (self._keys, self._create_us, self._update_us, self._alive)
        held = sum(array.nbytes for array in arrays)
        return held + sum(column.nbytes for column in self.columns.values())

    def fill(self, cells: Cells) -> None:
        """Add rows behind all that are there; raises ValueError if keys do not rise."""
        new = np.array(cells.keys, np.int64)
        start, end = self._count, self._count + len(new)
        before = np.concatenate([self._keys[max(start - 1, 0) : start], new])
        if (before[1:] <= before[:-1]).any():
            raise ValueError("keys do not rise")
        self._make_room(end)
        self._keys[start:end] = new
        self._create_us[start:end] = cells.create_us
        self._update_us[start:end] = cells.update_us
        self._alive[start:end] = True
        self._count = end
        places = np.arange(start, end)
        for field, column in self.columns.items():
            column.put(places, *cells.fields[field])

    def remove(self, keys: Keys) -> None:
        """Forget items; keys that are not there are passed over."""
        places = self._places(keys)
        places = places[places >= 0]
        self._dead += int(np.count_nonzero(self._alive[places]))
        self._alive[places] = False
        if self._dead > max(1024, self._count // 4):
            self._compact()

    def write(self, rows: Sequence[ItemRow]) -> None:
        """Take in what a commit wrote; raises ValueError if new keys do not rise."""
        last = {row.key: row for row in rows}
        rows = [last[key] for key in sorted(last)]
        if not rows:
            return
        keys = np.array([row.key for row in rows], np.int64)
        documents = [json.loads(row.metadata) for row in rows]
        places = self._places(keys)
        old, new = np.flatnonzero(places >= 0).tolist(), np.flatnonzero(places < 0).tolist()
        if old:
            at = places[old]
            self._create_us[at] = [rows[i].create_us for i in old]
            self._update_us[at] = [rows[i].update_us for i in old]
            for column in self.columns.values():
                column.put(at, *_cells(column, [documents[i] for i in old]))
        if new:
            added = [rows[i] for i in new]
            some = [documents[i] for i in new]
            cells = Cells(
                [row.key for row in added],
                [row.create_us for row in added],
                [row.update_us for row in added],
                {field: _cells(column, some) for field, column in self.columns.items()},
            )
            self.fill(cells)

    def keys(self, where: Filter) -> Keys:
        """Return the keys of the items that pass, rising. Raises Unanswerable."""
        mask = self._filter(where)
        if self._dead:
            mask = mask & self._alive[: self._count]
        found = self._keys[: self._count][mask]
        found.flags.writeable = False  # it is handed out more than once
        return found

    def _filter(self, where: Condition | Filter) -> Mask:
        if isinstance(where, Condition):
            if where.field in TIMES:
                return self._time(where)
            if (column := self.columns.get(where.field)) is None:
                raise Unanswerable
            return column.passes(where.test, where.operand, self._count)
        mask = np.ones(self._count, np.bool_)
        for part in where.all:
            mask &= self._filter(part)
        if where.any:
            either = np.zeros(self._count, np.bool_)
            for part in where.any:
                either |= self._filter(part)
            mask &= either
        for part in where.none:
            mask &= ~self._filter(part)
        return mask

    def _time(self, where: Condition) -> Mask:
        """Compare times as numbers, which are in the order of their texts."""
        operand = scalar(where.operand)
        if where.test not in COMPARE or not isinstance(operand, str):
            raise Unanswerable
        if (match := _TIME.fullmatch(canonical_time(operand))) is None:
            raise Unanswerable  # SQL compares texts
        try:
            moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
        except ValueError:
            raise Unanswerable from None
        whole = (moment - _EPOCH) // timedelta(microseconds=1)
        # A time between two microseconds is behind the first and before the second.
        beyond = match[2] != "000" and where.test in (Test.LT, Test.GTE)
        times = self._create_us if where.field == TIMES[0] else self._update_us
        return COMPARE[where.test](times[: self._count], whole + beyond)

    def _places(self, keys: Keys) -> NDArray[np.int64]:
        """Return where keys are, -1 = nowhere."""
        mine = self._keys[: self._count]
        at = np.searchsorted(mine, keys)
        inside = np.minimum(at, max(self._count - 1, 0))
        there = (at < self._count) & (mine[inside] == keys) if self._count else at < 0
        return np.where(there, at, -1)

    def _make_room(self, room: int) -> None:
        self._keys = with_room(self._keys, room)
        self._create_us = with_room(self._create_us, room)
        self._update_us = with_room(self._update_us, room)
        self._alive = with_room(self._alive, room)

    def _compact(self) -> None:
        alive = self._alive[: self._count]
        self._keys = self._keys[: self._count][alive]
        self._create_us = self._create_us[: self._count][alive]
        self._update_us = self._update_us[: self._count][alive]
        for column in self.columns.values():
            column.keep(alive)
        self._count, self._dead = len(self._keys), 0
        self._alive = np.ones(self._count, np.bool_)


def _cells(column: Column, documents: Sequence[object]) -> tuple[list[int], list[object]]:
    cells = [column.cell(document) for document in documents]
    return [kind for kind, _ in cells], [value for _, value in cells]
