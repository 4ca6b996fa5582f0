"""What scores mean in one collection, learned from the scores of its unrelated items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Metric, Vectors

Scores: TypeAlias = NDArray[np.float32]

MIN_ITEMS: Final = 50
"""With fewer items their pairs are too few, and too much alike, to tell."""
_MOST_ITEMS: Final = 2800
"""Items of the sample: 3.9 million pairs, one matrix product of 0.2 s at 512 numbers each."""
_MOST_NUMBERS: Final = 4_000_000
"""Numbers in the sample's vectors: 16 MB, also where vectors are long."""
_RATES: Final = (
    *(0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1),
    *(m * 10.0**e for e in range(-2, -9, -1) for m in (5.0, 2.0, 1.0)),
)
_TAIL_PAIRS: Final = 100
"""A share that fewer pairs of the sample reach is not read off, but extrapolated."""
_MOST_CHECKED: Final = 50
_MISSES: Final = 8
"""The highest pairs are compared as pictures until so many in a row are different ones."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores that shares of unrelated pairs reach.

    `rates` fall strictly from 1, `scores` rise with them. Between two of them the
    logarithm of the rate is linear in the score, and beyond the last one it goes on
    as between the last two: an exponential tail, which is what the excess over a
    high threshold tends to where scores have no sharp end (Pickands 1975, Balkema &
    de Haan 1974, with shape 0) and too careful where they have one, as cosines do.
    """

    pair_count: int
    """Pairs it was learned from."""
    rates: tuple[float, ...]
    scores: tuple[float, ...]

    def rate(self, score: float) -> float:
        """Return the share of unrelated pairs that score as high, above 0, at most 1."""
        if score >= self.scores[-1]:
            (a, b), (x, y) = np.log(self.rates[-2:]), self.scores[-2:]
            log = b + (score - y) * (b - a) / (y - x)
        else:
            log = np.interp(score, self.scores, np.log(self.rates))
        return float(max(np.exp(log), np.finfo(np.float64).tiny))

    def score(self, rate: float) -> float:
        """Return the score that this share, above 0, of unrelated pairs reaches."""
        log, logs = np.log(rate), np.log(self.rates)
        if log <= logs[-1]:
            slope = (self.scores[-1] - self.scores[-2]) / (logs[-1] - logs[-2])
            return float(self.scores[-1] + (log - logs[-1]) * slope)
        return float(np.interp(log, logs[::-1], self.scores[::-1]))


def sample_size(count: int, dim: int) -> int:
    """Return how many of `count` items to learn from."""
    return min(count, _MOST_ITEMS, max(MIN_ITEMS, _MOST_NUMBERS // max(dim, 1)))


def scores_of(vectors: Vectors, others: Vectors, metric: Metric) -> Scores:
    """Return the (n, m) scores of (n, dim) against (m, dim), as an engine gives them."""
    products = vectors @ others.T
    if metric is not Metric.L2:
        return products
    squares = np.square(vectors).sum(axis=1)[:, None] + np.square(others).sum(axis=1)
    return np.asarray(np.minimum(2 * products - squares, 0), np.float32)


def learn(
    vectors: Vectors, metric: Metric, same_picture: Callable[[int, int], bool]
) -> Calibration | None:
    """Learn from all pairs of a sample of items; None where they tell nothing.

    `vectors` is (n, dim), n at least 2. `same_picture` says whether two rows show the
    same picture; it is asked about the highest pairs only, at most 50, and those that
    do are left out: they are no unrelated pairs. Any thread; about half a second.
    """
    table = scores_of(vectors, vectors, metric)
    rows, columns = np.triu_indices(len(table), 1)
    scores = table[rows, columns]
    del table
    order = np.argpartition(scores, -min(_MOST_CHECKED, len(scores)))[-_MOST_CHECKED:]
    order = order[np.argsort(-scores[order], kind="stable")]
    related: list[int] = []
    misses = 0
    for pair in order:
        if misses == _MISSES:
            break
        if same_picture(int(rows[pair]), int(columns[pair])):
            related.append(int(pair))
            misses = 0
        else:
            misses += 1
    return fit(np.delete(scores, related), 1.0 if metric is Metric.COSINE else np.inf)


def fit(scores: Scores, most: float = np.inf) -> Calibration | None:
    """Return the table of these scores of unrelated pairs; None if they are all one.

    It ends at the score `most`, which none can be above.
    """
    rising = np.sort(scores).astype(np.float64)
    count = len(rising)
    if not count or rising[0] == rising[-1]:
        return None
    known = [rate for rate in _RATES if rate * count >= _TAIL_PAIRS] or [_RATES[0]]
    found = [1.0, *known]
    quantiles = [float(rising[0]), *_reached(rising, known)]
    last_rate, last = found[-1], quantiles[-1]
    excess = rising[rising > last] - last
    decay = float(excess.mean()) if len(excess) else 0.0
    decay = max(decay, 1e-6 * float(rising[-1] - rising[0]))
    for rate in _RATES[len(known) :]:
        score = last + decay * float(np.log(last_rate / rate))
        if score > most:
            break
        found.append(rate)
        quantiles.append(score)
    return Calibration(count, tuple(found), tuple(_rising(quantiles)))


def _reached(rising: NDArray[np.float64], rates: Sequence[float]) -> list[float]:
    """Return for each rate the lowest score that at most this share of all reaches."""
    count = len(rising)
    return [float(rising[min(count - 1, int(np.ceil(count * (1 - rate))))]) for rate in rates]


def _rising(scores: Sequence[float]) -> list[float]:
    """Push equal scores apart by next to nothing, so that no two rates share one."""
    step = 1e-7 * (max(scores) - min(scores))
    pushed = [scores[0]]
    for score in scores[1:]:
        pushed.append(max(score, pushed[-1] + step))
    return pushed
