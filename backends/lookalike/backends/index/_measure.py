"""How much of the truth an index finds, measured on its own vectors when it is built."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lookalike.backends.index._compare import ExactSearch, rerank
from lookalike.backends.types import Rows

GOAL = 0.99
"""recall@10 that the default parameters must reach on the sample."""
TOP = 10
SAMPLE = 256
MOST_FACTOR = 64
"""Lossy codes: at most so many proposals for each hit that is wanted."""


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

    def recall(self, proposals: Rows) -> float:
        """Return recall@10 of proposed rows (queries, any), -1 = none.

        A row counts if it is as close as the true tenth: equal vectors stand in for
        one another.
        """
        hits = rerank(self.exact.metric, self.queries, self.exact.vectors, proposals, self.top + 1)
        scores = _without(hits.ids, hits.scores, self.rows, self.top)
        return float((scores >= self._last).mean())


def _without(ids: Rows, scores: np.ndarray, selves: Rows, top: int) -> np.ndarray:
    """Drop each query itself from its hits, or else the last one; `top` scores remain."""
    own = ids == selves[:, None]
    own[~own.any(axis=1), -1] = True
    kept: np.ndarray = scores[~own].reshape(len(ids), top)
    return kept


def raise_until_good(
    sample: Sample, ask: Callable[[int], Rows], first: int, most: int
) -> tuple[int, float]:
    """Double a parameter from `first` until recall is good; return it and the recall."""
    value = min(first, most)
    while True:
        recall = sample.recall(ask(value))
        if recall >= GOAL or value >= most:
            return value, recall
        value = min(2 * value, most)


def least_factor(sample: Sample, proposals: Rows) -> tuple[int, float]:
    """Find how many proposals a hit are enough, by powers of 2, and their recall.

    `proposals` are (queries, (top + 1) * MOST_FACTOR), nearest first by their codes.
    """
    factor = 1
    while True:
        recall = sample.recall(proposals[:, : (sample.top + 1) * factor])
        if recall >= GOAL or factor >= MOST_FACTOR:
            return factor, recall
        factor *= 2
