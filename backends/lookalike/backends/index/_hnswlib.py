"""hnswlib: one kind of graph, quick for single queries and on several threads."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, ClassVar, Self

import hnswlib
import numpy as np

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index._compare import FLOAT32_SAFE, ExactSearch, rerank
from lookalike.backends.index._depth import first_live, graph_depth
from lookalike.backends.index._file import writing
from lookalike.backends.index._measure import LEAST_EF, MOST_EF, Sample, raise_until_good, rising
from lookalike.backends.index._params import (
    DEFAULT_EF_CONSTRUCTION,
    DEFAULT_EF_SEARCH,
    DEFAULT_M,
    check_algorithm,
)
from lookalike.backends.index._threads import in_parts
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.types import (
    Hits,
    HnswParams,
    IndexSpec,
    IvfParams,
    Mask,
    Metric,
    Progress,
    Rows,
    SearchParams,
    Vectors,
)

CHUNK = 2048
"""Vectors added between two reports: about a second of building."""
SEED = 100
_HEADER = struct.Struct("<6Q2I3QdQ")
"""hnswlib 0.8's own: offset, capacity, count, bytes of a row, offsets of label and
vector, top level, entry point, neighbours above level 0, at level 0, M, 1 / log(M),
ef_construction."""
_EF_CONSTRUCTION = _HEADER.size - 8
_NOTE = struct.Struct("<HH")
"""What was measured - ef_search; recall in 65,535ths, plus 1 - stands in the upper half of
ef_construction, which is 8 bytes long and read only when rows are added. hnswlib refuses
a file that is longer than its graph. Both are 0 in files that were not measured."""


class HnswlibIndex(VectorIndex):
    """A graph by hnswlib.

    Its parameters of a search are fields of the index, so they stay as they are while
    threads search: ef is left at its least, and more candidates are had by asking for
    more neighbours (hnswlib looks at max(ef, k) of them). Its filter is a Python
    callback, 2 to 100 times as slow as the search under the GIL (64 us to 755 us a query
    at 10 % live, 10.8 ms at 0.25 %), and is not used: rows that are not live are dropped from a deeper answer.
    """

    backend: ClassVar[str] = "hnswlib"

    def __init__(
        self, spec: IndexSpec, vectors: Vectors, inner: Any, note: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__(spec, vectors)
        self._compare = ExactSearch(spec.metric, vectors)
        self._inner = inner
        self._params = _params(spec)
        self._note = note

    @property
    def _ef(self) -> int:
        """What was asked for, or measured, or taken before anything was measured."""
        return self._params.ef_search or self._note[0] or DEFAULT_EF_SEARCH

    def _measure(self) -> None:
        """Find the least ef_search by which the index finds its own vectors' neighbours."""
        fixed = self._params.ef_search
        sample = Sample(self._compare)
        if not sample.top or self._compare.unfit:
            return

        def ask(ef: int) -> Rows:
            rows = self._ask(sample.queries, min(ef, self.count))
            return np.full((len(sample.rows), 1), -1, np.int64) if rows is None else rows

        steps = rising(fixed or LEAST_EF, fixed or MOST_EF)
        ef, reading = raise_until_good(sample, ask, steps, self.spec.goal)
        self._note = (ef, 1 + math.floor(reading.recall * 65534))

    @classmethod
    def check(cls, spec: IndexSpec, dim: int) -> None:
        if not isinstance(spec.algorithm, HnswParams | None):
            other = "IVF" if isinstance(spec.algorithm, IvfParams) else "Flat"
            instead = "faiss" if other == "IVF" else "exact"
            raise IndexSpecInvalid(
                f'The index "hnswlib" builds HNSW graphs only, not {other}. '
                f'Use the backend "{instead}" for that, or leave the algorithm out.',
                field="index.algorithm",
            )
        check_algorithm(spec.algorithm)
        if spec.options:
            raise IndexSpecInvalid(
                'The index "hnswlib" has no options; leave them out.', field="index.options"
            )

    @classmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        count, dim = vectors.shape
        cls.check(spec, dim)
        params = _params(spec)
        inner = hnswlib.Index(_space(spec.metric), dim)
        inner.init_index(
            max_elements=count, ef_construction=params.ef_construction, M=params.m, random_seed=SEED
        )
        inner.set_ef(1)
        index = cls(spec, vectors, inner)
        # hnswlib's distance is 1 - product: short vectors would all be at 1
        longest = index._compare.longest if spec.metric is Metric.DOT else 1.0
        scale = np.float32(longest if 0 < longest < FLOAT32_SAFE else 1)
        for start in range(0, count, CHUNK):
            if progress:
                progress("adding", start, count)
            block = vectors[start : start + CHUNK] / scale
            inner.add_items(block, np.arange(start, start + len(block)), num_threads=threads)
        if progress:
            progress("measuring", 0, count)
        index._measure()
        if progress:
            progress("measuring", count, count)
        return index

    def save(self, path: Path) -> None:
        with writing():
            self._inner.save_index(str(path))
        if path.stat().st_size != self._inner.index_file_size():
            raise OSError("the index file was not written whole")
        with path.open("r+b") as file:
            file.seek(_EF_CONSTRUCTION + 4)
            file.write(_NOTE.pack(*self._note))

    @classmethod
    def load(cls, spec: IndexSpec, path: Path, vectors: Vectors) -> Self:
        count, dim = vectors.shape
        params = _params(spec)
        note = _check_header(path, count, dim, params)
        inner = hnswlib.Index(_space(spec.metric), dim)
        try:
            inner.load_index(str(path), max_elements=count)
        except (RuntimeError, MemoryError) as error:
            raise ValueError("hnswlib cannot read the index file") from error
        inner.set_ef(1)  # a file does not keep it
        return cls(spec, vectors, inner, note)

    @property
    def memory_bytes(self) -> int:
        return self._compare.memory_bytes + int(self._inner.index_file_size())

    @property
    def settings(self) -> dict[str, object]:
        params = self._params
        shown: dict[str, object] = {
            "kind": "HNSW",
            "m": params.m,
            "ef_construction": params.ef_construction,
            "ef_search": self._ef,
        }
        if self.spec.because:
            shown["because"] = self.spec.because
        if self._note[1]:
            shown["measured_recall"] = round((self._note[1] - 1) / 65534, 4)
        return shown

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        if self.exact or params.exact:
            return self._compare.search(queries, k, live)
        return in_parts(queries, lambda some: self._search_some(some, k, live, params))

    def _search_some(
        self, queries: Vectors, k: int, live: Mask | None, params: SearchParams
    ) -> Hits:
        alive = self.count if live is None else int(np.count_nonzero(live))
        want = min(k, alive)
        depth = 0
        if want and not self._compare.unfit:
            base = params.ef_search or math.ceil(self._ef * max(1.0, params.boost))
            depth = graph_depth(self.spec.metric, base, want, alive, self.count)
        rows = None
        if depth and self._compare.fits_float32(queries):
            rows = self._ask(queries, depth)
        if rows is None:
            return self._compare.search(queries, k, live)
        poor = np.zeros(len(queries), dtype=np.bool_)
        if live is not None:
            rows, poor = first_live(rows, live, want)
        hits = rerank(self.spec.metric, queries, self.vectors, rows[:, :want], k)
        if poor.any():
            all_of_them = self._compare.search(queries[poor], k, live)
            hits.ids[poor], hits.scores[poor] = all_of_them.ids, all_of_them.scores
        return hits

    def _ask(self, queries: Vectors, depth: int) -> Rows | None:
        if self.spec.metric is Metric.DOT:
            lengths = np.linalg.norm(queries, axis=1, keepdims=True)
            queries = (queries / np.where(lengths == 0, 1, lengths)).astype(np.float32)
        try:
            rows, _ = self._inner.knn_query(queries, k=depth, num_threads=1)
        except RuntimeError:
            return None  # fewer than `depth` nodes can be reached: the graph has islands
        found: Rows = rows.astype(np.int64)
        return found


def _params(spec: IndexSpec) -> HnswParams:
    """Fill in the defaults."""
    asked = spec.algorithm if isinstance(spec.algorithm, HnswParams) else HnswParams()
    m = asked.m or DEFAULT_M
    return HnswParams(
        m=m,
        ef_construction=asked.ef_construction or max(DEFAULT_EF_CONSTRUCTION, m),
        ef_search=asked.ef_search,
    )


def _space(metric: Metric) -> str:
    # "ip" for cosine too: its vectors have length 1 already
    return "l2" if metric is Metric.L2 else "ip"


def _check_header(path: Path, count: int, dim: int, params: HnswParams) -> tuple[int, int]:
    """Return what was measured; raise ValueError unless the file is a graph over such vectors.

    hnswlib itself looks at none of this, and reads rows of another length as they come.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
        size = file.seek(0, 2)
    if len(head) < _HEADER.size:
        raise ValueError("the file is too short to be an index")
    _, capacity, held, row, label, data, _, entry, upper, lower, m, _, _ = _HEADER.unpack(head)
    links = 4 * (2 * params.m + 1)
    expected = (count, count, links + 4 * dim + 8, links + 4 * dim, links, params.m, 2 * params.m)
    if (capacity, held, row, label, data, m, lower) != expected or upper != m:
        raise ValueError("the index file is of other vectors, or not an index")
    if entry >= count or size < _HEADER.size + count * row:
        raise ValueError("the index file is damaged or cut off")
    ef, share = _NOTE.unpack_from(head, _EF_CONSTRUCTION + 4)
    return ef, share
