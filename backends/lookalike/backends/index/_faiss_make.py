"""Making, training and reading the indexes of FAISS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index._pages import on_large_pages
from lookalike.backends.index._params import DEFAULT_EF_CONSTRUCTION
from lookalike.backends.index._plan import Plan
from lookalike.backends.types import HnswParams, IndexSpec, Metric, Vectors

faiss: Any = typed_faiss
"""Its stubs know only the generated half of it, without what its Python half adds."""

TRAINING_POINTS_PER_CENTRE = 64
"""FAISS's default of 256 makes k-means 4 times as long for no recall
(894 lists over 50k x 256: 1.9 s, nprobe 8 finds all)."""
OPQ_ROUNDS = 20
"""FAISS's default of 50 takes minutes."""
CHUNK = 2048
"""Vectors added between two reports: about a second of building a graph."""


@contextmanager
def omp_threads(threads: int) -> Iterator[None]:
    """Let FAISS use so many threads; this counts for the calling thread only.

    Product quantizers are trained with one: their matrices are so small that a second
    one costs more than it gives (PQ16x4fs over 10k: 0.4 against 12 s on busy cores).
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def create(made: Plan, dim: int, metric: Metric) -> Any:
    """Make an empty index; raise IndexSpecInvalid with FAISS's own reason."""
    code = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    try:
        return faiss.index_factory(dim, made.factory or "Flat", code)
    except (RuntimeError, MemoryError) as error:
        reason = str(error).rsplit("Error: ", 1)[-1].rsplit(" failed: ", 1)[-1].strip()
        raise IndexSpecInvalid(
            f"The factory string {made.factory!r} cannot be used for {dim} dimensions: {reason[:160]}",
            field="index.options",
        ) from error


def _core(inner: Any) -> Any:
    """Return the index behind a rotation, or the index itself."""
    if isinstance(inner, faiss.IndexPreTransform):
        return faiss.downcast_index(inner.index)
    return inner


def code_bytes(inner: Any) -> int:
    core = _core(inner)
    if isinstance(core, faiss.IndexHNSW):
        core = core.storage
    return int(core.code_size if isinstance(core, faiss.IndexIVF) else core.sa_code_size())


def configure(inner: Any, made: Plan, spec: IndexSpec) -> None:
    """Set what a factory string leaves to defaults, before training."""
    core = _core(inner)
    if core is not inner:
        rotation = faiss.downcast_VectorTransform(inner.chain.at(0))
        if isinstance(rotation, faiss.OPQMatrix):
            rotation.niter = OPQ_ROUNDS
    if isinstance(core, faiss.IndexHNSW):
        asked = spec.algorithm.ef_construction if isinstance(spec.algorithm, HnswParams) else 0
        core.hnsw.efConstruction = asked or max(DEFAULT_EF_CONSTRUCTION, made.m)
    if isinstance(core, faiss.IndexIVF):
        core.cp.max_points_per_centroid = TRAINING_POINTS_PER_CENTRE
    if isinstance(core, faiss.IndexPQ):
        core.do_polysemous_training = False  # takes half a minute, for a search we do not use


def train(inner: Any, part: Vectors, metric: Metric) -> None:
    rotation = faiss.downcast_VectorTransform(inner.chain.at(0)) if inner is not _core(inner) else 0
    if isinstance(rotation, faiss.PCAMatrix) and metric is not Metric.L2:
        # PCA moves the mean to 0, which changes products, by another amount for each row
        rotation.train(part)
        rotation.have_bias = False
    inner.train(part)


def training_part(vectors: Vectors, made: Plan) -> Vectors:
    """Pick at most as many vectors as training looks at, by a fixed seed."""
    most = max(made.nlist * TRAINING_POINTS_PER_CENTRE, 2**16)
    if len(vectors) <= most:
        return vectors
    rows = np.random.default_rng(0).choice(len(vectors), most, replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)])


def is_plain_graph(inner: Any) -> bool:
    return isinstance(inner, faiss.IndexHNSWFlat)


def plain_graph_vectors(inner: Any) -> Vectors:
    """Return the vectors that such a graph holds, (n, dim), in place: for as long as it lives."""
    flat = faiss.downcast_index(inner.storage)
    held: Vectors = faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
    return held.reshape(flat.ntotal, flat.d)


def read(path: Path, vectors: Vectors, metric: Metric) -> Any:
    try:
        inner = faiss.read_index(str(path))
    except (RuntimeError, MemoryError) as error:
        raise ValueError("FAISS cannot read the index file") from error
    count, dim = vectors.shape
    wanted = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    if (inner.ntotal, inner.d, inner.metric_type) != (count, dim, wanted):
        raise ValueError("the index file is of other vectors")
    if is_plain_graph(inner):
        if inner.hnsw.levels.size() != count:
            raise ValueError("the index file is of other vectors")
        storage = faiss.IndexFlat(dim, wanted)
        for start in range(0, count, CHUNK * 16):
            storage.add(np.ascontiguousarray(vectors[start : start + CHUNK * 16]))
        inner.storage = storage
        inner.own_fields = True
        storage.this.disown()
        on_large_pages(plain_graph_vectors(inner))
    return inner
