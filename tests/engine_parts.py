"""Indexes that misbehave in one way each, and scenes to put them in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pytest

from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.engine._scan import nearest
from lookalike.backends.engine.base import EngineConfig
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.registry import indexes
from lookalike.backends.testing.scene import DIM, Scene
from lookalike.backends.types import (
    Hits,
    IndexSpec,
    Mask,
    Metric,
    Progress,
    SearchParams,
    Vectors,
)


class PlainIndex(VectorIndex):
    """Compares with everything; what it loads it remembers."""

    backend: ClassVar[str] = "plain"
    loaded: ClassVar[list[bytes]] = []
    text: ClassVar[bytes] = b"plain index " * 50

    @classmethod
    def check(cls, spec: IndexSpec, dim: int) -> None:
        pass

    @classmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        if progress:
            progress("build", 0, len(vectors))
        return cls(spec, vectors)

    @classmethod
    def load(cls, spec: IndexSpec, path: Path, vectors: Vectors) -> Self:
        cls.loaded.append(path.read_bytes())
        return cls(spec, vectors)

    def save(self, path: Path) -> None:
        path.write_bytes(self.text)

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        hits = nearest(self.vectors, queries, k, self.spec.metric, live=live)
        short = ((0, 0), (0, k - hits.ids.shape[1]))
        return Hits(
            np.pad(hits.ids, short, constant_values=-1),
            np.pad(hits.scores, short, constant_values=-np.inf),
        )


class ForgetfulIndex(PlainIndex):
    """Finds three things at most, as graphs do with many dead rows."""

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        hits = super()._search(queries, k, live, params)
        hits.ids[:, 3:] = -1
        hits.scores[:, 3:] = -np.inf
        return hits


class BrokenIndex(PlainIndex):
    """Cannot be built."""

    @classmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        raise RuntimeError("out of luck")


class SlowIndex(PlainIndex):
    """Waits in `build` until told to go on, calling progress meanwhile."""

    begun: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()

    @classmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        cls.begun.set()
        while not cls.go_on.wait(0.005):
            if progress:
                progress("build", 0, len(vectors))
        return cls(spec, vectors)


Opens = Callable[..., Scene]


def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Opens, list[Scene]]:
    """Return a function that opens scenes over one of the indexes above."""
    scenes: list[Scene] = []
    known = indexes.resolve

    def open_scene(
        cls: type[VectorIndex] = PlainIndex,
        *,
        name: str = "engine",
        metric: Metric = Metric.COSINE,
        seed: int = 7,
        **options: object,
    ) -> Scene:
        print("seed", seed)
        monkeypatch.setattr(
            indexes, "resolve", lambda backend: cls if backend == "plain" else known(backend)
        )
        config = EngineConfig(
            f"owner of {name}", tmp_path / name, DIM, metric, IndexSpec("plain"), options
        )
        scene = Scene(LocalEngine, config, seed=seed)
        scenes.append(scene)
        return scene

    return open_scene, scenes


def renamed(scene: Scene, directory: Path) -> EngineConfig:
    """Return the configuration of a scene for another folder."""
    return replace(scene.config, directory=directory)
