"""The contract of a vector index: sealed, built once, then only searched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self, final

import numpy as np

from lookalike.backends.errors import DimensionMismatch, InvalidArgument, VectorNotFinite
from lookalike.backends.types import (
    Hits,
    IndexSpec,
    Mask,
    Progress,
    SearchParams,
    Vectors,
    all_finite,
)


class VectorIndex(ABC):
    """A pure function from a matrix to a searcher. No ids, no locks, no changes.

    Rows are 0..count-1, in the order of the matrix. `build` and `load` get the
    full vectors and may keep a reference to them (they may be memory-mapped and
    are never written to); for the cosine metric all have length 1. After that
    any number of threads search at once.
    """

    backend: ClassVar[str]
    """The name in the registry."""
    exact: bool = False
    """True if every search compares with every live row."""
    count: int
    dim: int

    def __init__(self, spec: IndexSpec, vectors: Vectors) -> None:
        self.spec = spec
        self.vectors = vectors
        self.count, self.dim = vectors.shape

    @classmethod
    @abstractmethod
    def check(cls, spec: IndexSpec, dim: int) -> None:
        """Raise IndexSpecInvalid if this spec can never be built for `dim` numbers."""

    @classmethod
    @abstractmethod
    def build(
        cls,
        spec: IndexSpec,
        vectors: Vectors,
        *,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> Self:
        """Build over (n, dim) float32, n >= 1, with at most `threads` threads."""

    @classmethod
    @abstractmethod
    def load(cls, spec: IndexSpec, path: Path, vectors: Vectors) -> Self:
        """Load what `save` wrote for the same spec and vectors.

        The caller has verified the file's checksum. Raises ValueError if the file
        does not fit them; the caller then builds anew.
        """

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write one file at `path`, which does not exist yet. The caller makes it durable."""

    @property
    def memory_bytes(self) -> int:
        """Memory held beyond `vectors`, in bytes, estimated."""
        return 0

    @property
    def settings(self) -> dict[str, object]:
        """The parameters in force after defaults and measuring, for people; JSON values."""
        return {}

    @final
    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        live: Mask | None = None,
        params: SearchParams | None = None,
    ) -> Hits:
        """Find the k best rows of each query. Any thread.

        `queries` is (q, dim) float32, finite; `live` keeps dead or filtered rows
        out. Returns exactly min(k, live rows) hits for each query if `exact`, at
        most that many otherwise, padded with -1 to width min(k, count).

        Raises InvalidArgument, DimensionMismatch, VectorNotFinite.
        """
        if k < 1:
            raise InvalidArgument(f"k must be at least 1, not {k}.", field="limit")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionMismatch(
                f"The index has {self.dim} dimensions, the query {queries.shape[-1]}.",
                expected=self.dim,
                actual=queries.shape[-1],
            )
        if not all_finite(queries):
            raise VectorNotFinite("The query vector has a number that is not finite.")
        if live is not None and live.shape != (self.count,):
            raise ValueError(f"live has shape {live.shape}, not ({self.count},)")
        k = min(k, self.count)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        return self._search(queries, k, live, params or SearchParams())

    @abstractmethod
    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        """Search with arguments that were checked; k <= count. Any thread."""
