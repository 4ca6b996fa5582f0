"""An index for lookalike in one file: `backend = "axis"`, nothing but numpy.

The vectors are laid out along the axis on which they differ most. A query looks at
those nearest to it on the axis, or at all of them if they are few or mostly dead.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.types import (
    Hits,
    IndexSpec,
    Mask,
    Metric,
    Progress,
    SearchParams,
    Vectors,
)

HEAD = b"axis/1\n"


class AxisIndex(VectorIndex):
    """Vectors in the order of their projections on one axis."""

    backend: ClassVar[str] = "axis"

    def __init__(self, spec: IndexSpec, vectors: Vectors, axis: Vectors) -> None:
        super().__init__(spec, vectors)
        self.axis = axis
        along = vectors @ axis
        self.order = np.argsort(along, kind="stable")
        self.along = along[self.order]
        self.share = float(spec.options.get("share", 0.9))

    @classmethod
    def check(cls, spec: IndexSpec, dim: int) -> None:
        if spec.algorithm is not None:
            raise IndexSpecInvalid("The index axis has no algorithms.", field="index.algorithm")
        if spec.options.keys() - {"share"}:
            raise IndexSpecInvalid('The index axis knows the option "share" only.')

    @classmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        cls.check(spec, vectors.shape[1])
        if progress:
            progress("adding", 0, len(vectors))
        centred = vectors - vectors.mean(axis=0)
        axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        index = cls(spec, vectors, np.ascontiguousarray(axis, dtype=np.float32))
        if progress:
            progress("adding", len(vectors), len(vectors))
        return index

    @classmethod
    def load(cls, spec: IndexSpec, path: Path, vectors: Vectors) -> Self:
        count, dim = vectors.shape
        data = path.read_bytes()
        expected = HEAD + np.array([count, dim], dtype="<i8").tobytes()
        if not data.startswith(expected) or len(data) != len(expected) + 4 * dim:
            raise ValueError("not a file of this index, or of other vectors")
        return cls(spec, vectors, np.frombuffer(data[len(expected) :], dtype="<f4"))

    def save(self, path: Path) -> None:
        shape = np.array([self.count, self.dim], dtype="<i8").tobytes()
        path.write_bytes(HEAD + shape + self.axis.astype("<f4").tobytes())

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        for i, query in enumerate(queries):
            rows = self._near(query, k, live, params.exact)
            found = self._scores(query, rows)
            best = np.lexsort((rows, -found))[:k]
            ids[i, : len(best)], scores[i, : len(best)] = rows[best], found[best]
        return Hits(ids, scores, exact=params.exact)

    def _near(self, query: Vectors, k: int, live: Mask | None, exact: bool) -> NDArray[np.int64]:
        width = max(int(self.share * self.count), 20 * k)
        if exact or width >= self.count or (live is not None and live.mean() < self.share):
            rows = np.arange(self.count)
        else:
            middle = int(np.searchsorted(self.along, query @ self.axis))
            start = min(max(middle - width // 2, 0), self.count - width)
            rows = self.order[start : start + width]
        return rows if live is None else rows[live[rows]]

    def _scores(self, query: Vectors, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        chosen = self.vectors[rows].astype(np.float64)
        if self.spec.metric is Metric.L2:
            return -((chosen - query) ** 2).sum(axis=1).astype(np.float32)
        return (chosen * query).sum(axis=1).astype(np.float32)
