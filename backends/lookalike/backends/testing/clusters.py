"""Vectors to test and measure indexes with, and the plain truth about them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Mask, Metric, Rows, Vectors, normalize


def clustered(count: int, dim: int, metric: Metric, *, seed: int) -> Vectors:
    """Make (count, dim) vectors that lie like embeddings of pictures do.

    Clusters of very unequal size on a curved surface of few dimensions, noise in all
    of them, and a common offset. Lengths differ, by half an order of magnitude, unless
    the metric is cosine: then they are 1.
    """
    rng = np.random.default_rng(seed)
    centres = max(count // 100, 8)
    inner = min(24, dim)
    sizes = 1 / np.arange(1, centres + 1)
    member = rng.choice(centres, count, p=sizes / sizes.sum())
    latent = rng.standard_normal((centres, inner))[member]
    latent += 0.55 * rng.standard_normal((count, inner))
    bend = rng.standard_normal((inner, dim)) / np.sqrt(inner)
    made = np.tanh(latent @ bend) + 0.15 * rng.standard_normal((count, dim))
    made += 0.4 * rng.standard_normal(dim)
    if metric is Metric.DOT:
        made *= rng.lognormal(sigma=0.25, size=(count, 1))
    vectors: Vectors = made.astype(np.float32)
    return normalize(vectors) if metric is Metric.COSINE else vectors


def all_scores(metric: Metric, queries: Vectors, vectors: Vectors) -> NDArray[np.float64]:
    """Score every pair in float64, the slow and plain way: (queries, vectors)."""
    left, right = queries.astype(np.float64), vectors.astype(np.float64)
    scores = np.empty((len(left), len(right)))
    for i, query in enumerate(left):
        if metric is Metric.L2:
            scores[i] = -((right - query) ** 2).sum(axis=1)
        else:
            scores[i] = (right * query).sum(axis=1)
    return scores


def best_rows(scores: NDArray[np.float64], k: int, live: Mask | None = None) -> list[Rows]:
    """Return the k best live rows of each query, equal float32 scores by rising row."""
    rows = np.arange(scores.shape[1]) if live is None else np.flatnonzero(live)
    found = []
    for row_scores in scores.astype(np.float32):
        order = np.lexsort((rows, -row_scores[rows]))
        found.append(rows[order][:k])
    return found


def recall(ids: Rows, truth: list[Rows]) -> float:
    """Return the share of the true rows that were found."""
    found = sum(len(np.intersect1d(got, true)) for got, true in zip(ids, truth, strict=True))
    return found / max(1, sum(len(true) for true in truth))
