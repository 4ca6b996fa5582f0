"""The exact index: no structure at all, every vector is compared. The oracle of the others."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.index._compare import ExactSearch
from lookalike.backends.index._file import append_facts, identity, read_facts
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.types import (
    FlatParams,
    Hits,
    IndexSpec,
    Mask,
    Progress,
    SearchParams,
    Vectors,
)


class ExactIndex(VectorIndex):
    """Compares each query with every live vector.

    One query at 100k x 256 takes 4 ms on one thread (memory speed, 28 GB/s), so it
    serves up to some tens of thousands of vectors as well as any structure does.
    """

    backend: ClassVar[str] = "exact"
    exact = True

    def __init__(self, spec: IndexSpec, vectors: Vectors) -> None:
        super().__init__(spec, vectors)
        self._compare = ExactSearch(spec.metric, vectors, coded=True)

    @classmethod
    def check(cls, spec: IndexSpec, dim: int) -> None:
        if not isinstance(spec.algorithm, FlatParams | None):
            raise IndexSpecInvalid(
                'The index "exact" compares with every vector and knows no other algorithm. '
                'Leave the algorithm out, or use the backend "faiss".',
                field="index.algorithm",
            )
        if spec.options:
            raise IndexSpecInvalid(
                'The index "exact" has no options; leave them out.', field="index.options"
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
        cls.check(spec, vectors.shape[1])
        if progress:
            progress("adding", 0, len(vectors))
        index = cls(spec, vectors)
        if progress:
            progress("adding", len(vectors), len(vectors))
        return index

    @classmethod
    def load(cls, spec: IndexSpec, path: Path, vectors: Vectors) -> Self:
        read_facts(path, identity(spec, vectors))
        return cls(spec, vectors)

    def save(self, path: Path) -> None:
        append_facts(path, identity(self.spec, self.vectors), {})

    @property
    def memory_bytes(self) -> int:
        return self._compare.memory_bytes

    @property
    def settings(self) -> dict[str, object]:
        shown: dict[str, object] = {"kind": "exact"}
        if self.spec.because:
            shown["because"] = self.spec.because
        return shown

    def _search(self, queries: Vectors, k: int, live: Mask | None, params: SearchParams) -> Hits:
        return self._compare.search(queries, k, live)
