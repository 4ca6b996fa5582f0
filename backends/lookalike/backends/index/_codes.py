"""Candidates for the best rows from a copy of the vectors in 8 bits a number, none missed.

A vector v is m + s * c + r: the mean, a scale times whole numbers from -127 to 127, and
what is left. A query q is t * b + p likewise. So

    q.v = q.m + t * s * (b.c) + (t * b).r + p.(v - m)

of which b.c is a product of whole numbers, exact; q.m is the same for all rows; and the
rest is at most |t * b| * |r| + |p| * |v - m| (Cauchy-Schwarz), whose lengths are known. A
row whose b.c is further below the k-th best b.c than twice that cannot be among the k best.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.index._int8 import MOST_DIM, Multiply, Sums
from lookalike.backends.index._threads import divided
from lookalike.backends.types import Mask, Rows, Vectors

BLOCK = 8192
"""Rows made codes at a time."""
SAMPLE = 4096
"""Rows that say where the middle is and how far numbers reach."""
REACH = 0.999
"""Share of the sample's rows none of whose numbers is cut off."""
ODD_SHARE = 0.002
"""Rows that codes fit worst, which are compared otherwise, so that the others' bound is
not theirs."""
SCORES = 2**19
"""Scores made at a time, 2 MiB: what stays in a core's cache."""
GROUP = 64
"""Rows that give one to find the floor by."""
LOWEST = np.iinfo(np.int32).min
ROUNDING = 1e-5
"""Share by which lengths computed in float32 are taken to be longer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries in 8 bits a number."""

    matrix: NDArray[np.int8]
    """(dim, q)."""
    slack: NDArray[np.int64]
    """Twice what a sum may be off, rounded up."""


class CodedVectors:
    """The codes of all rows and the bound of their error. Any thread."""

    def __init__(self, vectors: Vectors, make: Callable[[NDArray[np.int8]], Multiply]) -> None:
        """Make the codes: reads all vectors once, and takes a quarter of their memory."""
        count, dim = vectors.shape
        assert dim <= MOST_DIM
        self._make = make
        rng = np.random.default_rng(0)
        some = vectors[np.sort(rng.choice(count, min(SAMPLE, count), replace=False))]
        mean = some.mean(axis=0, dtype=np.float64).astype(np.float32)
        reach = float(np.quantile(np.abs(some - mean).max(axis=1), REACH))
        scale = np.float32(reach / 127 if reach > 0 else 1)
        self.codes = np.empty((count, dim), np.uint8)
        left, far = np.empty(count, np.float32), np.empty(count, np.float32)
        for start in range(0, count, BLOCK):
            part = slice(start, min(start + BLOCK, count))
            block = vectors[part] - mean
            far[part] = np.vecdot(block, block)
            whole = np.clip(np.rint(block / scale), -127, 127)
            self.codes[part] = whole + 128
            block -= whole * scale
            left[part] = np.vecdot(block, block)
        limit = float(np.quantile(left, 1 - ODD_SHARE))
        odd = left > limit
        self.odd: Rows = np.flatnonzero(odd)
        """Rows that are further from their codes than the bound says."""
        self._scale = float(scale)
        # rounding of the float32 numbers above: of each coordinate, and of the sums
        noise = (
            4 * float(np.finfo(np.float32).eps) * math.sqrt(dim) * float(np.abs(mean).max() + reach)
        )
        self._left = math.sqrt(limit) * (1 + ROUNDING) + noise
        self._far = math.sqrt(float(far.max(where=~odd, initial=0))) * (1 + ROUNDING) + noise

    @property
    def memory_bytes(self) -> int:
        return self.codes.nbytes + self.odd.nbytes

    def ask(self, queries: Vectors) -> Asked:
        """Make codes of queries, each with a scale of its own."""
        wide = queries.astype(np.float64)
        scale = np.abs(wide).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        whole = np.rint(wide / scale)
        left = wide - scale * whole
        lost = np.sqrt(np.vecdot(left, left)) * self._far
        lost += np.sqrt(np.vecdot(whole, whole)) * scale[:, 0] * self._left
        lost *= 2 * (1 + ROUNDING) / (scale[:, 0] * self._scale)
        slack = np.minimum(np.ceil(lost) + 1, 2.0**40).astype(np.int64)
        return Asked(np.ascontiguousarray(whole.T, np.int8), slack)

    def candidates(
        self, queries: Vectors, want: int, live: Mask | None, threads: int
    ) -> tuple[Rows, Rows]:
        """Return pairs (query, row) among which are the `want` best live rows, odd ones apart."""
        asked = self.ask(queries)
        count = len(self.codes)
        shared = _Floor(np.full(len(queries), LOWEST, np.int64))
        parts = divided(
            count, threads, lambda start, stop: self._walk(asked, want, live, start, stop, shared)
        )
        tops = np.concatenate([part.top for part in parts])
        floor = _kth(tops, want).min(axis=0) - asked.slack
        pairs = [part.above(floor) for part in parts]
        return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])

    def _walk(
        self, asked: Asked, want: int, live: Mask | None, start: int, stop: int, shared: _Floor
    ) -> _Walk:
        multiply = self._make(asked.matrix)
        queries = asked.matrix.shape[1]
        size = min(max(SCORES // queries // GROUP * GROUP, 1024), BLOCK)
        group = max(1, min(GROUP, len(self.codes) // (16 * want)))
        walk = _Walk(np.full((want, queries), LOWEST, np.int32), group, asked.slack, shared)
        buffer = np.empty((size, queries), np.int32)
        for first in range(start, stop, size):
            last = min(first + size, stop)
            sums = buffer[: last - first]
            multiply(self.codes[first:last], sums)
            if live is not None:
                sums[~live[first:last]] = LOWEST
            low, high = np.searchsorted(self.odd, (first, last))
            sums[self.odd[low:high] - first] = LOWEST
            walk.add(first, sums)
        return walk


class _Floor:
    """The best floor that any thread knows of."""

    def __init__(self, values: NDArray[np.int64]) -> None:
        self.values = values
        self._lock = threading.Lock()

    def raised(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        with self._lock:
            self.values = np.maximum(self.values, values)
            return self.values


class _Walk:
    """What one thread has seen."""

    def __init__(self, top: Sums, group: int, slack: NDArray[np.int64], shared: _Floor) -> None:
        self.top = top
        """(want, q): best sums of different rows, not always the very best."""
        self._group = group
        self._slack = slack
        self._shared = shared
        self._found: list[tuple[Rows, Rows, Sums]] = []
        self._size = 0
        self._limit = 64 * top.size + 65_536

    def add(self, first: int, sums: Sums) -> None:
        """Look at the sums of consecutive rows."""
        rows, queries = sums.shape
        whole = rows // self._group * self._group
        best = sums[:whole].reshape(-1, self._group, queries).max(axis=1)
        want = len(self.top)
        self.top = _kth(np.concatenate([self.top, best, sums[whole:]]), want)
        floor = self._shared.raised(self.top.min(axis=0).astype(np.int64) - self._slack)
        floor = np.maximum(floor, LOWEST + 1)  # rows that are not live never are
        flat = np.flatnonzero(sums >= floor.astype(np.int32))
        row, query = np.divmod(flat, queries)
        self._found.append((query, row + first, sums.ravel()[flat]))
        self._size += len(flat)
        if self._size > self._limit:
            query, row, kept = self._kept(floor)
            self._found = [(query, row, kept)]
            self._size = len(row)
            self._limit = max(self._limit, 2 * self._size)

    def above(self, floor: NDArray[np.int64]) -> tuple[Rows, Rows]:
        """Return the pairs whose sum is not below the floor."""
        query, row, _ = self._kept(floor)
        return query, row

    def _kept(self, floor: NDArray[np.int64]) -> tuple[Rows, Rows, Sums]:
        query = np.concatenate([found[0] for found in self._found])
        row = np.concatenate([found[1] for found in self._found])
        sums = np.concatenate([found[2] for found in self._found])
        keep = sums >= floor[query]
        return query[keep], row[keep], sums[keep]


def _kth(sums: Sums, want: int) -> Sums:
    """Keep the `want` largest of each column, in any order."""
    if len(sums) <= want:
        return sums
    kept: Sums = np.partition(sums, len(sums) - want, axis=0)[-want:]
    return kept
