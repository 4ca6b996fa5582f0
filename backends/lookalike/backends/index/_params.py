"""The ranges of an index's parameters, the same for every backend."""

from __future__ import annotations

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.types import Algorithm, FlatParams, HnswParams, IvfParams

DEFAULT_M = 16
DEFAULT_EF_CONSTRUCTION = 200
DEFAULT_EF_SEARCH = 64
MAX_EF = 10_000
MAX_NLIST = 2**18
"""A quarter million centres: 4 * sqrt(n) reaches it at 4 billion vectors."""


def check_algorithm(algorithm: Algorithm | None) -> None:
    """Raise IndexSpecInvalid unless every number is in its range; 0 means the default."""
    match algorithm:
        case None | FlatParams():
            return
        case HnswParams():
            _within("hnsw.m", algorithm.m, 4, 128)
            least = algorithm.m or DEFAULT_M
            _within("hnsw.ef_construction", algorithm.ef_construction, least, MAX_EF)
            _within("hnsw.ef_search", algorithm.ef_search, 1, MAX_EF)
        case IvfParams():
            _within("ivf.nlist", algorithm.nlist, 1, MAX_NLIST)
            _within("ivf.nprobe", algorithm.nprobe, 1, algorithm.nlist or MAX_NLIST)


def _within(name: str, value: int, least: int, most: int) -> None:
    if value and not least <= value <= most:
        raise IndexSpecInvalid(
            f"{name} must be {least} to {most}, or 0 for the default; it is {value}.",
            field=f"index.{name}",
        )
