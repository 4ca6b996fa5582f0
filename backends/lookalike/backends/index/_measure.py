"""How much of the truth an index finds, measured on its own vectors when it is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lookalike.backends.index._compare import ExactSearch, rerank
from lookalike.backends.types import Rows

TOP = 10
SAMPLE = 256
MOST_FACTOR = 64
"""Lossy codes: at most so many proposals for each hit that is wanted."""
SURE = 1.645
"""Standard errors between what was measured and what is believed: the goal lies below
with 95 % certainty, if queries are like the vectors."""
MOST_EF = 1024
"""Measuring does not raise ef_search beyond this: 256 queries then cost a second."""
ENOUGH = 64
LEAST_EF = 16
"""100,000 x 512, m 16: 0.984 of the ten nearest at 16, 0.999 at 32 for half the time of 64."""


class Reading(NamedTuple):
    """What the sample says of some proposals."""

    recall: float
    low: float
    """What recall is at least, with the certainty of `SURE`."""
    lost: int
    """Queries that did not find the vector they are."""


class Sample:
    """Some of the vectors as queries, with their true nearest others."""

    def __init__(self, exact: ExactSearch, *, seed: int = 0) -> None:
        self.exact = exact
        count = len(exact.vectors)
        rng = np.random.default_rng(seed)
        self.rows = np.sort(rng.choice(count, min(SAMPLE, count), replace=False))
        self.queries = np.ascontiguousarray(exact.vectors[self.rows])
        self.top = min(TOP, count - 1)
        """Neighbours looked for; 0 if the index is too small to measure."""
        if self.top:
            truth = exact.search(self.queries, self.top + 1)
            self._last = _without(truth.ids, truth.scores, self.rows, self.top)[:, -1:]
            self._worst = truth.scores[:, -1:]

    def read(self, proposals: Rows) -> Reading:
        """Measure recall@10 of proposed rows (queries, any), -1 = none.

        A row counts if it is as close as the true tenth: equal vectors stand in for
        one another.
        """
        hits = rerank(self.exact.metric, self.queries, self.exact.vectors, proposals, self.top + 1)
        scores = _without(hits.ids, hits.scores, self.rows, self.top)
        shares = (scores >= self._last).mean(axis=1)
        recall = float(shares.mean())
        low = recall - SURE * float(shares.std()) / math.sqrt(len(shares))
        own = (hits.ids == self.rows[:, None]).any(axis=1)
        own |= (hits.scores[:, -1:] >= self._worst).any(axis=1)
        return Reading(recall, low, int(np.count_nonzero(~own)))


def _without(ids: Rows, scores: np.ndarray, selves: Rows, top: int) -> np.ndarray:
    """Drop each query itself from its hits, or else the last one; `top` scores remain."""
    own = ids == selves[:, None]
    own[~own.any(axis=1), -1] = True
    kept: np.ndarray = scores[~own].reshape(len(ids), top)
    return kept


def raise_until_good(
    sample: Sample, ask: Callable[[int], Rows], steps: Iterator[int], goal: float
) -> tuple[int, Reading]:
    """Take the first of rising values by which the sample reaches the goal, or the last.

    Below `ENOUGH` it has to find itself, too: where one of 256 does not, thousands of a
    million do not. Beyond, what is hidden from a graph is not worth all others' time.
    """
    value = next(steps)
    while True:
        reading = sample.read(ask(value))
        if reading.low >= goal and (value >= ENOUGH or not reading.lost):
            return value, reading
        if (later := next(steps, 0)) <= value:
            return value, reading
        value = later


def rising(first: int, most: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, 16 and so on from `first`, and `most` at last."""
    value = first
    while value < most:
        yield value
        value = more(value)
    yield most


def more(value: int) -> int:
    """Return the next of the values that `rising` yields."""
    return max(value + 1, value * 3 // 2 if value & (value - 1) == 0 else value // 3 * 4)


def least_factor(sample: Sample, proposals: Rows, goal: float) -> tuple[int, Reading]:
    """Find how many proposals a hit are enough, and what is found with so many.

    `proposals` are (queries, (top + 1) * MOST_FACTOR), nearest first by their codes.
    """
    for factor in rising(1, MOST_FACTOR):
        reading = sample.read(proposals[:, : (sample.top + 1) * factor])
        if reading.recall >= goal:
            break
    return factor, reading
