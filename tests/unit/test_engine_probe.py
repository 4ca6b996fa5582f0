"""Rows that an index hides are noticed, and the index is built anew until none is hidden."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from engine_parts import Opens, PlainIndex, opener
from lookalike.backends.engine._effort import next_effort, raised
from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.engine._probe import LEAST, Probe
from lookalike.backends.errors import InvalidArgument
from lookalike.backends.testing.scene import NO_KEYS, Scene
from lookalike.backends.types import (
    FlatParams,
    Hits,
    HnswParams,
    IndexSpec,
    IvfParams,
    Mask,
    Metric,
    SearchParams,
    Vectors,
)


class HidingIndex(PlainIndex):
    """Never shows every hundredth row."""

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        seen = np.ones(self.count, np.bool_) if live is None else live.copy()
        seen[::100] = False
        return super()._search(queries, k, seen, params)


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    open_scene, scenes = opener(tmp_path, monkeypatch)
    yield open_scene
    for scene in scenes:
        scene.engine.close()


def segment(scene: Scene) -> dict[str, Any]:
    segments = scene.engine.stats().segments
    return segments[0] if len(segments) == 1 else {"backend": "", "settings": {}}


def settings(scene: Scene) -> dict[str, Any]:
    found: dict[str, Any] = segment(scene)["settings"]
    return found


def reached(scene: Scene) -> float:
    """Return the share of live vectors that are among their own ten best."""
    keys = scene.truth.keys()
    hits = scene.engine.search(scene.truth.vectors(keys), 10)
    return float((hits.ids == keys[:, None]).any(axis=1).mean())


def look_until(scene: Scene, is_so: Any) -> None:
    """Wait for what the engine does by itself."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, scene.engine.stats()
        time.sleep(0.005)


def all_seen(scene: Scene) -> bool:
    """Tell whether nothing is left to look at."""
    assert isinstance(scene.engine, LocalEngine)
    return scene.engine._probe.pause_s(scene.engine._view, scene.engine._spec) is None


def test_an_index_that_hides_rows_gives_way_to_comparing_with_all(opens: Opens) -> None:
    scene = opens(HidingIndex, delta_limit=50, probe_percent=100)
    scene.add(600)
    look_until(scene, lambda: segment(scene)["backend"] == "exact")
    scene.settle()
    assert settings(scene)["effort"] == 2
    assert reached(scene) == 1.0
    scene.check(10)


def test_nothing_is_looked_at_if_that_is_asked_for(opens: Opens) -> None:
    scene = opens(HidingIndex, delta_limit=50, probe_percent=0)
    scene.add(600)
    scene.settle()
    assert reached(scene) < LEAST
    assert "probed" not in settings(scene)


@pytest.mark.parametrize("backend", ["faiss", "hnswlib"])
def test_a_graph_with_too_few_links_is_built_with_more(
    backend: str, opens: Opens, tmp_path: Path
) -> None:
    if backend == "hnswlib":
        pytest.importorskip("hnswlib")
    scene = opens(delta_limit=100, probe_percent=100)
    poor = IndexSpec(backend, HnswParams(m=4, ef_construction=8, ef_search=1))
    scene.add(3000)
    scene.settle()
    scene.engine.rebuild(poor, lambda phase, done, total: None)
    look_until(scene, lambda: settings(scene).get("effort", 0) > 0)
    scene.settle()
    look_until(scene, lambda: all_seen(scene))
    assert reached(scene) >= LEAST
    assert settings(scene)["effort"] == 1, settings(scene)
    scene.engine.snapshot()
    scene.reopen()
    assert settings(scene)["effort"] == 1, "it would begin with the poor one again"


@pytest.mark.parametrize("metric", list(Metric))
def test_a_sound_index_is_looked_at_once_and_left_alone(metric: Metric, opens: Opens) -> None:
    scene = opens(metric=metric, delta_limit=50, probe_percent=100)
    same = np.repeat(scene.random(1), 40, axis=0)  # more equals than ten places
    scene.add(vectors=np.concatenate([scene.random(400), same]))
    look_until(scene, lambda: settings(scene).get("probed") == 440)
    assert settings(scene)["missed"] == 0
    number = scene.engine._view.parts[0].segment.number  # type: ignore[attr-defined]
    assert all_seen(scene)
    keys = scene.truth.keys()
    scene.remove(keys[:40])  # more than a twentieth
    look_until(scene, lambda: settings(scene).get("probed") == 400)
    assert scene.engine._view.parts[0].segment.number == number  # type: ignore[attr-defined]


class CostlyIndex(PlainIndex):
    """Takes 4 ms for a query, by a clock that goes only then."""

    now: ClassVar[list[float]] = [0.0]

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        self.now[0] += 0.004 * len(queries)
        return super()._search(queries, k, live, params)


def test_looking_takes_its_share_of_the_time_and_no_more(opens: Opens) -> None:
    scene = opens(CostlyIndex, delta_limit=50, probe_percent=0)
    scene.add(1000)
    scene.settle()
    engine, now = scene.engine, CostlyIndex.now
    assert isinstance(engine, LocalEngine)
    probe, began, looks, spent = Probe(Metric.COSINE, 2, lambda: now[0]), now[0], 0, 0.0
    longest = 0.0
    while (pause := probe.pause_s(engine._view, engine._spec)) is not None:
        now[0] += pause
        before = now[0]
        probe.look(engine._view, engine._spec)
        spent += now[0] - before
        longest = max(longest, now[0] - before) if looks > 4 else 0.0
        looks += 1
    assert spent == pytest.approx(5.0, rel=0.01), "each row once, and 250 for their neighbours"
    assert spent <= 0.021 * (now[0] - began)
    assert longest <= 0.04, "closing would wait for it"


def test_efforts_rise_to_the_end_and_never_beyond() -> None:
    graph = IndexSpec("faiss", HnswParams(m=8, ef_search=100))
    assert raised(graph, 0) == graph
    harder = raised(graph, 1).algorithm
    assert isinstance(harder, HnswParams)
    assert (harder.m, harder.ef_construction, harder.ef_search) == (16, 400, 400)
    assert raised(IndexSpec("faiss", IvfParams(nlist=9, nprobe=1)), 1).algorithm == IvfParams(9)
    for spec in (graph, IndexSpec("stranger"), IndexSpec("faiss", None, {"factory": "SQ8"})):
        assert raised(spec, 2) == IndexSpec("exact")
    assert raised(IndexSpec("stranger"), 1) == IndexSpec("exact")
    assert raised(IndexSpec("exact"), 1) == IndexSpec("exact")


def test_dead_rows_are_built_away_before_more_is_tried(opens: Opens) -> None:
    scene = opens(delta_limit=50, probe_percent=0)
    scene.add(200)
    scene.settle()
    engine = scene.engine
    assert isinstance(engine, LocalEngine)
    assert next_effort(engine._view.parts[0]) == 2  # nothing of it can be raised
    scene.remove(scene.truth.keys()[:20])
    assert next_effort(engine._view.parts[0]) == 0


def test_a_manifest_without_efforts_is_read(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    scene.add(100)
    scene.settle()
    scene.engine.close()
    path = scene.config.directory / "manifest.json"
    body = json.loads(path.read_bytes())["manifest"]
    for record in body["segments"]:
        del record["effort"]
    told = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps({"sha256": hashlib.sha256(told).hexdigest(), "manifest": body}))
    scene.reopen()
    assert scene.engine.stats().recovered == ""


def test_an_index_that_leaves_out_is_not_used_where_none_may(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    scene.add(300)
    scene.settle()
    scene.engine.snapshot()
    config = scene.config
    for spec in (IndexSpec("exact"), IndexSpec("faiss", FlatParams())):
        scene.reopen(replace(config, index=spec))
        assert scene.engine.search(scene.random(1), 10).exact
    scene.engine.apply(scene.truth.commit(NO_KEYS, scene.random(1)))
    scene.check(10)


def test_a_share_of_the_time_is_a_percentage(opens: Opens) -> None:
    with pytest.raises(InvalidArgument, match="from 0 to 100"):
        opens(probe_percent=101)
