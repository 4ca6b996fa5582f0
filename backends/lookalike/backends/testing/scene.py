"""A dict for a store, and an engine that is compared with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from lookalike.backends.engine.base import Engine, EngineConfig
from lookalike.backends.types import (
    Changes,
    Hits,
    Keys,
    Metric,
    SearchParams,
    Vectors,
    normalize,
)

DIM = 24
NO_KEYS: Keys = np.empty(0, np.int64)


class DictTruth:
    """A store's side of one collection, kept in a dict. Any thread."""

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim
        self.items: dict[int, Vectors] = {}
        self.number = 0
        self.next_key = 1

    def seq(self) -> int:
        return self.number

    def keys(self) -> Keys:
        return np.array(sorted(self.items), np.int64)

    def vectors(self, keys: Keys) -> Vectors:
        rows = [self.items[int(key)] for key in keys]
        return np.stack(rows) if rows else np.empty((0, self.dim), np.float32)

    def commit(self, removed: Keys, vectors: Vectors) -> Changes:
        """Change the dict as one commit does; return what an engine is told."""
        self.number += 1
        for key in removed:
            del self.items[int(key)]
        added = np.arange(self.next_key, self.next_key + len(vectors), dtype=np.int64)
        self.next_key += len(vectors)
        self.items.update(zip(added.tolist(), vectors, strict=True))
        return Changes(self.number, removed, added, vectors)


@dataclass
class Scene:
    """An engine, the truth it follows, and the right answers."""

    engine_cls: type[Engine]
    config: EngineConfig
    min_recall: float = 1.0
    seed: int = 0
    truth: DictTruth = field(default_factory=DictTruth)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.engine = self.engine_cls.open(self.config, self.truth)

    def random(self, count: int) -> Vectors:
        vectors = self.rng.standard_normal((count, self.truth.dim), dtype=np.float32)
        return normalize(vectors) if self.config.metric is Metric.COSINE else vectors

    def add(self, count: int = 1, vectors: Vectors | None = None) -> Keys:
        changes = self.truth.commit(NO_KEYS, self.random(count) if vectors is None else vectors)
        self.engine.apply(changes)
        return changes.added

    def remove(self, keys: Keys) -> None:
        self.engine.apply(self.truth.commit(keys, self.random(0)))

    def some(self, count: int) -> Keys:
        keys = self.truth.keys()
        return np.sort(self.rng.choice(keys, min(count, len(keys)), replace=False))

    def settle(self, seconds: float = 30) -> None:
        """Wait until nothing is built in the background."""
        end = time.monotonic() + seconds
        while self.engine.stats().building:
            assert time.monotonic() < end, "the engine did not finish building"
            time.sleep(0.002)

    def reopen(self, config: EngineConfig | None = None) -> None:
        self.engine.close()
        self.config = config or self.config
        self.engine = self.engine_cls.open(self.config, self.truth)

    def right(self, queries: Vectors, k: int, allowed: Keys | None = None) -> Hits:
        """Return the right answer, compared in float64."""
        keys = self.truth.keys()
        if allowed is not None:
            keys = np.intersect1d(keys, allowed)
        rows = self.truth.vectors(keys).astype(np.float64)
        wide = queries.astype(np.float64)
        if self.config.metric is Metric.COSINE:
            wide = normalize(queries).astype(np.float64)
        if self.config.metric is Metric.L2:
            scores = -((wide[:, None, :] - rows[None]) ** 2).sum(axis=2)
        else:
            scores = wide @ rows.T
        rounded = scores.astype(np.float32)
        order = np.lexsort((np.broadcast_to(keys, rounded.shape), -rounded), axis=-1)[:, :k]
        return Hits(keys[order], np.take_along_axis(rounded, order, axis=1), exact=True)

    def check(
        self,
        k: int = 10,
        *,
        queries: Vectors | None = None,
        allowed: Keys | None = None,
        params: SearchParams | None = None,
    ) -> Hits:
        """Search and compare with the right answer."""
        queries = self.random(3) if queries is None else queries
        hits = self.engine.search(queries, k, allowed=allowed, params=params)
        right = self.right(queries, k, allowed)
        assert hits.ids.shape == hits.scores.shape
        assert hits.ids.dtype == np.int64
        assert hits.scores.dtype == np.float32
        assert (np.diff(hits.scores, axis=1) <= 0).all(), "hits are not in order"
        width = right.ids.shape[1]
        assert (hits.ids[:, width:] == -1).all(), "more hits than there are keys"
        if hits.exact or self.min_recall == 1.0:
            np.testing.assert_allclose(hits.scores[:, :width], right.scores, rtol=1e-4, atol=1e-5)
            same_places(hits.ids[:, :width], right)
            return hits
        found = sum(len(np.intersect1d(a, b)) for a, b in zip(hits.ids, right.ids, strict=True))
        assert found >= self.min_recall * right.ids.size, f"recall {found / right.ids.size:.3f}"
        return hits


def same_places(ids: Keys, right: Hits) -> None:
    """Assert equal keys, where the scores are not too close to tell apart."""
    for row, (keys, wanted, scores) in enumerate(zip(ids, right.ids, right.scores, strict=True)):
        for place in np.flatnonzero(keys != wanted):
            near = np.abs(scores - scores[place]) <= 1e-5 * max(1.0, abs(float(scores[place])))
            near[place] = False
            last = place == len(keys) - 1
            assert near.any() or last, f"query {row}, place {place}: {keys} is not {wanted}"
