"""Measures the recall of an engine's segments in the background, and has searches look
harder where it is less than the target."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from lookalike.backends.engine._effort import WITHERED, harder
from lookalike.backends.engine._part import Part, Segment
from lookalike.backends.engine._rounds import BOOSTS, FRUITLESS, Round
from lookalike.backends.engine._scan import checked
from lookalike.backends.engine._view import View
from lookalike.backends.engine.base import Asked
from lookalike.backends.index._measure import TOP
from lookalike.backends.recall import Estimate, Recall
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams, Metric, SearchParams

log = logging.getLogger(__name__)
Clock: TypeAlias = Callable[[], float]

NEWS = 256
"""After so many new queries recall is measured again,"""
RENEW_S = 600.0
"""but not before so many seconds have passed, unless it was measured without any."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of a segment, the last time."""

    estimate: Estimate
    goal: float
    dead: int
    """Dead rows when it was measured."""
    asked: int
    """Queries that the engine had answered until then."""
    at: float
    """By the probe's clock."""
    time: float
    """Seconds since the epoch."""
    short: bool = False
    """True if no search of this index finds enough."""


class Measuring:
    """Knows the recall of segments, and the boosts that hold it. One thread measures."""

    def __init__(self, metric: Metric, clock: Clock) -> None:
        self._metric = metric
        self._clock = clock
        self._round: Round | None = None
        self._measured: dict[Segment, Measured] = {}
        self._boosts: dict[Segment, float] = {}
        self.asked: Asked | None = None
        """Queries to measure with, too."""
        self.unsaved = False
        """True after a boost was raised, until the engine has saved it."""

    def keep(self, known: set[Segment]) -> None:
        """Forget all other segments."""
        self._measured = {s: m for s, m in self._measured.items() if s in known}
        self._boosts = {s: b for s, b in self._boosts.items() if s in known}
        if self._round is not None and self._round.part.segment not in known:
            self._round = None

    def found(self, segment: Segment) -> Measured | None:
        """Return what was found of a segment, the last time. Any thread."""
        return self._measured.get(segment)

    def boost(self, segment: Segment) -> float:
        """Return how much harder than by itself an index has to search. Any thread."""
        return self._boosts.get(segment, segment.boost)

    def boosted(self, part: Part, params: SearchParams) -> SearchParams:
        """Return the parameters that a search of this part needs. Any thread."""
        boost = self._boosts.get(part.segment, part.segment.boost)
        return params if boost == 1.0 else replace(params, boost=boost)

    def of(self, view: View) -> Recall | None:
        """Return what was found of all parts, weighted by their rows. Any thread.

        Parts that are compared exactly count as they are, those that were not measured
        yet like the measured ones; None while these are not half of the rows in question.
        The intervals of several parts are put together as of independent measurements.
        """
        found: list[tuple[int, Measured]] = []
        unknown = exact = 0
        for part in view.every:
            if not approximate(part):
                exact += part.count
            elif (measured := self._measured.get(part.segment)) is not None:
                found.append((part.count, measured))
            else:
                unknown += part.count
        rows = sum(count for count, _ in found)
        if not rows or rows < unknown:
            return None
        weight = (1 - exact / (rows + unknown + exact)) / rows
        estimates = [(weight * count, measured.estimate) for count, measured in found]
        value = 1 - sum(share * (1 - e.value) for share, e in estimates)
        below = math.hypot(*(share * (e.value - e.low) for share, e in estimates))
        above = math.hypot(*(share * (e.high - e.value) for share, e in estimates))
        queries = sum(e.count for _, e in estimates)
        estimate = Estimate(value, max(0.0, value - below), min(1.0, value + above), queries)
        return Recall(estimate, TOP, min(measured.time for _, measured in found))

    def unmeasured(self, view: View, spec: IndexSpec) -> Part | None:
        """Return a segment whose recall is not known, or not any more."""
        asked, now = self.asked, self._clock()
        for part in view.parts:
            if not approximate(part) or part.count < 2:
                continue
            found = self._measured.get(part.segment)
            if found is None or found.goal != spec.goal:
                return part
            if part.dead > found.dead + WITHERED * part.rows:
                return part
            pause_s = RENEW_S if found.asked >= NEWS else 0.0
            if asked and asked.count >= found.asked + NEWS and now >= found.at + pause_s:
                return part
        return None

    def renewal_s(self, view: View) -> float | None:
        """Return the seconds until new queries may be reason to measure again; None: never."""
        if self.asked is None:
            return None
        known = [m for p in view.parts if (m := self._measured.get(p.segment)) is not None]
        if not known:
            return None
        due = min(m.at + RENEW_S if m.asked >= NEWS else 0.0 for m in known)
        return max(RENEW_S / 10, due - self._clock())

    def measure(self, part: Part, spec: IndexSpec, until: float) -> None:
        """Go on with the measurement of a segment, until then by the clock."""
        if self._round is None or self._round.part.segment is not part.segment:
            self._round = self._new_round(part)
        going = self._round
        while going.step():
            if self._clock() >= until:
                return
        estimate, goal = going.estimate, spec.goal
        enough = estimate.low >= goal or going.exact or (going.all_asked and estimate.value == 1)
        short = False
        if not enough:
            if estimate.high >= goal and not going.all_asked:
                going.go_on()
                return
            if not is_fixed(spec):
                if self._raise(going, estimate, goal):
                    return
                short = part.segment.effort == 0 and harder(part.segment.spec) is not None
                log.warning(
                    "index falls short: recall %.4f, at most %.4f, where %g is to be reached; %s",
                    estimate.value,
                    estimate.high,
                    goal,
                    "building it with more effort" if short else "nothing is left to raise",
                )
        asked = self.asked.count if self.asked else 0
        at = (self._clock(), time.time())
        self._measured[part.segment] = Measured(
            estimate, goal, going.part.dead, asked, *at, short=short
        )
        self._round = None

    def _new_round(self, part: Part) -> Round:
        dim = part.segment.vectors.shape[1]
        recent = np.empty((0, dim), np.float32)
        if self.asked is not None:
            asked = self.asked.vectors()
            if len(asked) and asked.shape[1] == dim:
                recent = checked(asked, TOP, dim, self._metric)
        return Round(part, self._metric, recent, self.boost(part.segment))

    def raise_some(self, part: Part, spec: IndexSpec) -> bool:
        """Have a segment searched harder, within limits; False if it should be built anew."""
        greater = [b for b in BOOSTS if self.boost(part.segment) < b <= FRUITLESS]
        if not greater or is_fixed(spec):
            return False
        log.info(
            "searches look harder, for rows that do not find themselves: boost %g, segment of "
            "%d rows",
            greater[0],
            part.rows,
        )
        self._set(part.segment, greater[0])
        return True

    def _set(self, segment: Segment, boost: float) -> None:
        self._boosts = {**self._boosts, segment: boost}
        self.unsaved = True

    def _raise(self, going: Round, estimate: Estimate, goal: float) -> bool:
        before = going.boost
        if not going.harder():
            if going.is_fruitless:
                self._set(going.part.segment, 1.0)
            return False
        log.info(
            "searches look harder: recall %.4f (%.4f to %.4f) where %g is to be reached, "
            "boost %g after %g, segment of %d rows",
            estimate.value,
            estimate.low,
            estimate.high,
            goal,
            going.boost,
            before,
            going.part.rows,
        )
        self._set(going.part.segment, going.boost)
        return True


def approximate(part: Part) -> bool:
    """Tell whether searches of a part may miss something."""
    index = part.segment.index
    return part.segment.sealed and index is not None and not index.exact


def is_fixed(spec: IndexSpec) -> bool:
    """Tell whether the owner has said how to search, and not what to reach."""
    match spec.algorithm:
        case HnswParams(ef_search=fixed) | IvfParams(nprobe=fixed) if fixed:
            return not spec.target_recall
    return False
