"""A sieve: 4-bit codes of all rows, scanned whole, for searches that few rows may answer.

Graphs and lists look where the query is. A filter may let through nothing there, and
then they miss what is best among the rest. A scan of short codes looks everywhere, at
the same cost whatever the filter lets through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.backends.index._compare import FLOAT32_SAFE
from lookalike.backends.types import Mask, Metric, Rows, Vectors

faiss: Any = typed_faiss
"""Its stubs know only the generated half of it, without what its Python half adds."""

WIDE = 4
"""Numbers of a vector in one 4-bit code. Measured, 100,000 x 512, rows let through near
the query or far from it: of 200 proposals 0.997 of the true ten are among them, with 8
in one code 0.96; a scan takes 0.4 ms of one core, with 2 in one code 0.8."""
WIDE_DIM = 256
"""Shorter vectors have 2 numbers in one code: there is less to lose."""
TRAINING_ROWS = 4096
CHUNK = 8192
"""Rows encoded between two looks at whether to stop, about 50 ms."""
SEED = 1

Bits = NDArray[np.uint8]
"""One bit a row, the lowest first."""


class Stopped(Exception):
    """Nobody wants the sieve any more."""


class Sieve:
    """Codes of the rows of one matrix. Any thread; nothing in it changes once made.

    A product quantizer (Jegou et al. 2011) with 16 centroids for each part of a vector,
    in FAISS's fast-scan layout: 64 bytes a row at 512 dimensions.
    """

    def __init__(self, inner: Any, metric: Metric, dim: int) -> None:
        self._inner = inner
        self._metric = metric
        self._dim = dim

    @classmethod
    def build(cls, vectors: Vectors, metric: Metric, wanted: Callable[[], bool]) -> Sieve | None:
        """Encode (n, dim) vectors with one thread, 1.5 s for 100,000 x 512.

        Returns None where codes of float32 would mislead. Raises Stopped as soon as
        `wanted` says no.
        """
        count, dim = vectors.shape
        drawn = np.random.default_rng(SEED).permutation(count)[:TRAINING_ROWS]
        some: Vectors = np.ascontiguousarray(vectors[np.sort(drawn)], np.float32)
        if not _fits(some):
            return None
        faiss.omp_set_num_threads(1)  # of this thread
        inner = _create(dim, metric)
        inner.train(_padded(some, inner.d))
        for start in range(0, count, CHUNK):
            if not wanted():
                raise Stopped
            block = np.ascontiguousarray(vectors[start : start + CHUNK], np.float32)
            if not _fits(block):
                return None
            inner.add(_padded(block, inner.d))
        return cls(inner, metric, dim)

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes."""
        return int(self._inner.ntotal) * (int(self._inner.code_size) + 8)

    def propose(self, queries: Vectors, fetch: int, bits: Bits) -> Rows | None:
        """Return (q, fetch) of the rows whose bit is set, the likely best first, -1 = none.

        Returns None for queries that float32 cannot compare.
        """
        lengths = np.sqrt(np.vecdot(queries, queries, dtype=np.float64))
        if self._metric is Metric.L2:
            if not lengths.max(initial=0) ** 2 < FLOAT32_SAFE:
                return None
        else:  # products are in the same order whatever the length
            lengths[lengths == 0] = 1
            queries = (queries / lengths[:, None]).astype(np.float32)
        faiss.omp_set_num_threads(1)
        params = faiss.SearchParametersIVF(nprobe=1, sel=faiss.IDSelectorBitmap(bits))
        _, rows = self._inner.search(_padded(queries, self._inner.d), fetch, params=params)
        found: Rows = rows
        return found


def pack(live: Mask) -> Bits:
    """Return a mask as `propose` takes it."""
    return np.packbits(live, bitorder="little")


def _create(dim: int, metric: Metric) -> Any:
    """Make it empty. One inverted list holds all: only those take a selector."""
    wide = WIDE if dim >= WIDE_DIM else 2
    codes = max(1, -(-dim // wide))
    code = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    inner = faiss.index_factory(codes * wide, f"IVF1,PQ{codes}x4fs", code)
    inner.by_residual = False
    return inner


def _padded(block: Vectors, dim: int) -> Vectors:
    """Return rows with zeros behind, up to `dim` numbers: they change no product."""
    if block.shape[1] == dim:
        return np.ascontiguousarray(block, np.float32)
    out = np.zeros((len(block), dim), np.float32)
    out[:, : block.shape[1]] = block
    return out


def _fits(block: Vectors) -> bool:
    squares = np.vecdot(block, block, dtype=np.float64)
    return bool(squares.max(initial=0) < FLOAT32_SAFE)
