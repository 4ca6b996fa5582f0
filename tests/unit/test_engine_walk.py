"""Long random walks of an engine beside a dict."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine_parts import ForgetfulIndex, Opens, PlainIndex, opener
from lookalike.backends.errors import Cancelled
from lookalike.backends.testing.scene import NO_KEYS, Scene
from lookalike.backends.types import IndexSpec, Metric, SearchParams


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    open_scene, scenes = opener(tmp_path, monkeypatch)
    yield open_scene
    for scene in scenes:
        scene.engine.close()


def step(scene: Scene, saved: Path) -> str:
    """Do one thing at random; return what."""
    rng = scene.rng
    what = str(
        rng.choice(
            ["add", "remove", "update", "search", "allowed", "exact", "reopen", "lose", "old",
             "snapshot", "rebuild", "cancel", "again", "settle"],
            p=[0.25, 0.14, 0.14, 0.14, 0.1, 0.05, 0.02, 0.01, 0.01, 0.03, 0.01, 0.01, 0.05, 0.04],
        )
    )  # fmt: skip
    match what:
        case "add":
            vectors = scene.random(int(rng.integers(1, 12)))
            if rng.random() < 0.2 and scene.truth.items:  # the same picture again
                vectors[0] = scene.truth.vectors(scene.some(1))[0]
            scene.add(vectors=vectors)
        case "remove":
            scene.remove(scene.some(int(rng.integers(0, 12))))
        case "update":
            keys = scene.some(int(rng.integers(1, 5)))
            scene.engine.apply(scene.truth.commit(keys, scene.random(len(keys))))
        case "search":
            scene.check(int(rng.integers(1, 30)))
        case "allowed":
            scene.check(5, allowed=scene.some(int(rng.integers(0, 200))))
        case "exact":
            scene.check(5, params=SearchParams(exact=True))
        case "reopen":
            scene.reopen()
        case "lose":
            scene.engine.close()
            shutil.rmtree(scene.config.directory, ignore_errors=True)
            scene.reopen()
        case "old":
            scene.engine.close()
            if saved.exists():
                shutil.rmtree(scene.config.directory, ignore_errors=True)
                shutil.copytree(saved, scene.config.directory)
            scene.truth.commit(scene.some(3), scene.random(7))
            scene.reopen()
        case "snapshot":
            scene.engine.snapshot()
            scene.settle()
            shutil.rmtree(saved, ignore_errors=True)
            shutil.copytree(scene.config.directory, saved)
        case "rebuild":
            spec = IndexSpec(str(rng.choice(["plain", "exact"])))
            scene.engine.rebuild(spec, lambda phase, done, total: None)
        case "cancel":
            if scene.truth.items:
                with pytest.raises(Cancelled):
                    scene.engine.rebuild(IndexSpec("exact"), cancel)
        case "again":
            changes = scene.truth.commit(NO_KEYS, scene.random(2))
            scene.engine.apply(changes)
            scene.engine.apply(changes)
        case "settle":
            scene.settle()
    return what


def cancel(phase: str, done: int, total: int) -> None:
    raise Cancelled("enough")


@pytest.mark.parametrize(
    ("metric", "index", "seed", "steps"),
    [
        (Metric.COSINE, PlainIndex, 1, 2000),
        (Metric.DOT, ForgetfulIndex, 2, 600),
        (Metric.L2, ForgetfulIndex, 3, 600),
    ],
)
def test_a_random_walk_agrees_with_a_dict(
    opens: Opens,
    tmp_path: Path,
    metric: Metric,
    index: type[PlainIndex],
    seed: int,
    steps: int,
) -> None:
    scene = opens(index, metric=metric, seed=seed, delta_limit=25)
    done: list[str] = []
    for number in range(steps):
        try:
            done.append(step(scene, tmp_path / "saved"))
        except BaseException:
            print("step", number, "after", done[-5:])
            raise
        assert scene.engine.stats().count == len(scene.truth.items), f"step {number}: {done[-1]}"
    hits = scene.engine.search(scene.random(1), 10**6)
    found = np.sort(hits.ids[0][hits.ids[0] >= 0])
    assert found.tolist() == scene.truth.keys().tolist()
