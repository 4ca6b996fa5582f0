"""What the index claims stand on: one index a metric, built once for a class of tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from lookalike.backends.errors import BackendUnavailable
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.registry import indexes
from lookalike.backends.testing.clusters import all_scores, clustered
from lookalike.backends.types import Hits, IndexSpec, Metric, Vectors

METRICS = tuple(Metric)


class Stop(Exception):
    """What the tests' own progress raises."""


class Scene:
    """One index over clustered vectors, and queries of the same kind."""

    def __init__(self, cls: type[VectorIndex], spec: IndexSpec, whole: Vectors) -> None:
        self.queries, self.vectors = whole[:40].copy(), whole[40:].copy()
        self.vectors.flags.writeable = False
        self.metric = spec.metric
        self.index = cls.build(spec, self.vectors, threads=2)
        self.scores = all_scores(spec.metric, self.queries, self.vectors)

    def check(self, hits: Hits, k: int, queries: slice = slice(None)) -> None:
        """Check all that holds for any answer: shape, scores, order, padding."""
        scores = self.scores[queries]
        assert hits.ids.shape == hits.scores.shape == (len(scores), k), "wrong shape"
        assert hits.ids.dtype == np.int64, "ids must be int64"
        assert hits.scores.dtype == np.float32, "scores must be float32"
        for ids, found, true in zip(hits.ids, hits.scores, scores, strict=True):
            real = ids[ids >= 0]
            assert (ids[len(real) :] == -1).all(), "padding stands before a hit"
            assert (found[len(real) :] == -np.inf).all(), "padding must score -inf"
            assert len(set(real.tolist())) == len(real), "a row came twice"
            assert np.allclose(found[: len(real)], true[real], rtol=1e-4, atol=1e-4), (
                "a score is not that of its row"
            )
            ahead, behind = found[: len(real) - 1], found[1 : len(real)]
            assert (ahead >= behind).all(), "not best first"


class IndexSuite:
    """Fixtures of `IndexConformance`."""

    backend: ClassVar[str]
    spec: ClassVar[IndexSpec | None] = None
    """Algorithm and options; the metric is set by the tests."""
    min_recall: ClassVar[float] = 0.95
    """recall@10 on clustered vectors, with all rows live or few."""
    count: ClassVar[int] = 3000
    dim: ClassVar[int] = 32
    seed: ClassVar[int] = 20240607

    @pytest.fixture(scope="class")
    @classmethod
    def index_cls(cls) -> type[VectorIndex]:
        try:
            return indexes.resolve(cls.backend)
        except BackendUnavailable as missing:
            pytest.skip(missing.message)

    @pytest.fixture(scope="class")
    @classmethod
    def scenes(cls, index_cls: type[VectorIndex]) -> Callable[[Metric], Scene]:
        made: dict[Metric, Scene] = {}

        def scene(metric: Metric) -> Scene:
            if metric not in made:
                sys.stdout.write(f"seed {cls.seed}\n")
                whole = clustered(cls.count + 40, cls.dim, metric, seed=cls.seed)
                made[metric] = Scene(index_cls, cls._spec(metric), whole)
            return made[metric]

        return scene

    @pytest.fixture(params=METRICS)
    def scene(self, request: pytest.FixtureRequest, scenes: Callable[[Metric], Scene]) -> Scene:
        return scenes(request.param)

    @classmethod
    def _spec(cls, metric: Metric = Metric.COSINE) -> IndexSpec:
        return replace(cls.spec or IndexSpec(cls.backend), metric=metric)

    def _build(self, cls: type[VectorIndex], vectors: Vectors, metric: Metric) -> VectorIndex:
        return cls.build(self._spec(metric), vectors)

    def _rng(self) -> np.random.Generator:
        sys.stdout.write(f"seed {self.seed}\n")
        return np.random.default_rng(self.seed)


def overridden(suite: type, base: type) -> list[str]:
    """Name the tests of `base` that `suite` replaces without `xfail(reason=...)`."""
    names = []
    for name in dir(base):
        own = getattr(suite, name)
        if not name.startswith("test_") or own is getattr(base, name):
            continue
        marks = getattr(own, "pytestmark", [])
        if not any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks):
            names.append(name)
    return names
