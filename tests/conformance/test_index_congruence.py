"""All indexes over the same vectors: who says what the exact one says, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.backends.index.base import VectorIndex
from lookalike.backends.registry import indexes
from lookalike.backends.testing.clusters import clustered, recall
from lookalike.backends.types import (
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Mask,
    Metric,
    Vectors,
)

COUNT = 12_000
DIM = 24
SPECS = {
    "flat": IndexSpec("faiss", FlatParams()),
    "hnsw": IndexSpec("faiss", HnswParams(ef_construction=80)),
    "ivf": IndexSpec("faiss", IvfParams()),
    "codes": IndexSpec("faiss", options={"factory": "IVF64,PQ12x4fs,RFlat"}),
    "hnswlib": IndexSpec("hnswlib", HnswParams(ef_construction=80)),
}


def build(spec: IndexSpec, vectors: Vectors) -> VectorIndex:
    if spec.backend not in indexes.available():
        pytest.skip(f"{spec.backend} is not installed")
    return indexes.resolve(spec.backend).build(spec, vectors, threads=2)


@pytest.mark.parametrize("name", SPECS)
def test_every_index_says_what_the_exact_one_says(name: str) -> None:
    print("seed 21")
    rng = np.random.default_rng(21)
    whole = clustered(COUNT + 100, DIM, Metric.COSINE, seed=21)
    queries, vectors = whole[:100], whole[100:]
    exact = build(IndexSpec("exact"), vectors)
    index = build(SPECS[name], vectors)
    masks: list[Mask | None] = [None, *(rng.random(COUNT) < share for share in (0.9, 0.5, 0.1))]
    masks.append(vectors[:, 0] < np.median(vectors[:, 0]))  # a filter that goes with the place
    for live in masks:
        true = exact.search(queries, 10, live=live)
        hits = index.search(queries, 10, live=live)
        if index.exact:
            assert hits.ids.tolist() == true.ids.tolist()
        assert recall(hits.ids, list(true.ids)) >= 0.98
        same = hits.ids == true.ids
        assert (hits.scores[same] == true.scores[same]).all(), "one vector, two scores"


@pytest.mark.parametrize("name", ["hnsw", "ivf", "codes", "hnswlib"])
def test_the_structure_is_used_and_not_only_the_exact_way(name: str) -> None:
    """Guards the tests above: an index that always compares all would pass them."""
    vectors = clustered(COUNT, DIM, Metric.COSINE, seed=22)
    index = build(SPECS[name], vectors)
    assert not index.exact
    assert not index.search(vectors[:3], 10).exact
    assert not index.search(vectors[:3], 10, live=np.arange(COUNT) % 10 > 0).exact
    assert index.search(vectors[:3], 10, live=np.arange(COUNT) % 100 == 0).exact
