"""How well vectors keep kinds together: kNN-1 accuracy and mAP@10, leave one out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEPTH = 10
_RESAMPLES = 1000
_SEED = 20240607


@dataclass(frozen=True)
class Figure:
    """A mean over queries with a bootstrap 95 % interval (percentile, 1000 resamples)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: NDArray[np.float64]) -> Figure:
        rng = np.random.default_rng(_SEED)
        picks = rng.integers(0, len(samples), (_RESAMPLES, len(samples)))
        low, high = np.quantile(samples[picks].mean(axis=1), [0.025, 0.975])
        return cls(float(samples.mean()), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Kinds:
    """kNN-1 and mAP@10 of one set of queries among all pictures."""

    queries: int
    knn1: Figure
    map10: Figure


def category(item_id: str) -> str:
    """Return the first path component of an id."""
    return item_id.split("/")[0]


def parts(categories: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Group categories by the word before the first "_" that two or more share."""
    prefixes = Counter(name.split("_")[0] for name in set(categories))
    word = [p if prefixes[p := name.split("_")[0]] > 1 else "others" for name in categories]
    names = sorted(set(word))
    return {name: np.asarray(word) == name for name in names} if len(names) > 1 else {}


def nearest(queries: NDArray[np.float32], among: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return (q, k) rows of the highest cosines, best first, equal ones by rising row."""
    found = []
    for start in range(0, len(queries), 512):
        scores = queries[start : start + 512] @ among.T
        found.append(np.argsort(-scores, axis=1, kind="stable")[:, :k])
    return np.concatenate(found)


def kinds(vectors: NDArray[np.float32], categories: Sequence[str]) -> dict[str, Kinds]:
    """Measure "all" and each part; queries without another of their kind are left out.

    mAP@10 of one query: the mean over its hits among the 10 nearest others of the
    precision at each hit's rank, divided by min(10, number of others of its kind)
    rather than by the number of hits.
    """
    names, number = np.unique(np.asarray(categories), return_inverse=True)
    others = np.bincount(number, minlength=len(names))[number] - 1
    found = nearest(vectors, vectors, DEPTH + 1)
    # The query itself is taken out by its row: an exact duplicate may come before it.
    own = found == np.arange(len(vectors))[:, None]
    own[~own.any(axis=1), -1] = True
    found = found[~own].reshape(len(vectors), -1)
    hit = number[found] == number[:, None]
    precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
    asked = others > 0
    average = (precision * hit).sum(axis=1) / np.minimum(DEPTH, np.maximum(others, 1))
    first = hit[:, 0].astype(np.float64)
    groups = {"all": np.ones(len(vectors), bool), **parts(categories)}
    return {
        name: Kinds(
            int((asked & rows).sum()),
            Figure.of(first[asked & rows]),
            Figure.of(average[asked & rows]),
        )
        for name, rows in groups.items()
        if (asked & rows).any()
    }


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(length == 0, 1, length), dtype=np.float32)
