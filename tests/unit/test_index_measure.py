"""How an index finds the least effort that reaches its recall."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from lookalike.backends.index import _threads
from lookalike.backends.index._compare import ExactSearch
from lookalike.backends.index._measure import Sample, raise_until_good, rising
from lookalike.backends.registry import indexes
from lookalike.backends.testing.clusters import clustered, recall
from lookalike.backends.types import HnswParams, IndexSpec, Metric, SearchParams

GRAPHS = ["faiss", "hnswlib"]


def test_efforts_rise_by_a_third_or_a_half_and_end_at_the_most() -> None:
    assert list(islice(rising(16, 1024), 7)) == [16, 24, 32, 48, 64, 96, 128]
    assert list(rising(16, 1024))[-1] == 1024
    assert list(rising(77, 77)) == [77]
    assert list(rising(1, 20)) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
    for first in (1, 5, 16, 17, 100):
        assert all(a < b for a, b in pairwise(rising(first, 1024)))


def test_luck_with_the_sample_does_not_pass_for_the_goal() -> None:
    print("seed 31")
    vectors = clustered(2000, 16, Metric.COSINE, seed=31)
    compare = ExactSearch(Metric.COSINE, vectors)
    sample = Sample(compare)
    truth = compare.search(sample.queries, 11).ids
    rng = np.random.default_rng(31)

    def losing(share: float) -> np.ndarray:
        """Leave out so many of the true neighbours, the vectors themselves excepted."""
        out = (rng.random(truth.shape) < share) & (truth != sample.rows[:, None])
        return np.where(out, -1, truth)

    reading = sample.read(losing(0.009))
    assert reading.low < reading.recall < 1
    value, reading = raise_until_good(
        sample, lambda n: losing(0.009 if n == 1 else 0.0), iter([1, 2]), 0.99
    )
    assert (value, reading.recall, reading.low) == (2, 1.0, 1.0)


def test_vectors_that_do_not_find_themselves_are_looked_for_deeper() -> None:
    print("seed 32")
    vectors = clustered(2000, 16, Metric.COSINE, seed=32)
    compare = ExactSearch(Metric.COSINE, vectors)
    sample = Sample(compare)
    truth = compare.search(sample.queries, 11).ids
    blind = truth.copy()
    blind[5][blind[5] == sample.rows[5]] = -1
    assert sample.read(blind).lost == 1
    value, _ = raise_until_good(sample, lambda n: blind if n < 4 else truth, rising(1, 4), 0.9)
    assert value == 4


@pytest.mark.parametrize("backend", GRAPHS)
def test_a_graph_takes_the_least_effort_that_reaches_its_target(
    backend: str, tmp_path: Path
) -> None:
    if backend not in indexes.available():
        pytest.skip(f"{backend} is not installed")
    print("seed 33")
    whole = clustered(8200, 48, Metric.COSINE, seed=33)
    vectors, queries = whole[:8000], whole[8000:]
    spec = IndexSpec(backend, HnswParams(m=8, ef_construction=24))
    cls = indexes.resolve(backend)
    truth = ExactSearch(Metric.COSINE, vectors).search(queries, 10).ids
    efforts = []
    for target in (0.6, 0.0, 0.998):
        index = cls.build(replace(spec, target_recall=target), vectors, threads=2)
        efforts.append(int(str(index.settings["ef_search"])))
        measured = float(str(index.settings["measured_recall"]))
        found = recall(index.search(queries, 10).ids, list(truth))
        print(target, efforts[-1], measured, found)
        assert measured >= (target or 0.99)
        assert found >= (target or 0.99) - 0.015  # queries that are none of the vectors
        path = tmp_path / f"{target}"
        index.save(path)
        again = cls.load(index.spec, path, vectors)
        assert again.settings == index.settings
        with pytest.raises(ValueError):
            cls.load(replace(index.spec, metric=Metric.L2, target_recall=0.7), path, vectors[:-1])
    assert efforts[0] < efforts[1] < efforts[2]


@pytest.mark.parametrize("backend", GRAPHS)
def test_what_a_search_boosts_is_looked_for_deeper(backend: str) -> None:
    if backend not in indexes.available():
        pytest.skip(f"{backend} is not installed")
    print("seed 34")
    whole = clustered(9300, 24, Metric.COSINE, seed=34)
    vectors, queries = whole[:9000], whole[9000:]
    spec = IndexSpec(backend, HnswParams(m=4, ef_construction=16, ef_search=20))
    index = indexes.resolve(backend).build(spec, vectors, threads=2)
    truth = ExactSearch(Metric.COSINE, vectors).search(queries, 10).ids
    shares = [
        recall(index.search(queries, 10, params=SearchParams(boost=boost)).ids, list(truth))
        for boost in (1.0, 4.0)
    ]
    assert shares[0] + 0.01 < shares[1]


def test_a_file_of_hnswlib_that_was_not_measured_still_loads(tmp_path: Path) -> None:
    if "hnswlib" not in indexes.available():
        pytest.skip("hnswlib is not installed")
    print("seed 35")
    vectors = clustered(500, 16, Metric.COSINE, seed=35)
    cls = indexes.resolve("hnswlib")
    spec = IndexSpec("hnswlib", HnswParams())
    index = cls.build(spec, vectors)
    index.save(tmp_path / "index")
    content = bytearray((tmp_path / "index").read_bytes())
    assert struct.unpack_from("<Q", content, 88)[0] & 0xFFFFFFFF == 200
    content[92:96] = bytes(4)
    (tmp_path / "index").write_bytes(content)
    old = cls.load(spec, tmp_path / "index", vectors)
    assert old.settings["ef_search"] == 64
    assert "measured_recall" not in old.settings
    assert (old.search(vectors[:50], 1).ids[:, 0] == np.arange(50)).all()


@pytest.mark.parametrize("backend", GRAPHS)
def test_many_queries_on_several_threads_are_answered_as_one_by_one(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend not in indexes.available():
        pytest.skip(f"{backend} is not installed")
    print("seed 36")
    monkeypatch.setattr(_threads, "cores", lambda: 3)
    vectors = clustered(6000, 24, Metric.COSINE, seed=36)
    index = indexes.resolve(backend).build(IndexSpec(backend, HnswParams()), vectors, threads=2)
    live = np.random.default_rng(36).random(6000) < 0.7
    for mask in (None, live):
        whole = index.search(vectors[:130], 7, live=mask)
        for i in range(0, 130, 13):
            one = index.search(vectors[i : i + 1], 7, live=mask)
            assert whole.ids[i].tolist() == one.ids[0].tolist()
            assert whole.scores[i].tolist() == one.scores[0].tolist()
