"""How much of the truth was found, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Keys, Rows

Scores = NDArray[np.float32]
Shares = NDArray[np.float64]
"""(q,) float64: of each query's true nearest, the share that was found, 0 to 1."""

Z = 1.959964
"""Of a 95 % interval, both sides."""
NOISE = 1e-6
"""Scores so near to one another are the same: parts are scored by different sums."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, and the 95 % confidence interval that it lies in."""

    value: float
    low: float
    high: float
    count: int
    """Queries."""


@dataclass(frozen=True, slots=True)
class Recall:
    """What a measurement of recall found, and when."""

    estimate: Estimate
    limit: int
    """Hits of each query that were looked at."""
    time: float
    """Seconds since the epoch."""


def found_shares(found: Scores, truth: Scores) -> Shares:
    """Return what share of the true nearest was found, for each query.

    `truth` are the (q, k) best scores, best first, `found` the (q, any) that an index
    gave, -inf where none. A hit as good as the true k-th counts, whichever it is: equal
    vectors stand in for one another.
    """
    k = truth.shape[1]
    last = truth[:, -1:].astype(np.float64)
    last -= NOISE * np.maximum(1.0, np.abs(last))
    good = (found >= last) & np.isfinite(found)
    shares: Shares = np.minimum(good.sum(axis=1), k) / k
    return shares


def without_own(ids: Rows | Keys, scores: Scores, own: Rows | Keys) -> Scores:
    """Drop each query's own id from its (q, k) hits, or else the last: (q, k - 1) scores."""
    is_own = ids == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    kept: Scores = scores[~is_own].reshape(len(ids), -1)
    return kept


def of_queries(shares: Shares, limit: int) -> Estimate:
    """Estimate recall from the shares that some queries found of their `limit` nearest.

    The hits of one query are missed together, so they are not that many trials. The
    interval is Wilson's with the effective number of trials, p (1 - p) / v, where v is
    the variance of the mean over the queries (Korn and Graubard, Survey Methodology 24,
    1998; compared with others by Franco et al., J. Survey Stat. Methodol. 7, 2019).
    """
    count = len(shares)
    mean = float(shares.mean())
    trials = float(count * limit)
    if count > 1 and (variance := float(shares.var(ddof=1)) / count) > 0:
        trials = min(trials, mean * (1 - mean) / variance)
    return Estimate(mean, *wilson(mean, trials), count)


def of_trials(good: int, count: int) -> Estimate:
    """Estimate a share from independent trials."""
    return Estimate(good / count, *wilson(good / count, count), count)


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Return the ends of Wilson's score interval (J. Am. Stat. Assoc. 22, 1927)."""
    square = Z * Z / trials
    middle = (share + square / 2) / (1 + square)
    reach = Z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
