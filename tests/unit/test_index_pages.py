"""Moving vectors onto large pages changes none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.backends.index._faiss import FaissIndex
from lookalike.backends.index._faiss_make import plain_graph_vectors
from lookalike.backends.index._pages import PAGE, on_large_pages
from lookalike.backends.types import HnswParams, IndexSpec, normalize


@pytest.mark.parametrize("size", [0, 1000, PAGE // 4, 3 * PAGE // 4 + 7])
@pytest.mark.parametrize("skipped", [0, 3])
def test_an_array_is_what_it_was(size: int, skipped: int) -> None:
    array = np.arange(size + skipped, dtype=np.float32)
    on_large_pages(array[skipped:])
    assert (array == np.arange(size + skipped, dtype=np.float32)).all()


def test_a_graph_holds_its_vectors_built_and_loaded(tmp_path: Path) -> None:
    seed = 7
    print("seed", seed)
    vectors = normalize(np.random.default_rng(seed).standard_normal((3000, 256), np.float32))
    spec = IndexSpec("faiss", HnswParams(8, 40, 32))
    built = FaissIndex.build(spec, vectors)
    built.save(tmp_path / "index")
    loaded = FaissIndex.load(spec, tmp_path / "index", vectors)
    for index in (built, loaded):
        assert (plain_graph_vectors(index._inner) == vectors).all()
        hits = index.search(vectors[:50], 3)
        assert hits.ids[:, 0].tolist() == list(range(50))
