"""However much comes and goes, each vector finds itself, and nothing that went is found."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.engine.base import EngineConfig
from lookalike.backends.registry import indexes
from lookalike.backends.testing.scene import DictTruth, Scene
from lookalike.backends.types import (
    HnswParams,
    IndexSpec,
    IvfParams,
    Metric,
    SearchParams,
    Vectors,
    normalize,
)
from model.budget import SEED, number

REACHED = 0.999
DIM = 32
KINDS = {
    "hnsw": IndexSpec("faiss", HnswParams()),
    "hnswlib": IndexSpec("hnswlib", HnswParams()),
    "ivf": IndexSpec("faiss", IvfParams()),
}


class Churn:
    """Items in groups that come and go, as pictures of one kind do."""

    def __init__(self, directory: Path, spec: IndexSpec, seed: int) -> None:
        print(f"PROVE_SEED={seed}")
        config = EngineConfig(
            "churn", directory, DIM, Metric.COSINE, spec, {"delta_limit": 512, "probe_percent": 20}
        )
        self.scene = Scene(LocalEngine, config, seed=seed, truth=DictTruth(DIM))
        self.rng = self.scene.rng
        self.middles = self.rng.standard_normal((40, DIM), dtype=np.float32)
        self.inexact = 0

    def items(self, count: int) -> Vectors:
        noise = self.rng.standard_normal((count, DIM), dtype=np.float32)
        return normalize(self.middles[self.rng.integers(0, 40, count)] + 0.4 * noise)

    def round(self, count: int) -> None:
        """Delete half, store a third anew or for the first time, and look after each."""
        scene = self.scene
        scene.remove(scene.some(len(scene.truth.items) // 2))
        self.look()
        share = int(0.3 * count)
        replaced = scene.some(share // 2)
        scene.engine.apply(scene.truth.commit(replaced, self.items(share)))
        self.look()
        scene.add(vectors=self.items(count - len(scene.truth.items)))
        scene.settle(120)
        self.look()

    def look(self) -> None:
        """Let every live vector ask for itself; what is missed must be found by a deep search."""
        scene, missed, lost = self.scene, 0, 0
        keys = scene.truth.keys()
        for start in range(0, len(keys), 512):
            some = keys[start : start + 512]
            vectors = scene.truth.vectors(some)
            hits = scene.engine.search(vectors, 10)
            self.inexact += not hits.exact
            assert np.isin(hits.ids, keys).all(), "something that was deleted is found"
            there = (hits.ids == some[:, None]).any(axis=1)
            missed += int((~there).sum())
            if not there.all():
                deep = SearchParams(ef_search=1024, nprobe=1 << 18)
                hits = scene.engine.search(vectors[~there], 200, params=deep)
                lost += int((~(hits.ids == some[~there][:, None]).any(axis=1)).sum())
        assert missed <= (1 - REACHED) * len(keys), (
            f"{missed} of {len(keys)} do not find themselves"
        )
        if lost:
            self.await_repair()

    def await_repair(self) -> None:
        """Wait for the rebuild that what cannot be found must start."""
        end = time.monotonic() + 120
        while not any("effort" in str(s["settings"]) for s in self.scene.engine.stats().segments):
            assert time.monotonic() < end, "rows are lost, and no rebuild"
            time.sleep(0.05)


def churn(directory: Path, kind: str, count: int, rounds: int) -> None:
    if kind == "hnswlib" and kind not in indexes.available():
        pytest.skip("hnswlib is not installed")
    walk = Churn(directory, KINDS[kind], SEED)
    try:
        walk.scene.add(vectors=walk.items(count))
        walk.scene.settle(120)
        walk.look()
        for _ in range(rounds):
            walk.round(count)
        stats = walk.scene.engine.stats()
    finally:
        walk.scene.engine.close()
    print(f"{kind}: {walk.inexact} blocks of searches by the index; {stats}")
    assert walk.inexact, "everything was compared with everything: the index was never asked"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_a_little_churn_hides_nothing(kind: str, tmp_path: Path) -> None:
    churn(tmp_path, kind, number("PROVE_SHORT_CHURN", 4000), 1)


@pytest.mark.prove
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_rounds_of_churn_hide_nothing(kind: str, tmp_path: Path) -> None:
    churn(tmp_path, kind, number("PROVE_CHURN", 5000), number("PROVE_CHURN_ROUNDS", 10))
