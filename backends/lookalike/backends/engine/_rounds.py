"""Measures how much of the truth the searches of one segment find, a little at a time.

The vectors of some live rows, and queries that were asked lately, are compared with all
rows, block by block, and then asked of the index. The truth is worked out once: where the
index has to look harder, the same queries are asked again.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from lookalike.backends.engine._part import Part
from lookalike.backends.engine._scan import nearest
from lookalike.backends.index._measure import TOP
from lookalike.backends.recall import (
    Estimate,
    Scores,
    Shares,
    found_shares,
    of_queries,
    without_own,
)
from lookalike.backends.types import Metric, Rows, SearchParams, Vectors

STAGE = 250
"""Queries after which it is looked whether they are enough."""
MOST = 1000
"""Queries of a round. At 0.99 their interval is about 0.004 wide to each side."""
CHUNK = 50
"""Queries compared with a block of rows at a time."""
BLOCK_NUMBERS = 1 << 22
"""Numbers of a block: 8192 rows of 512 take about 10 ms of one core with 50 queries."""
ASKED = 5
"""Queries asked of the index at a time: 1 to 3 ms."""
BOOSTS: Sequence[float] = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
FRUITLESS = 4.0
"""An index that finds no more with this boost than without takes none."""


class Round:
    """One measurement. Holds the part as it was when it began; one thread."""

    def __init__(self, part: Part, metric: Metric, recent: Vectors, boost: float) -> None:
        self.part = part
        self.exact = False
        self.boost = boost
        self.is_fruitless = False
        """True if boosts turned out to change nothing."""
        self._metric = metric
        rng = np.random.default_rng(abs(part.segment.number))
        lately = rng.permutation(recent)[: MOST // 2]
        live = part.live_rows()
        own = rng.choice(live, min(MOST - len(lately), len(live)), replace=False)
        own = np.concatenate([own, np.full(len(lately), -1)])
        order = rng.permutation(len(own))
        self._own: Rows = own[order]
        self._lately = lately
        self._place = order - (len(own) - len(lately))
        """Where in `_lately` a query is that is no row."""
        self._top = min(TOP, part.count - 1)
        self._truth = np.full((len(own), self._top), -np.inf, np.float32)
        self._known = 0
        """Queries whose truth is complete."""
        self._row = 0
        """Where the walk over the rows is, for the queries behind those."""
        self._shares: Shares = np.empty(len(own))
        self._asked = 0
        self._judged = 0
        """How many had been asked when it was last decided to go on."""
        self._first = 0.0
        """What was found with the least boost."""

    @property
    def count(self) -> int:
        """Queries there are."""
        return len(self._own) if self._top > 0 else 0

    def step(self) -> bool:
        """Do a little; False if there is something to decide first."""
        if self._asked < self._known:
            self._ask()
            return True
        if self._asked != self._judged and (self._asked % STAGE == 0 or self.all_asked):
            return False
        self._compare()
        return True

    def go_on(self) -> None:
        """Take up more queries."""
        self._judged = self._asked

    @property
    def estimate(self) -> Estimate:
        """What was found so far, of at least one query."""
        return of_queries(self._shares[: self._asked], self._top)

    @property
    def all_asked(self) -> bool:
        return self._asked == self.count

    def harder(self) -> bool:
        """Begin again with a greater boost; False if there is none, or none helps."""
        found = float(self._shares[: self._asked].mean())
        self._first = self._first or found
        greater = [boost for boost in BOOSTS if boost > self.boost]
        self.is_fruitless = self.boost >= FRUITLESS and found <= self._first
        if not greater or self.is_fruitless:
            return False
        self.boost, self._asked, self._judged = greater[0], 0, 0
        return True

    def _queries(self, start: int, stop: int) -> Vectors:
        own, place = self._own[start:stop], self._place[start:stop]
        queries = np.empty((len(own), self.part.segment.vectors.shape[1]), np.float32)
        stored = own >= 0
        queries[stored] = self.part.segment.vectors[own[stored]]
        queries[~stored] = self._lately[place[~stored]]
        return queries

    def _compare(self) -> None:
        """Compare the next queries with the next rows."""
        segment, live = self.part.segment, self.part.live
        start, stop = self._known, min(self._known + CHUNK, self.count)
        rows = len(segment.keys)
        end = min(rows, self._row + max(256, BLOCK_NUMBERS // segment.vectors.shape[1]))
        block = segment.vectors[self._row : end]
        hits = nearest(
            block,
            self._queries(start, stop),
            self._top + 1,
            self._metric,
            live=None if live is None else live[self._row : end],
        )
        is_own = hits.ids + self._row == self._own[start:stop, None]
        scores: Scores = np.where(is_own, np.float32(-np.inf), hits.scores)
        merged = np.concatenate([self._truth[start:stop], scores], axis=1)
        self._truth[start:stop] = -np.sort(-merged, axis=1)[:, : self._top]
        _let_go(segment.vectors, self._row, end)
        self._row = end
        if end == rows:
            self._known, self._row = stop, 0

    def _ask(self) -> None:
        start, stop = self._asked, min(self._asked + ASKED, self._known)
        hits, _ = self.part.search(
            self._queries(start, stop),
            self._top + 1,
            self._metric,
            None,
            SearchParams(boost=self.boost),
        )
        keys = self.part.segment.keys
        own = np.where(self._own[start:stop] < 0, -1, keys[self._own[start:stop]])
        found = without_own(hits.ids, hits.scores, own)
        self._shares[start:stop] = found_shares(found, self._truth[start:stop])
        self.exact = hits.exact
        self._asked = stop


def _let_go(vectors: Vectors, start: int, stop: int) -> None:
    """Let the pages of rows that are mapped from a file go: they count as the process's.

    They stay in the system's cache, so that a search gets them back for a minor fault.
    """
    base = vectors.base
    mapped = getattr(base, "_mmap", None)
    if not isinstance(base, np.memmap) or not isinstance(mapped, mmap.mmap):
        return
    row = vectors.shape[1] * vectors.itemsize
    head = base.offset % mmap.ALLOCATIONGRANULARITY
    first = -(-(head + start * row) // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (head + stop * row) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)
