"""Looks whether indexes find what they should, a little at a time.

First it measures how much of the truth searches find (see `_rounds`), of rows and of
queries that were asked lately. Where that is less than the target, searches look harder;
where that does not help, the index is built with more effort, once.

Then it looks whether the vectors find themselves. Graphs lose rows: a node that no walk
comes by is stored, counted and never shown. No count and no checksum tells; only asking
does. So each live row of an index is asked for by its own vector.

Both are done once after an index is built or loaded, and again when many rows have died
since; recall also when there were many new queries.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from lookalike.backends.engine._effort import MOST_EFFORT
from lookalike.backends.engine._measuring import Measuring, approximate
from lookalike.backends.engine._part import Part, Segment
from lookalike.backends.engine._view import View
from lookalike.backends.index._measure import TOP
from lookalike.backends.types import (
    IndexSpec,
    Mask,
    Metric,
    Rows,
    SearchParams,
)

log = logging.getLogger(__name__)
Clock: TypeAlias = Callable[[], float]

LEAST = 0.999
"""Of the live rows of an index, the share that must be among their own ten best. Measured
(10,000 rows of 32 or 128, half of them deleted and others added, twice): graphs and lists
with the default parameters reach 1.0, graphs with too few links 0.4 to 0.7. The line lies
where nobody would notice yet: one stored picture in a thousand does not find itself. With
a target recall below 0.99 the line is lower, a tenth of what may be missed: 0.99 for 0.9."""
DEEP = SearchParams(ef_search=1024, nprobe=1 << 18)
DEEP_TOP = 200
"""How a row is asked for once more that was not among its ten best."""
AGAIN = 0.05
"""A segment is looked at again when so many more of its rows are dead."""
SLICE_S = 0.02
"""About as long does one look take, and as long does closing wait for it."""
MOST_QUERIES = 256


@dataclass(slots=True)
class Pass:
    """One walk over all rows of a segment."""

    rows: int
    stride: int
    dead: int
    """Dead rows when it began."""
    position: int = 0
    probed: int = 0
    missed: int = 0
    """Of the probed, those that were not among their own ten best."""
    lost: int = 0
    """Of these, those that a deep search for 200 did not find either."""

    @classmethod
    def over(cls, part: Part) -> Pass:
        """Begin a walk. It jumps about, so that its beginning is a fair sample."""
        rows = part.rows
        stride = max(1, round(rows * 0.618))
        while math.gcd(stride, rows) != 1:
            stride += 1
        return cls(rows, stride, part.dead)

    @property
    def over_all(self) -> bool:
        return self.position >= self.rows

    def take(self, count: int) -> Rows:
        """Return the next rows of the walk."""
        steps = np.arange(self.position, min(self.position + count, self.rows), dtype=np.int64)
        self.position += len(steps)
        return steps * self.stride % self.rows


class Probe:
    """Watches the segments of one engine. One thread looks; any may read."""

    def __init__(self, metric: Metric, percent: int, clock: Clock = time.monotonic) -> None:
        self._metric = metric
        self._percent = percent
        self._clock = clock
        self._passes: dict[Segment, Pass] = {}
        self._queries = 16
        self._next = clock()
        self._least = LEAST
        self.recall = Measuring(metric, clock)

    def pause_s(self, view: View, spec: IndexSpec) -> float | None:
        """Return the seconds until the next look; None if there is nothing to look at."""
        if not self._percent:
            return None
        if self._part(view) is None and self.recall.unmeasured(view, spec) is None:
            return self.recall.renewal_s(view)
        return max(0.0, self._next - self._clock())

    def look(self, view: View, spec: IndexSpec) -> None:
        """Look a little further; takes about SLICE_S, and the pause after it the rest."""
        began = self._clock()
        known = {part.segment for part in view.parts}
        self._passes = {s: p for s, p in self._passes.items() if s in known}
        self.recall.keep(known)
        self._least = min(LEAST, 1 - (1 - spec.goal) / 10)
        if (part := self.recall.unmeasured(view, spec)) is not None:
            self.recall.measure(part, spec, began + SLICE_S)
        elif (part := self._part(view)) is not None:
            walk = self._passes.get(part.segment)
            if walk is None or walk.over_all:
                walk = self._passes[part.segment] = Pass.over(part)
            self._ask(part, walk)
            too_many = (1 - self._least) * part.count
            if walk.lost <= too_many < walk.missed and self.recall.raise_some(part, spec):
                self._passes[part.segment] = Pass.over(part)
            elif self._is_short(part, walk):
                log.warning(
                    "index falls short: of %d rows asked for by their own vectors %d are not "
                    "found, %d not even by a deep search; building it anew",
                    walk.probed,
                    walk.missed,
                    walk.lost,
                )
        took = self._clock() - began
        if took < SLICE_S / 2 and self._queries < MOST_QUERIES:
            self._queries *= 2
        elif took > SLICE_S and self._queries > 1:
            self._queries //= 2
        self._next = self._clock() + took * (100 / max(1, self._percent) - 1)

    def short(self, view: View) -> Part | None:
        """Return a segment that falls short, to be built anew."""
        for part in view.parts:
            walk = self._passes.get(part.segment)
            if walk is not None and self._is_short(part, walk):
                return part
            found = self.recall.found(part.segment)
            if found is not None and found.short:
                return part
        return None

    def reading(self, part: Part) -> dict[str, object]:
        """Say what was found of a segment, for people; empty if nothing was."""
        shown: dict[str, object] = {}
        if (boost := self.recall.boost(part.segment)) != 1.0:
            shown["boost"] = boost
        if (found := self.recall.found(part.segment)) is not None:
            shown["checked_recall"] = round(found.estimate.value, 4)
        walk = self._passes.get(part.segment)
        if walk is not None and walk.probed:
            shown |= {"probed": walk.probed, "missed": walk.missed, "lost": walk.lost}
        return shown

    def _part(self, view: View) -> Part | None:
        """Return a segment that is not yet, or not any more, known to be well."""
        for part in view.parts:
            if not approximate(part) or not part.count:
                continue
            walk = self._passes.get(part.segment)
            if walk is None or not walk.over_all or part.dead > walk.dead + AGAIN * part.rows:
                return part
        return None

    def _ask(self, part: Part, walk: Pass) -> None:
        rows = walk.take(self._queries)
        if part.live is not None:
            rows = rows[part.live[rows]]
        if not len(rows):
            return
        found, exact = self._found(part, rows, TOP, self.recall.boosted(part, SearchParams()))
        if exact:  # small as it is, it compares with all
            walk.position = walk.rows
        missed = rows[~found]
        walk.probed += len(rows)
        walk.missed += len(missed)
        if len(missed):
            found, _ = self._found(part, missed, DEEP_TOP, DEEP)
            walk.lost += int(np.count_nonzero(~found))

    def _found(self, part: Part, rows: Rows, k: int, params: SearchParams) -> tuple[Mask, bool]:
        """Tell which rows are among their own k best, or rightly not: others are as near."""
        queries = np.ascontiguousarray(part.segment.vectors[rows])
        hits, _ = part.search(queries, k, self._metric, None, params)
        keys = part.segment.keys[rows]
        own = (hits.ids == keys[:, None]).any(axis=1)
        wide = queries.astype(np.float64)
        squares = np.einsum("ij,ij->i", wide, wide)
        right = np.zeros(len(rows)) if self._metric is Metric.L2 else squares
        noise = 1e-5 * np.maximum(1.0, squares)
        others: Mask = hits.scores[:, -1] >= right - noise
        return own | others, hits.exact

    def _is_short(self, part: Part, walk: Pass) -> bool:
        if part.segment.effort >= MOST_EFFORT:
            return False
        if walk.missed > (1 - self._least) * part.count:
            return True
        # A few that nothing finds are worth one more try, but not comparing all for ever.
        return walk.over_all and walk.lost > 0 and part.segment.effort == 0
