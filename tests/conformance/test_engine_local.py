"""The local engine keeps the contract, with segments made early and late."""

from __future__ import annotations

from typing import ClassVar

import pytest

from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.registry import indexes
from lookalike.backends.testing.engine import EngineConformance
from lookalike.backends.testing.scene import Scene
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams


class TestLocalDeltaOnly(EngineConformance):
    engine_cls = LocalEngine


class TestLocalTinySegments(EngineConformance):
    engine_cls = LocalEngine
    options: ClassVar[dict[str, object]] = {"delta_limit": 16}


class TestLocalAuto(EngineConformance):
    engine_cls = LocalEngine
    index = IndexSpec("auto")
    options: ClassVar[dict[str, object]] = {"delta_limit": 32}


class TestLocalHnsw(EngineConformance):
    engine_cls = LocalEngine
    index = IndexSpec("faiss", HnswParams(m=16, ef_construction=80, ef_search=80))
    other_index = IndexSpec("faiss", IvfParams())
    options: ClassVar[dict[str, object]] = {"delta_limit": 40}
    min_recall = 0.9

    def test_it_is_really_built(self, scene: Scene) -> None:
        scene.add(200)
        scene.settle()
        (segment,) = scene.engine.stats().segments
        assert (segment["backend"], segment["algorithm"]) == ("faiss", "hnsw")


@pytest.mark.skipif("hnswlib" not in indexes.available(), reason="needs lookalike[hnswlib]")
class TestLocalHnswlib(TestLocalHnsw):
    index = IndexSpec("hnswlib", HnswParams(m=16, ef_construction=80, ef_search=80))

    def test_it_is_really_built(self, scene: Scene) -> None:
        scene.add(200)
        scene.settle()
        (segment,) = scene.engine.stats().segments
        assert (segment["backend"], segment["algorithm"]) == ("hnswlib", "hnsw")
