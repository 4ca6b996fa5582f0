"""Which specs are refused, what is built of the others, and what "auto" chooses."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from lookalike.backends.errors import BackendUnavailable, IndexSpecInvalid, UnknownBackend
from lookalike.backends.index import auto
from lookalike.backends.index._plan import Kind, plan
from lookalike.backends.registry import indexes
from lookalike.backends.testing.clusters import clustered
from lookalike.backends.types import (
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Metric,
    SearchParams,
)

needs_faiss = pytest.mark.skipif(
    "faiss" not in indexes.available(), reason="pip install 'lookalike[server]'"
)
needs_hnswlib = pytest.mark.skipif(
    "hnswlib" not in indexes.available(), reason="pip install 'lookalike[hnswlib]'"
)


@needs_faiss
@pytest.mark.parametrize(
    "factory",
    [
        "HNSW0", "HNSW1,Flat", "HNSW-3,Flat", "HNSW99999999", "IVF0,Flat", "IVF99999999999,Flat",
        "IVF999999,Flat", "PQ0x4fs", "PQ7x4fs", "PQ16x8fs", "PQ16x9", "PQ16x1", "PCA0,Flat",
        "PCA99,Flat", "OPQ7,PQ7", "LSH", "NSG16", "IMI2x8,Flat", "Flat,Flat", "IDMap,Flat", "", " ",
        "IVF16,HNSW32", "RFlat", "Flat\n", "IVF16,PQ16+8", "LSQ2x8", "RaBitQ", "IVF16,Flat,RFlat,RFlat",
    ],
)  # fmt: skip
def test_factory_strings_that_faiss_would_die_of_or_cannot_refine_are_refused(
    factory: str,
) -> None:
    with pytest.raises(IndexSpecInvalid) as refused:
        auto.check(IndexSpec("faiss", options={"factory": factory}), 64)
    assert "factory" in refused.value.message
    assert "/project/" not in refused.value.message, "FAISS's source paths are no help"


@needs_faiss
@pytest.mark.parametrize(
    ("factory", "kind"),
    [
        ("Flat", "Flat"),
        ("HNSW8", "HNSW"),
        ("HNSW8,SQ8", "HNSW"),
        ("IVF8,Flat", "IVF"),
        ("IVF8_HNSW8,SQfp16", "IVF"),
        ("RR16,IVF8,PQ8x4fsr,RFlat", "IVF"),
        ("PCA8,SQ6", "codes"),
        ("PQ8x4", "codes"),
        ("SQbf16", "codes"),
    ],
)
@pytest.mark.parametrize("metric", list(Metric))
def test_factory_strings_build_what_they_say(factory: str, kind: str, metric: Metric) -> None:
    spec = IndexSpec("faiss", options={"factory": factory}, metric=metric)
    auto.check(spec, 16)
    vectors = clustered(700, 16, metric, seed=4)
    index = indexes.resolve("faiss").build(spec, vectors)
    assert index.settings["kind"] == kind
    hits = index.search(vectors[:50], 5)
    assert (hits.ids >= 0).all()
    if metric is not Metric.DOT:
        assert (hits.ids[:, 0] == np.arange(50)).mean() >= 0.98


@needs_faiss
@pytest.mark.parametrize("factory", ["IVF256,PQ8x4fs", "PQ8np", "OPQ8,PQ8", "PCA8,Flat"])
def test_too_few_vectors_to_train_on_are_compared_exactly_and_it_says_so(factory: str) -> None:
    vectors = clustered(10, 16, Metric.COSINE, seed=4)
    spec = IndexSpec("faiss", options={"factory": factory})
    index = indexes.resolve("faiss").build(spec, vectors)
    assert index.exact
    assert index.settings["kind"] == "Flat"
    assert factory in str(index.settings["because"])


@needs_faiss
def test_training_never_lacks_points(capfd: pytest.CaptureFixture[str]) -> None:
    for count in (39, 100, 1000, 3000):
        vectors = clustered(count, 8, Metric.L2, seed=count)
        for algorithm in (IvfParams(), IvfParams(nlist=1), IvfParams(nlist=5000)):
            spec = IndexSpec("faiss", algorithm, metric=Metric.L2)
            settings = indexes.resolve("faiss").build(spec, vectors).settings
            assert settings["kind"] == "IVF"
            assert int(str(settings["nlist"])) * 39 <= count
    assert "WARNING" not in "".join(capfd.readouterr()), "FAISS warns of few training points"


def test_without_an_algorithm_few_vectors_are_compared_and_many_make_a_graph() -> None:
    assert plan(IndexSpec("faiss"), 4999, 16).kind is Kind.FLAT
    assert plan(IndexSpec("faiss"), 5000, 16).kind is Kind.HNSW


@needs_faiss
def test_what_was_asked_for_is_not_measured_away() -> None:
    vectors = clustered(3000, 16, Metric.COSINE, seed=6)
    build = indexes.resolve("faiss").build
    hnsw = build(IndexSpec("faiss", HnswParams(m=8, ef_construction=40, ef_search=17)), vectors)
    assert hnsw.settings["ef_search"] == 17
    assert hnsw.settings["factory"] == "HNSW8,Flat"
    ivf = build(IndexSpec("faiss", IvfParams(nlist=30, nprobe=1)), vectors)
    assert (ivf.settings["nlist"], ivf.settings["nprobe"]) == (30, 1)
    measured = build(IndexSpec("faiss", IvfParams(nlist=30)), vectors)
    assert float(str(measured.settings["measured_recall"])) >= 0.99
    assert float(str(ivf.settings["measured_recall"])) < 0.99


@needs_faiss
def test_a_query_may_ask_for_more_or_less_effort_than_the_default() -> None:
    vectors = clustered(6000, 16, Metric.COSINE, seed=7)
    index = indexes.resolve("faiss").build(IndexSpec("faiss", IvfParams(nlist=150)), vectors)
    exact = index.search(vectors[:100], 10, params=SearchParams(exact=True))

    def found(nprobe: int) -> float:
        hits = index.search(vectors[:100], 10, params=SearchParams(nprobe=nprobe))
        return float((hits.ids == exact.ids).mean())

    assert found(1) < 0.95 < found(0) <= found(150) == 1.0


@needs_faiss
def test_lists_that_hold_too_few_are_no_reason_to_find_too_few() -> None:
    vectors = clustered(6000, 16, Metric.COSINE, seed=9)
    spec = IndexSpec("faiss", IvfParams(nlist=100, nprobe=1))
    index = indexes.resolve("faiss").build(spec, vectors)
    one_list = SearchParams(nprobe=1)
    hits = index.search(vectors[:20], 1000, params=one_list)
    assert (hits.ids >= 0).all()
    live = np.arange(len(vectors)) % 2 == 0
    assert (index.search(vectors[:20], 1000, live=live, params=one_list).ids >= 0).all()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (IndexSpec("hnswlib", IvfParams()), ["IVF", '"faiss"']),
        (IndexSpec("hnswlib", FlatParams()), ["Flat", '"exact"']),
        (IndexSpec("hnswlib", options={"factory": "x"}), ["no options"]),
        (IndexSpec("exact", HnswParams()), ['"faiss"']),
        (IndexSpec("faiss", HnswParams(m=3)), ["hnsw.m", "4 to 128"]),
        (IndexSpec("faiss", HnswParams(m=64, ef_construction=10)), ["ef_construction", "64"]),
        (IndexSpec("faiss", HnswParams(ef_search=-1)), ["ef_search"]),
        (IndexSpec("faiss", IvfParams(nlist=10**9)), ["nlist"]),
        (IndexSpec("faiss", IvfParams(nlist=8, nprobe=9)), ["nprobe", "1 to 8"]),
        (IndexSpec("faiss", options={"factroy": "Flat"}), ["factroy", "factory"]),
        (IndexSpec("faiss", options={"factory": 7}), ["string"]),
        (IndexSpec("faiss", FlatParams(), {"factory": "Flat"}), ["leave one of them out"]),
        (IndexSpec("auto", HnswParams(m=1000)), ["hnsw.m"]),
        (IndexSpec("auto", options={"factory": "Flat"}), ["Name the backend"]),
    ],
)
def test_a_refusal_says_what_to_do_instead(spec: IndexSpec, words: list[str]) -> None:
    if spec.backend not in ("auto", *indexes.available()):
        pytest.skip(f"{spec.backend} is not installed")
    with pytest.raises(IndexSpecInvalid) as refused:
        auto.check(spec, 64)
    for word in words:
        assert word in refused.value.message
    assert refused.value.field.startswith("index.")


def test_a_backend_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(UnknownBackend, match="exact"):
        auto.check(IndexSpec("exakt"), 8)


@needs_faiss
def test_auto_is_exact_while_that_takes_milliseconds_and_a_graph_beyond() -> None:
    assert auto.choose(IndexSpec(), 1, 512).backend == "exact"
    assert auto.choose(IndexSpec(""), 50_000, 512).backend == "exact"
    assert auto.choose(IndexSpec(), 50_001, 512).backend == "faiss"
    assert auto.choose(IndexSpec(), 100_000, 8).backend == "exact"
    assert auto.choose(IndexSpec(), 100_001, 8).backend == "faiss"
    big = auto.choose(IndexSpec(metric=Metric.L2), 10**6, 512)
    assert big == IndexSpec("faiss", HnswParams(), metric=Metric.L2)


@needs_faiss
def test_auto_takes_codes_where_a_graph_does_not_fit_into_memory() -> None:
    room = 10**6 * (4 * 512 + 144)
    assert auto.choose(IndexSpec(), 10**6, 512, memory=room).algorithm == HnswParams()
    small = auto.choose(IndexSpec(target_recall=0.95), 10**6, 512, memory=room - 1)
    assert small == IndexSpec("faiss", options={"factory": "IVF4000,PQ256x4fs"}, target_recall=0.95)
    assert "MB" in small.because
    auto.check(small, 512)
    part = auto.choose(IndexSpec(), 10**6, 512, rows=9000, memory=1)
    assert part.options == {"factory": "IVF230,PQ256x4fs"}
    assert plan(part, 9000, 512).kind is Kind.IVF
    assert auto.choose(IndexSpec(), 10**6, 521, memory=1).algorithm == HnswParams(), "a prime"
    assert auto.choose(IndexSpec(), 40_000, 512, memory=1).backend == "exact"
    assert auto.machine_memory() > 2**20


@needs_faiss
def test_what_auto_chose_says_why_and_what_it_measured() -> None:
    print("seed 61")
    vectors = clustered(6000, 32, Metric.COSINE, seed=61)
    spec = auto.choose(IndexSpec(), 10**6, 32, rows=len(vectors), memory=1)
    first, again = (indexes.resolve("faiss").build(spec, vectors) for _ in range(2))
    assert first.settings == again.settings
    assert "a graph over 1000000 takes" in str(first.settings["because"])
    assert float(str(first.settings["measured_recall"])) >= 0.99
    truth = indexes.resolve("exact").build(IndexSpec("exact"), vectors)
    found = first.search(vectors[:200], 10).ids == truth.search(vectors[:200], 10).ids
    assert found.mean() >= 0.98


@needs_faiss
def test_auto_keeps_the_algorithm_that_was_asked_for() -> None:
    assert auto.choose(IndexSpec("auto", FlatParams()), 10**7, 512).backend == "exact"
    hnsw = auto.choose(IndexSpec("auto", HnswParams(m=32)), 10, 512)
    assert hnsw == IndexSpec("faiss", HnswParams(m=32))
    assert auto.choose(IndexSpec("auto", IvfParams()), 10, 512).backend == "faiss"


def test_other_backends_are_left_as_they_are() -> None:
    spec = IndexSpec("mine", HnswParams(m=5), {"a": 1}, Metric.DOT)
    assert auto.choose(spec, 10**9, 8) is spec


MISSING = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from lookalike.backends.index import auto
from lookalike.backends.errors import BackendUnavailable
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams
found = [auto.choose(IndexSpec(), 10**6, 512).backend, auto.choose(IndexSpec(), 10, 8).backend]
for algorithm in (HnswParams(), IvfParams()):
    try:
        found.append(auto.choose(IndexSpec("auto", algorithm), 10, 8).backend)
    except BackendUnavailable as error:
        found.append(error.metadata["extra"])
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (["faiss"], ["hnswlib", "exact", "hnswlib", "server"]),
        (["faiss", "hnswlib"], ["exact", "exact", "server", "server"]),
    ],
)
@needs_hnswlib
def test_auto_does_without_what_is_not_installed(missing: list[str], expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISSING, json.dumps(missing)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == expected


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    monkeypatch.delitem(sys.modules, "lookalike.backends.index._hnswlib", raising=False)
    with pytest.raises(BackendUnavailable, match=r"lookalike\[hnswlib\]"):
        auto.check(IndexSpec("hnswlib"), 8)
