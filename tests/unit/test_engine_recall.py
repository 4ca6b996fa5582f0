"""An engine knows its recall, and searches harder where it is less than the target."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_parts import Opens, PlainIndex, opener
from lookalike.backends.engine import _rounds
from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.engine._measuring import RENEW_S
from lookalike.backends.engine._part import Part, Segment
from lookalike.backends.engine._probe import Probe
from lookalike.backends.engine._rounds import Round
from lookalike.backends.engine._scan import nearest
from lookalike.backends.recall import Recall, found_shares
from lookalike.backends.testing.scene import DIM, Scene
from lookalike.backends.types import (
    Hits,
    HnswParams,
    IndexSpec,
    Mask,
    Metric,
    SearchParams,
    Vectors,
    normalize,
)


class LazyIndex(PlainIndex):
    """Sees the best and half of its rows; with more boost so many times as many."""

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        seen = np.random.default_rng(3).permutation(self.count) < 0.5 * params.boost * self.count
        best = super()._search(queries, 1, live, params)
        hits = super()._search(queries, k, seen if live is None else seen & live, params)
        lacks = hits.ids[:, 0] != best.ids[:, 0]
        for mine, its in ((hits.ids, best.ids), (hits.scores, best.scores)):
            mine[lacks, 1:] = mine[lacks, :-1]
            mine[lacks, 0] = its[lacks, 0]
        return hits


class AloofIndex(PlainIndex):
    """Finds all for its own rows, and nothing near for other queries without a boost of 2."""

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        hits = super()._search(queries, k, live, params)
        strange = hits.scores[:, 0] < 0.999
        if params.boost < 2:
            hits.ids[strange], hits.scores[strange] = -1, -np.inf
            far = super()._search(-queries, k, live, params).ids
            products = np.einsum("qd,qkd->qk", queries, self.vectors[far])
            hits.ids[strange], hits.scores[strange] = far[strange], products[strange]
        return hits


class Queries:
    """What was asked lately."""

    def __init__(self, vectors: Vectors) -> None:
        self.count = len(vectors)
        self._vectors = vectors

    def vectors(self) -> Vectors:
        return self._vectors


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    open_scene, scenes = opener(tmp_path, monkeypatch)
    yield open_scene
    for scene in scenes:
        scene.engine.close()


def settings(scene: Scene) -> dict[str, Any]:
    segments = scene.engine.stats().segments
    found: Any = segments[0]["settings"] if len(segments) == 1 else {}
    return dict(found)


def recall_of(scene: Scene) -> Recall:
    """Wait until the engine has looked at everything, and return what it says."""
    end = time.monotonic() + 60
    engine = scene.engine
    assert isinstance(engine, LocalEngine)
    while True:
        stats = engine.stats()
        looks_on = engine._probe.pause_s(engine._view, engine._spec) is not None
        if stats.recall is not None and not stats.building and not looks_on:
            return stats.recall
        assert time.monotonic() < end, stats
        time.sleep(0.005)


def again(scene: Scene, target: float) -> None:
    """Open the engine anew with another target."""
    spec = replace(scene.config.index, target_recall=target)
    scene.engine.snapshot()
    scene.reopen(replace(scene.config, index=spec))


def test_searches_look_harder_until_the_target_is_reached(
    opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "lookalike")
    scene = opens(LazyIndex, delta_limit=50, probe_percent=100)
    scene.add(600)
    found = recall_of(scene)
    assert found.estimate.low >= 0.99
    assert found.limit == 10
    assert settings(scene)["boost"] == 2.0
    assert settings(scene)["checked_recall"] == 1.0
    scene.check(10)
    assert abs(found.time - time.time()) < 60
    said = [r.getMessage() for r in caplog.records if "look harder" in r.getMessage()]
    assert [message.partition("boost ")[2][:4] for message in said] == ["1.25", "1.5 ", "2 af"]


def test_what_was_raised_is_remembered_after_a_restart(opens: Opens) -> None:
    scene = opens(LazyIndex, delta_limit=50, probe_percent=100)
    scene.add(600)
    recall_of(scene)
    scene.settle()
    scene.engine.close()  # without a snapshot: the boost was saved when it was raised
    scene.reopen(replace(scene.config, options={"probe_percent": 0}))
    assert settings(scene)["boost"] == 2.0
    scene.check(10)


def test_a_lower_target_is_reached_with_less(opens: Opens) -> None:
    scene = opens(LazyIndex, delta_limit=50, probe_percent=100)
    again(scene, 0.7)
    scene.add(600)
    found = recall_of(scene)
    assert settings(scene)["boost"] == 1.5
    assert 0.7 <= found.estimate.low < 0.75 < found.estimate.high
    again(scene, 0.9)
    assert recall_of(scene).estimate.low >= 0.9
    assert settings(scene)["boost"] == 2.0


def test_nothing_is_raised_beyond_what_helps(
    opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    class DullIndex(LazyIndex):
        """Takes no boost."""

        def _search(
            self, queries: Vectors, k: int, live: Mask | None, params: SearchParams
        ) -> Hits:
            return super()._search(queries, k, live, replace(params, boost=1.9))

    scene = opens(DullIndex, delta_limit=50, probe_percent=100)
    again(scene, 0.97)
    scene.add(600)
    assert recall_of(scene).estimate.high < 0.97
    assert "nothing is left to raise" in caplog.text
    assert "boost" not in settings(scene), "it would only cost"


@pytest.mark.parametrize("backend", ["faiss", "hnswlib"])
def test_ef_is_raised_where_a_graph_does_not_reach_the_target(backend: str, opens: Opens) -> None:
    if backend == "hnswlib":
        pytest.importorskip("hnswlib")
    scene = opens(delta_limit=6000, probe_percent=100)
    graph = IndexSpec(backend, HnswParams(m=8, ef_construction=40, ef_search=10))
    scene.reopen(replace(scene.config, index=graph))
    scene.add(6001)
    measured = recall_of(scene).estimate
    assert measured.high < 0.98, "hard enough to be told"
    assert "boost" not in settings(scene), "the owner has said how to search"
    queries = scene.random(200)
    truth = scene.right(queries, 10).scores
    before = found_shares(scene.engine.search(queries, 10).scores, truth).mean()
    again(scene, 0.98)
    found = recall_of(scene)
    assert found.estimate.low >= 0.98
    assert settings(scene)["boost"] > 1
    assert "effort" not in settings(scene), "it was not built anew for that"
    after = found_shares(scene.engine.search(queries, 10).scores, truth).mean()
    assert before < 0.98 < after + 0.01, (before, after)


def test_queries_that_were_asked_count_like_stored_rows(opens: Opens) -> None:
    scene = opens(AloofIndex, delta_limit=50, probe_percent=100)
    scene.add(600)
    assert recall_of(scene).estimate.value == 1.0
    assert "boost" not in settings(scene)
    engine, now = scene.engine, [0.0]
    assert isinstance(engine, LocalEngine)
    probe = Probe(Metric.COSINE, 100, lambda: now[0])
    asked = Queries(scene.random(512))
    asked.count = 0
    probe.recall.asked = Queries(scene.random(0))
    part = engine._view.parts[0]

    def look() -> float:
        while probe.recall.unmeasured(engine._view, engine._spec) is not None:
            probe.look(engine._view, engine._spec)
        return probe.recall.boost(part.segment)

    assert look() == 1.0
    probe.recall.asked = asked
    asked.count = 255
    assert probe.recall.unmeasured(engine._view, engine._spec) is None
    asked.count = 256
    assert look() == 2.0
    assert 0 < (probe.recall.renewal_s(engine._view) or 0) <= RENEW_S
    asked.count += 255
    now[0] += RENEW_S
    assert probe.recall.unmeasured(engine._view, engine._spec) is None
    asked.count += 1
    assert probe.recall.unmeasured(engine._view, engine._spec) is part


def test_there_is_nothing_to_say_of_an_exact_index(opens: Opens) -> None:
    scene = opens(delta_limit=50, probe_percent=100)
    scene.reopen(replace(scene.config, index=IndexSpec("exact")))
    scene.add(600)
    scene.settle()
    assert scene.engine.stats().recall is None


@pytest.mark.parametrize("metric", list(Metric))
def test_a_round_finds_the_truth_block_by_block(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = 11
    print("seed", seed)
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((700, DIM), dtype=np.float32)
    vectors[300:310] = vectors[300]
    vectors = normalize(vectors) if metric is Metric.COSINE else vectors
    live = rng.random(700) < 0.6
    live[256:512] &= rng.random(256) < 0.02  # a block with next to nothing
    index = PlainIndex(IndexSpec("plain", metric=metric), vectors)
    segment = Segment(1, np.arange(700) * 3, vectors, index.spec, index)
    part = Part(segment, live)
    monkeypatch.setattr(_rounds, "BLOCK_NUMBERS", 256 * DIM)
    recent = normalize(rng.standard_normal((40, DIM), dtype=np.float32))
    measured = Round(part, metric, recent, 1.0)
    assert measured.count == int(live.sum()) + 40
    while not measured.all_asked:
        while measured.step():
            pass
        measured.go_on()
    assert measured.estimate.value == 1.0
    assert measured.estimate.count == measured.count
    own = measured._own
    queries = np.where(own[:, None] < 0, measured._lately[measured._place % 40], vectors[own])
    right = nearest(vectors, queries, 11, metric, live=live)
    for i, row in enumerate(own):
        scores = right.scores[i][right.ids[i] != row][:10]
        assert measured._truth[i] == pytest.approx(scores, rel=1e-6), i
