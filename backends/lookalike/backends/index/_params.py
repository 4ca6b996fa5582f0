"""The ranges of an index's parameters, the same for every backend."""

from __future__ import annotations

from lookalike.backends.errors import IndexSpecInvalid
from lookalike.backends.types import Algorithm, FlatParams, HnswParams, IvfParams

DEFAULT_M = 16
DEFAULT_EF_CONSTRUCTION = 200
DEFAULT_EF_SEARCH = 64
MAX_EF = 10_000
DOT_DEPTH = 15
"""How many of the best a graph of inner products gives. It links to long vectors and
reaches few of the short ones, whatever ef: recall 0.99 at 10, 0.98 at 15, 0.97 at 20,
0.80 at 100 (20k x 64, lengths spread by 25 %; hnswlib and FAISS alike). Turning it
into distances by one more dimension (Bachrach et al. 2014) reaches all of them but
needs ef 256 for 0.95 at 10. So deeper searches compare all rows."""
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
