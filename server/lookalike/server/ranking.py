"""The order of the found: near-duplicates folded, groups capped, variety weighed.

Pure functions over candidates that are in order of score, best first. A position
is an index into them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lookalike.backends.types import Mask, Metric, Rows, Vectors
from lookalike.server.domain import Json, Vector

Scores = Vector
"""(n,) float32."""


def closeness(vectors: Vectors, one: Vector, metric: Metric) -> Scores:
    """Return the (n,) scores of (n, dim) vectors against one, by the collection's metric."""
    if metric is Metric.L2:
        away = vectors - one
        return np.asarray(-np.einsum("ij,ij->i", away, away), np.float32)
    return np.asarray(vectors @ one, np.float32)


def fold(vectors: Vectors, same: Callable[[int, Rows, Scores], Mask], most: int) -> list[list[int]]:
    """Return positions in at most `most` folds: the best of each, then its near-duplicates.

    `vectors` is (n, dim) of length 1. `same(i, others, cosines)` says which of `others`
    show the same as `i`; each candidate belongs to the first that takes it.
    """
    left = np.arange(len(vectors))
    folds: list[list[int]] = []
    while len(left) and len(folds) < most:
        first, others = int(left[0]), left[1:]
        taken = same(first, others, np.asarray(vectors[others] @ vectors[first], np.float32))
        folds.append([first, *others[taken].tolist()])
        left = others[~taken]
    return folds


def group_key(metadata: Json, path: str) -> str | None:
    """Return what two items of one group have in common; None without the field.

    `path` is a metadata key, or a dotted path into nested objects, as in conditions.
    """
    value: object = metadata
    for label in path.split("."):
        if not isinstance(value, Mapping) or label not in value:
            return None
        value = value[label]
    if value is None:
        return None
    if isinstance(value, float):
        value += 0.0  # minus zero is zero
    return json.dumps(value, sort_keys=True)  # 1, true and "1" are different values


def cap_groups(keys: Sequence[str | None], most: int) -> list[int]:
    """Return the positions left when each group keeps its `most` best; None is no group."""
    seen: Counter[str] = Counter()
    kept: list[int] = []
    for position, key in enumerate(keys):
        if key is not None:
            seen[key] += 1
            if seen[key] > most:
                continue
        kept.append(position)
    return kept


def diversify(
    scores: Scores, vectors: Vectors, metric: Metric, diversity: float, count: int
) -> list[int]:
    """Choose `count` positions by maximal marginal relevance, in the order of choice.

    Each choice has the greatest (1 - diversity) * score - diversity * closeness, the
    latter to the closest of those chosen before; equals go by position. (Carbonell &
    Goldstein, "The use of MMR", SIGIR 1998.) Both terms are by the same metric.
    """
    count = min(count, len(scores))
    if diversity == 0:
        return list(range(count))
    likeness = (1 - diversity) * np.asarray(scores, np.float64)
    nearest = np.full(len(likeness), -np.inf)
    left = np.ones(len(likeness), np.bool_)
    chosen: list[int] = []
    while len(chosen) < count:
        value = np.where(left, likeness - diversity * nearest, -np.inf) if chosen else likeness
        best = int(np.argmax(value))
        chosen.append(best)
        left[best] = False
        np.maximum(nearest, closeness(vectors, vectors[best], metric), out=nearest)
    return chosen
