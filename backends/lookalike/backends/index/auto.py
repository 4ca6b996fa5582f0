"""The backend "auto": the exact index while comparing is quick, a graph beyond."""

from __future__ import annotations

from dataclasses import replace

from lookalike.backends.errors import BackendUnavailable, IndexSpecInvalid
from lookalike.backends.index._params import check_algorithm
from lookalike.backends.registry import indexes
from lookalike.backends.types import FlatParams, HnswParams, IndexSpec, IvfParams

AUTO = "auto"
EXACT_NUMBERS = 50_000 * 512
"""Numbers (vectors * dimensions) that one exact query reads in about 5 ms on one
thread: measured 5.0 to 5.3 ms at 50 000 x 512, 5.0 to 6.2 ms at 100 000 x 256, with
numpy 2.4 on an AMD EPYC (Zen 4) at 28 GB/s."""
LEAST_DIM = 256
"""Vectors with fewer numbers count as if they had so many: picking the best is then
what takes the time. So no more than 100 000 vectors are compared exactly."""


def choose(spec: IndexSpec, count: int, dim: int) -> IndexSpec:
    """Resolve the backend "auto" (or "") for `count` vectors; leave others as they are.

    Raises BackendUnavailable if an IVF index is asked for and FAISS is missing.
    """
    if spec.backend not in ("", AUTO):
        return spec
    match spec.algorithm:
        case FlatParams():
            backend = "exact"
        case IvfParams():
            backend = "faiss"
            indexes.resolve(backend)
        case None if count * max(dim, LEAST_DIM) <= EXACT_NUMBERS:
            backend = "exact"
        case _:
            return _graph(spec)
    return replace(spec, backend=backend)


def _graph(spec: IndexSpec) -> IndexSpec:
    algorithm = spec.algorithm or HnswParams()
    for backend in ("faiss", "hnswlib"):
        try:
            indexes.resolve(backend)
        except BackendUnavailable:
            continue
        return replace(spec, backend=backend, algorithm=algorithm)
    if spec.algorithm is not None:
        indexes.resolve("faiss")  # raises, and says what to install
    return replace(spec, backend="exact")


def check(spec: IndexSpec, dim: int) -> None:
    """Raise unless this spec can be built for `dim` numbers.

    Raises IndexSpecInvalid, UnknownBackend, BackendUnavailable.
    """
    if spec.backend not in ("", AUTO):
        indexes.resolve(spec.backend).check(spec, dim)
        return
    check_algorithm(spec.algorithm)
    if spec.options:
        raise IndexSpecInvalid(
            'Options are for one backend, and the backend is "auto". Name the backend, '
            "or leave the options out.",
            field="index.options",
        )
    if isinstance(spec.algorithm, IvfParams):
        indexes.resolve("faiss")
