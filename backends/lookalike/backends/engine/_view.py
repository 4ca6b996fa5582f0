"""What one search sees, and every way in which that becomes something else.

Views never change. Whoever publishes the next one holds the engine's state lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from lookalike.backends.engine._part import Part, Segment, difference
from lookalike.backends.types import IndexSpec, Keys, Vectors

DEAD_SHARE = 0.2
"""A segment with more dead rows than this is built anew; graphs lose their way in them."""
DELTA_ROOM = 8192
"""Rows the first delta has room for; later ones for as many as wait already."""

_NO_KEYS = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """Fresh rows in arrays with room for more, compared exactly.

    Rows are only appended, behind those that `part` sees, so earlier parts over the
    same arrays stay as they are. A full delta is frozen, not copied into a larger
    one: copying 64 MiB held up a commit for more than a second on busy cores.
    """

    keys: Keys
    vectors: Vectors
    part: Part

    @classmethod
    def empty(cls, dim: int, room: int) -> Self:
        keys, vectors = np.empty(room, np.int64), np.empty((room, dim), np.float32)
        return cls(keys, vectors, Part(_fresh(keys[:0], vectors[:0])))

    def takes(self, key: int) -> int:
        """Return how many rows fit if the first has this key: none if keys would not rise."""
        seen = self.part.segment.keys
        if len(seen) and key <= seen[-1]:
            return 0
        return len(self.keys) - len(seen)

    def append(self, keys: Keys, vectors: Vectors) -> Self:
        """Add rows that `takes` has room for. Of several deltas over the same arrays
        only the latest that was published may do so."""
        n = len(self.part.segment.keys)
        end = n + len(keys)
        self.keys[n:end] = keys
        self.vectors[n:end] = vectors
        live = self.part.live
        if live is not None:
            live = np.concatenate([live, np.ones(len(keys), np.bool_)])
        segment = _fresh(self.keys[:end], self.vectors[:end])
        return replace(self, part=Part(segment, live, self.part.count + len(keys)))

    def without(self, removed: Keys) -> Self:
        """Return this delta without some keys (rising)."""
        part = self.part.without(removed)
        return self if part is self.part else replace(self, part=part)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """All parts at one seq."""

    parts: tuple[Part, ...]
    delta: Delta
    seq: int
    top: int
    """The greatest key ever seen; -1 if none."""
    limit: int
    """Rows that may wait for an index."""

    @classmethod
    def of(cls, parts: Sequence[Part], delta: Delta, seq: int, limit: int) -> Self:
        every = [*parts, delta.part]
        last = [part.segment.keys[-1] for part in every if len(part.segment.keys)]
        return cls(tuple(parts), delta, seq, int(max(last, default=-1)), limit)

    @property
    def every(self) -> tuple[Part, ...]:
        return (*self.parts, self.delta.part)

    @property
    def count(self) -> int:
        return sum(part.count for part in self.every)

    @property
    def waiting(self) -> int:
        """Rows without an index, dead ones too."""
        return _waiting(self.every)

    @property
    def overfull(self) -> bool:
        """True if more rows wait for an index than should."""
        return self.waiting > self.limit

    @property
    def withered(self) -> list[Part]:
        """Segments with many dead rows."""
        return [p for p in self.parts if p.segment.sealed and p.dead > DEAD_SHARE * p.rows]

    def changed(self, seq: int, removed: Keys, added: Keys, vectors: Vectors) -> Self:
        """Return the view after a commit; keys are rising, those already here are not added."""
        # A key lives once: one that the same commit added and removed is gone.
        new = difference(added, removed)
        if len(new) and new[0] <= self.top:
            for part in self.every:
                new = difference(new, part.segment.keys)
        parts = [part.without(removed) for part in self.parts]
        parts = [part for part in parts if part.count]
        view = replace(self, parts=tuple(parts), delta=self.delta.without(removed), seq=seq)
        if not len(new):
            return view
        if len(new) < len(added):
            vectors = vectors[np.isin(added, new)]
        view = replace(view, top=max(self.top, int(new[-1])))
        while len(new):
            room = view.delta.takes(int(new[0]))
            if room:
                view = replace(view, delta=view.delta.append(new[:room], vectors[:room]))
                new, vectors = new[room:], vectors[room:]
            else:
                view = view.frozen(len(new))
        return view

    def frozen(self, more: int = 0) -> Self:
        """Make the delta a part like others and begin a new one, with room for `more`."""
        part = self.delta.part
        parts = (*self.parts, part) if part.count else self.parts
        room = max(more, first_room(self.limit), _waiting(parts))
        delta = Delta.empty(part.segment.vectors.shape[1], room)
        return replace(self, parts=parts, delta=delta)

    def swapped(self, inputs: Sequence[Part], built: Segment | None) -> Self:
        """Put a segment in the place of the parts it was built from.

        What was removed since those parts were taken is removed from it.
        """
        now = {part.segment: part for part in self.parts}
        new = [] if built is None else [Part(built)]
        for part in inputs:
            present = now.pop(part.segment, None)
            if present is None or present.live is not part.live:
                gone = difference(part.keys(), present.keys() if present else _NO_KEYS)
                new = [fresh.without(gone) for fresh in new]
        kept = [part for part in (*now.values(), *new) if part.count]
        return replace(self, parts=tuple(kept))


def first_room(limit: int) -> int:
    """Return how many rows an engine's first delta has room for."""
    return min(limit, DELTA_ROOM)


def _waiting(parts: Sequence[Part]) -> int:
    return sum(part.rows for part in parts if not part.segment.sealed)


def _fresh(keys: Keys, vectors: Vectors) -> Segment:
    return Segment(-1, keys, vectors, IndexSpec("exact"), None, sealed=False)
