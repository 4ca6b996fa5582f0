"""The exact index against the contract, and what it alone promises."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index._exact import ExactIndex
from lookalike.backends.registry import indexes
from lookalike.backends.testing.clusters import all_scores, best_rows, clustered
from lookalike.backends.types import HnswParams, IndexSpec, Mask, Metric, Vectors

pytest.register_assert_rewrite("lookalike.backends.testing.index")

from lookalike.backends.testing.index import IndexConformance


class TestExact(IndexConformance):
    backend = "exact"
    min_recall = 1.0


def oracle(
    queries: Vectors, vectors: Vectors, metric: Metric, k: int, live: Mask | None
) -> list[list[int]]:
    return [r.tolist() for r in best_rows(all_scores(metric, queries, vectors), k, live)]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize(("count", "dim"), [(1, 1), (1500, 7), (3000, 200), (70_000, 4)])
def test_answers_are_those_of_plain_float64(metric: Metric, count: int, dim: int) -> None:
    print("seed 11")
    rng = np.random.default_rng(11)
    whole = clustered(count + 9, dim, metric, seed=11)
    queries, vectors = whole[:9], whole[9:].copy()
    vectors[rng.integers(0, count, 30)] = queries[0]  # many of one distance
    index = ExactIndex.build(IndexSpec("exact", metric=metric), vectors)
    for share in (1.0, 0.6, 0.05):
        live = None if share == 1 else rng.random(count) < share
        for part in (queries, queries[:1]):
            for k in {1, min(40, count), min(count, 2000)}:
                found = index.search(part, k, live=live)
                got = [row[row >= 0].tolist() for row in found.ids]
                assert got == oracle(part, vectors, metric, k, live)


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.L2])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e25, 1e37])
@pytest.mark.parametrize("backend", ["exact", "faiss", "hnswlib"])
def test_numbers_of_any_size_are_compared_rightly(
    backend: str, scale: float, metric: Metric
) -> None:
    if backend not in indexes.available():
        pytest.skip(f"{backend} is not installed")
    # products of 1e25 overflow float32, those of 1e-30 become 0: every row would tie
    whole = clustered(2600, 8, metric, seed=5) * np.float32(scale)
    queries, vectors = whole[:5], whole[5:]
    spec = IndexSpec(backend, None if backend == "exact" else HnswParams(), metric=metric)
    found = indexes.resolve(backend).build(spec, vectors).search(queries, 1).ids[:, 0]
    scores = all_scores(metric, queries, vectors)
    if scale < 1:  # scores that float32 rounds to the same are ties
        scores = scores.astype(np.float32).astype(np.float64)
    assert found.tolist() == scores.argmax(axis=1).tolist()


def test_vectors_far_from_the_origin_are_told_apart() -> None:
    """Their distances are small differences of big numbers, which float32 alone gets wrong."""
    print("seed 8")
    offset = np.float32(300)
    vectors = np.random.default_rng(8).standard_normal((3000, 24)).astype(np.float32) + offset
    queries = vectors[:7] + np.float32(0.5)
    index = ExactIndex.build(IndexSpec("exact", metric=Metric.L2), vectors)
    found = index.search(queries, 20).ids.tolist()
    assert found == oracle(queries, vectors, Metric.L2, 20, None)


def test_vectors_that_all_are_the_same_come_by_row() -> None:
    vectors = np.ones((5000, 16), dtype=np.float32) / np.float32(4)
    index = ExactIndex.build(IndexSpec("exact"), vectors)
    live = np.arange(5000) % 3 == 1
    for queries in (vectors[:1], vectors[:20]):
        assert (index.search(queries, 5).ids == [0, 1, 2, 3, 4]).all()
        assert (index.search(queries, 5, live=live).ids == [1, 4, 7, 10, 13]).all()


def test_a_cosine_is_never_above_one() -> None:
    vectors = clustered(2000, 64, Metric.COSINE, seed=2)
    vectors *= np.float32(1 + 2.4e-7)  # as lengths come out of float32 arithmetic
    scores = ExactIndex.build(IndexSpec("exact"), vectors).search(vectors, 1).scores
    assert (scores == 1).all()


def test_memory_stays_bounded_while_a_big_batch_is_compared() -> None:
    vectors = clustered(100_000, 8, Metric.COSINE, seed=3)
    queries = vectors[:256]
    index = ExactIndex.build(IndexSpec("exact"), vectors)
    tracemalloc.start()
    index.search(queries, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6, "256 x 100 000 scores would be 100 MB"


def test_it_has_no_other_algorithm_and_no_options() -> None:
    for spec in (IndexSpec("exact", HnswParams()), IndexSpec("exact", options={"x": 1})):
        with pytest.raises(IndexSpecInvalid):
            ExactIndex.check(spec, 8)
