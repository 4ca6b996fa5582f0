"""Comparing exactly gives the same places and scores however it is done."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.backends.engine import _scan
from lookalike.backends.engine._scan import _thinned, nearest, precise_scores
from lookalike.backends.types import Metric, normalize


@pytest.mark.parametrize("metric", list(Metric))
def test_the_nearest_are_right_to_the_last_tie(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_scan, "SCORE_BYTES", 4096)  # several blocks
    monkeypatch.setattr(_scan, "GATHER_BYTES", 4096)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n, dim, k = int(rng.integers(1, 900)), int(rng.choice([3, 16, 64])), rng.integers(1, 40)
        kinds = rng.standard_normal((max(1, n // int(rng.choice([1, 3, 100]))), dim), np.float32)
        vectors = kinds[rng.integers(0, len(kinds), n)]
        queries = rng.standard_normal((int(rng.integers(1, 9)), dim), np.float32)
        queries[0] = vectors[int(rng.integers(n))]
        if metric is Metric.COSINE:
            vectors, queries = normalize(vectors), normalize(queries)
        live = None if seed % 3 else rng.random(n) < rng.random()
        rows = np.sort(rng.choice(n, int(rng.integers(1, n + 1)), False)) if seed % 3 == 1 else None
        allowed = np.arange(n) if live is None else np.flatnonzero(live)
        allowed = allowed if rows is None else rows
        hits = nearest(vectors, queries, int(k), metric, rows=rows, live=live)
        places = np.broadcast_to(allowed, (len(queries), len(allowed)))
        scores = precise_scores(vectors, queries, places, metric)
        order = np.lexsort((places, -scores), axis=-1)[:, :k]
        assert (np.take_along_axis(places, order, 1) == hits.ids).all(), f"seed {seed}"
        assert (np.take_along_axis(scores, order, 1) == hits.scores).all(), f"seed {seed}"


@pytest.mark.parametrize("equal", [0, 30, 3000])
def test_the_best_of_long_lines_are_those_of_sorting_them(equal: int) -> None:
    print("seed 71")
    rng = np.random.default_rng(71)
    scores = rng.standard_normal((9, 5003)).astype(np.float32)
    scores[:, rng.choice(5003, equal, replace=False)] = 9
    places, best = _thinned(scores, 18)
    assert best.shape == places.shape == (9, 18)
    assert (np.take_along_axis(scores, places, 1) == best).all()
    assert (np.sort(best, 1) == np.sort(scores, 1)[:, -18:]).all()
    assert all(len(set(line)) == 18 for line in places.tolist())
