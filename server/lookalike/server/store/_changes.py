"""What a commit did to vectors, gathered while its operations run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lookalike.backends.types import Changes, Keys, Vectors
from lookalike.server.domain import Vector

_NO_KEYS: Keys = np.zeros(0, np.int64)


class ItemRow(NamedTuple):
    """What was written of one item."""

    key: int
    metadata: str | bytes
    create_us: int
    update_us: int


@dataclass(frozen=True, slots=True)
class ItemChange:
    """What one step did to items: `removed` first, then `rows`."""

    removed: Keys
    rows: Sequence[ItemRow]
    is_lost: bool
    """True if it did more than is said here."""


@dataclass(frozen=True, slots=True)
class _Step:
    number: int
    dim: int
    removed: Keys
    added: Keys
    vectors: Sequence[Vector] | Vectors
    dropped: bool = False
    rows: Sequence[ItemRow] = ()


class ChangeLog:
    """A list of steps that can be cut back to where an operation began."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []

    def __len__(self) -> int:
        return len(self._steps)

    def cut(self, length: int) -> None:
        """Forget all steps behind the first `length`: their operation was undone."""
        del self._steps[length:]

    def note(
        self,
        number: int,
        dim: int = 0,
        removed: Sequence[int] | Keys = (),
        added: Sequence[int] | Keys = (),
        vectors: Sequence[Vector] | Vectors = (),
        rows: Sequence[ItemRow] = (),
    ) -> None:
        """Add a step: keys of a collection that went, then those that came, rising.

        `vectors` is (len(added), dim), those of the keys that came; `rows` is of all items
        that were written, those that kept their keys, too.

        With neither, something changed that engines need not know.
        """
        gone, came = np.asarray(removed, np.int64), np.asarray(added, np.int64)
        self._steps.append(_Step(number, dim, gone, came, vectors, rows=rows))

    def drop(self, number: int) -> None:
        """Note that a collection is gone: no one needs its changes any more."""
        self._steps.append(_Step(number, 0, _NO_KEYS, _NO_KEYS, (), dropped=True))

    def items(self) -> Mapping[int, Sequence[ItemChange]]:
        """Return what was done to the items of each collection, in order."""
        by_number: dict[int, list[ItemChange]] = {}
        for step in self._steps:
            lost = step.dropped or len(step.added) > len(step.rows)
            if lost or len(step.removed) or step.rows:
                change = ItemChange(np.sort(step.removed), step.rows, lost)
                by_number.setdefault(step.number, []).append(change)
        return by_number

    def fold(self, seq: int) -> Mapping[int, Changes]:
        """Return what all steps did in the end: a key that came and went is in neither list."""
        by_number: dict[int, list[_Step]] = {}
        for step in self._steps:
            if step.dropped:
                by_number[step.number] = []
            elif len(step.removed) or len(step.added):
                by_number.setdefault(step.number, []).append(step)
        folded = {number: _fold(seq, steps) for number, steps in by_number.items() if steps}
        return {
            number: changes
            for number, changes in folded.items()
            if len(changes.removed) or len(changes.added)
        }


def _fold(seq: int, steps: Sequence[_Step]) -> Changes:
    if len(steps) == 1:  # the large ones: a collection that is embedded anew
        step = steps[0]
        return Changes(seq, np.sort(step.removed), step.added, _matrix(step.vectors, step.dim))
    if not any(len(step.removed) for step in steps):  # keys are given out rising
        return Changes(
            seq,
            _NO_KEYS,
            np.concatenate([step.added for step in steps]),
            np.concatenate([_matrix(step.vectors, step.dim) for step in steps]),
        )
    removed: set[int] = set()
    added: dict[int, Vector] = {}
    for step in steps:
        for key in step.removed.tolist():
            if added.pop(key, None) is None:
                removed.add(key)
        added.update(zip(step.added.tolist(), step.vectors, strict=True))
    keys = sorted(added)
    return Changes(
        seq=seq,
        removed=np.array(sorted(removed), np.int64),
        added=np.array(keys, np.int64),
        vectors=_matrix([added[key] for key in keys], steps[-1].dim),
    )


def _matrix(vectors: Sequence[Vector] | Vectors, dim: int) -> Vectors:
    if isinstance(vectors, np.ndarray):
        return vectors
    if not vectors:
        return np.zeros((0, dim), np.float32)
    return np.asarray(vectors, np.float32)
