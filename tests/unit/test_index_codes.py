"""Candidates from 8-bit codes: whatever the vectors, none of the best is missed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.backends.index import _compare
from lookalike.backends.index._codes import CodedVectors
from lookalike.backends.index._compare import ExactSearch, rerank
from lookalike.backends.index._int8 import Codes, Multiply, Sums, int8_product
from lookalike.backends.index._threads import divided
from lookalike.backends.testing.clusters import clustered
from lookalike.backends.types import Mask, Metric, Vectors, normalize

DIM = 96


def numpy_product(matrix: NDArray[np.int8]) -> Multiply:
    """Multiply as ONNX Runtime would, which need not be installed."""
    wide = matrix.astype(np.float64)

    def multiply(codes: Codes, into: Sums) -> None:
        into[:] = codes.astype(np.float64) @ wide

    return multiply


def scene(name: str, rng: np.random.Generator) -> tuple[Metric, Vectors]:
    count = 6000
    if name == "clustered":
        return Metric.COSINE, clustered(count, DIM, Metric.COSINE, seed=41)
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    match name:
        case "copies":
            return Metric.COSINE, normalize(vectors[rng.integers(0, 40, count)])
        case "one large number in all":
            vectors[:, 7] += 30
            return Metric.COSINE, normalize(vectors)
        case "some unlike all others":
            vectors[rng.choice(count, 9, replace=False)] *= 50
            vectors[rng.choice(count, 9, replace=False), :] = 0
            vectors[rng.choice(count, 9, replace=False), 3] = 1000
            return Metric.DOT, vectors
        case "lengths of all sizes":
            return Metric.DOT, vectors * np.exp(2 * rng.standard_normal((count, 1))).astype("f4")
    return Metric.COSINE, normalize(vectors)


NAMES = [
    "spread evenly",
    "clustered",
    "copies",
    "one large number in all",
    "some unlike all others",
    "lengths of all sizes",
]


@pytest.fixture(params=NAMES)
def given(request: pytest.FixtureRequest) -> tuple[Metric, Vectors, np.random.Generator]:
    seed = 40 + NAMES.index(request.param)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    return *scene(request.param, rng), rng


def coded(metric: Metric, vectors: Vectors) -> ExactSearch:
    """Make an exact search that has codes, by whatever product there is."""
    search = ExactSearch(metric, vectors, coded=True)
    search._coder = threading.Lock()
    search._codes = CodedVectors(vectors, int8_product() or numpy_product)
    return search


def test_codes_give_the_very_hits_that_comparing_everything_gives(
    given: tuple[Metric, Vectors, np.random.Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    metric, vectors, rng = given
    quick, plain = coded(metric, vectors), ExactSearch(metric, vectors)
    queries = rng.standard_normal((40, DIM)).astype(np.float32)
    queries[::2] = vectors[rng.integers(0, len(vectors), 20)] * 1.5
    queries[1] = 0
    masks: list[Mask | None] = [None, rng.random(len(vectors)) < 0.5]
    for threads in (1, 3):
        monkeypatch.setattr(_compare, "cores", lambda n=threads: n)
        monkeypatch.setattr(_compare, "DIVIDED_PRODUCTS", 0)
        for live in masks:
            for k in (1, 10, 100):
                found, right = quick.search(queries, k, live), plain.search(queries, k, live)
                assert found.ids.tolist() == right.ids.tolist()
                assert found.scores.tolist() == right.scores.tolist()
                assert found.exact


def test_no_sum_is_further_from_the_truth_than_the_bound_says(
    given: tuple[Metric, Vectors, np.random.Generator],
) -> None:
    _, vectors, rng = given
    codes = CodedVectors(vectors, numpy_product)
    good = np.setdiff1d(np.arange(len(vectors)), codes.odd)
    rows = rng.choice(good, 50)
    # what the codes leave out of a row is the direction in which they are furthest off
    rough = (codes.codes[rows].astype(np.float64) - 128) * codes._scale
    middle = np.median(
        vectors[good] - (codes.codes[good].astype(np.float64) - 128) * codes._scale, axis=0
    )
    worst = vectors[rows] - middle - rough
    queries = np.concatenate([worst, rng.standard_normal((50, DIM))]).astype(np.float32)
    queries *= 1 / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30)
    asked = codes.ask(queries)
    sums = (codes.codes[good].astype(np.int64) - 128) @ asked.matrix.astype(np.int64)
    truth = vectors[good].astype(np.float64) @ queries.T.astype(np.float64)
    scale = np.abs(queries.astype(np.float64)).max(axis=1) / 127 * codes._scale
    off = truth / np.where(scale == 0, 1, scale) - sums
    spread = off.max(axis=0) - off.min(axis=0)  # what is the same for all rows is nothing
    share = spread[scale > 0] / asked.slack[scale > 0]
    print("largest share of the bound", share.max())
    assert (share <= 1).all()


def test_the_bound_is_not_far_from_the_worst_there_is() -> None:
    print("seed 47")
    rng = np.random.default_rng(47)
    step = 0.25 / 127
    whole = rng.integers(-127, 127, (4096, DIM))
    whole[:, 0] = 127
    # every number half a step from the codes, in a direction of its own
    vectors = ((whole + rng.choice([-0.49, 0.49], whole.shape)) * step).astype(np.float32)
    codes = CodedVectors(vectors, numpy_product)
    queries = normalize((vectors - vectors.mean(axis=0))[:1])
    asked = codes.ask(queries)
    assert asked.slack[0] > 0
    worst = 2 * codes._left / codes._scale * 127 / np.abs(queries).max()
    assert worst <= asked.slack[0] <= 2.5 * worst


def test_the_product_is_exact_or_not_used() -> None:
    make = int8_product()
    if make is None:
        pytest.skip("ONNX Runtime is not installed, or not exact here")
    print("seed 48")
    rng = np.random.default_rng(48)
    for dim, count, queries in ((1, 1, 1), (17, 33, 5), (512, 1000, 256)):
        codes = rng.integers(0, 256, (count, dim), np.uint8)
        matrix = rng.integers(-127, 128, (dim, queries), np.int8)
        sums = np.empty((count, queries), np.int32)
        make(matrix)(codes, sums)
        assert (sums == codes.astype(np.int32) @ matrix.astype(np.int32)).all()


def test_without_a_product_everything_is_compared_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    print("seed 49")
    monkeypatch.setattr(_compare, "int8_product", lambda: None)
    vectors = clustered(22_000, DIM, Metric.COSINE, seed=49)
    search = ExactSearch(Metric.COSINE, vectors, coded=True)
    hits = search.search(vectors[:40], 5)
    assert (hits.ids[:, 0] == np.arange(40)).all()
    assert search.memory_bytes == 0


def test_codes_are_made_for_the_first_batch_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed 50")
    monkeypatch.setattr(_compare, "int8_product", lambda: numpy_product)
    vectors = clustered(22_000, DIM, Metric.COSINE, seed=50)
    search = ExactSearch(Metric.COSINE, vectors, coded=True)
    search.search(vectors[:1], 5)
    assert search.memory_bytes == 0
    search.search(vectors[:40], 5)
    assert vectors.size <= search.memory_bytes <= 1.01 * vectors.size


def test_work_that_fails_in_another_thread_fails_for_the_caller() -> None:
    def work(start: int, stop: int) -> int:
        if start:
            raise ValueError("no")
        return stop

    assert divided(10, 1, work) == [10]
    with pytest.raises(ValueError, match="no"):
        divided(10, 3, work)


@pytest.mark.parametrize("metric", list(Metric))
def test_proposals_are_ranked_alike_however_many_there_are(metric: Metric) -> None:
    print("seed 51")
    rng = np.random.default_rng(51)
    vectors = rng.standard_normal((500, DIM)).astype(np.float32)[rng.integers(0, 500, 3000)]
    queries = rng.standard_normal((9, DIM)).astype(np.float32)
    if metric is Metric.COSINE:
        vectors, queries = normalize(vectors), normalize(queries)
    truth = ExactSearch(metric, vectors).search(queries, 10)
    for wide in (10, 20, 100, 900):
        rows = np.full((9, wide), -1, np.int64)
        for line, ids in zip(rows, truth.ids, strict=True):
            others = np.setdiff1d(rng.permutation(3000)[:wide], ids)[: wide - 10]
            line[: 10 + len(others)] = rng.permutation(np.concatenate([ids, others]))
        for some in (slice(0, 1), slice(0, 9)):
            found = rerank(metric, queries[some], vectors, rows[some], 10)
            assert found.ids.tolist() == truth.ids[some].tolist()
            assert found.scores.tolist() == truth.scores[some].tolist()
