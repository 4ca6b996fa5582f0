"""All indexes over the same vectors: who says what the exact one says, and how often."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

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


class Pair(NamedTuple):
    """One index that was made, and the exact one over the same vectors."""

    name: str
    made: VectorIndex
    exact: VectorIndex
    queries: Vectors


@pytest.fixture(scope="module", params=SPECS)
def pair(request: pytest.FixtureRequest) -> Pair:
    print("seed 21")
    whole = clustered(COUNT + 100, DIM, Metric.COSINE, seed=21)
    queries, vectors = whole[:100], whole[100:]
    index = build(SPECS[request.param], vectors)
    return Pair(request.param, index, build(IndexSpec("exact"), vectors), queries)


def test_every_index_says_what_the_exact_one_says(pair: Pair) -> None:
    print("seed 22")
    rng = np.random.default_rng(22)
    first = pair.made.vectors[:, 0]
    masks: list[Mask | None] = [None, *(rng.random(COUNT) < share for share in (0.9, 0.5, 0.1))]
    masks.append(first < np.median(first))  # a filter that goes with the place
    for live in masks:
        true = pair.exact.search(pair.queries, 10, live=live)
        hits = pair.made.search(pair.queries, 10, live=live)
        if pair.made.exact:
            assert hits.ids.tolist() == true.ids.tolist()
        assert recall(hits.ids, list(true.ids)) >= 0.98
        same = hits.ids == true.ids
        assert (hits.scores[same] == true.scores[same]).all(), "one vector, two scores"


def test_the_structure_is_used_and_not_only_the_exact_way(pair: Pair) -> None:
    """Guards the test above: an index that always compares all would pass it."""
    assert pair.made.exact == (pair.name == "flat")
    if not pair.made.exact:
        rows = np.arange(COUNT)
        assert not pair.made.search(pair.queries, 10).exact
        assert not pair.made.search(pair.queries, 10, live=rows % 10 > 0).exact
        assert pair.made.search(pair.queries, 10, live=rows % 100 == 0).exact


@pytest.mark.parametrize("name", ["hnsw", "hnswlib"])
def test_a_graph_of_inner_products_gives_no_more_than_it_reaches(name: str) -> None:
    """Short vectors are on no one's list of neighbours: recall at 100 was 0.8 whatever ef."""
    whole = clustered(COUNT + 20, DIM, Metric.DOT, seed=23)
    queries, vectors = whole[:20], whole[20:]
    index = build(replace(SPECS[name], metric=Metric.DOT), vectors)
    exact = build(IndexSpec("exact", metric=Metric.DOT), vectors)
    assert not index.search(queries, 10).exact
    for k, bar in ((10, 0.96), (15, 0.95), (100, 0.98)):
        true = exact.search(queries, k)
        assert recall(index.search(queries, k).ids, list(true.ids)) >= bar
