"""The backend "auto": what answers quickly enough and fits into memory.

Comparing everything while that is quick; a graph while it fits; lists of short codes
beyond, whose best are compared with the vectors in their file. How hard each of them looks
is measured on the vectors themselves when it is built; see `_measure`.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

from lookalike.backends.errors import BackendUnavailable, IndexSpecInvalid
from lookalike.backends.index._params import DEFAULT_M, check_algorithm
from lookalike.backends.index._plan import POINTS_PER_CENTRE
from lookalike.backends.registry import indexes
from lookalike.backends.types import FlatParams, HnswParams, IndexSpec, IvfParams

AUTO = "auto"
EXACT_NUMBERS = 50_000 * 512
"""Numbers (vectors * dimensions) that one exact query reads in about 5 ms on one
thread: measured 5.0 to 5.3 ms at 50 000 x 512, 5.0 to 6.2 ms at 100 000 x 256, with
numpy 2.4 on an AMD EPYC (Zen 4) at 28 GB/s."""
EXACT_MS = 5
LEAST_DIM = 256
"""Vectors with fewer numbers count as if they had so many: picking the best is then
what takes the time. So no more than 100 000 vectors are compared exactly."""
LINK_BYTES = 8 * DEFAULT_M + 16
"""Of each node of a graph, beside its copy of the vector."""
MEMORY_SHARE = 2
"""One part in so many of the machine's memory is for an index, if nothing else is said."""
NUMBERS_PER_CODE = 2
"""Numbers that one 4-bit code stands for: 100,000 x 512 in 1024 lists, 6 proposals for each
hit and 64 lists find 0.995; with twice as many numbers a code, 12 proposals, as quick."""
MOST_LISTS = 2**14


def choose(spec: IndexSpec, count: int, dim: int, *, rows: int = 0, memory: int = 0) -> IndexSpec:
    """Resolve the backend "auto" (or "") for `count` vectors; leave others as they are.

    `rows` is how many of them this index has; 0: all. `memory` is what the indexes of all
    may take, in bytes; 0: half of the machine's. What is chosen says why (`because`).
    Raises BackendUnavailable if an IVF index is asked for and FAISS is missing.
    """
    if spec.backend not in ("", AUTO):
        return spec
    match spec.algorithm:
        case FlatParams():
            return replace(spec, backend="exact")
        case IvfParams():
            indexes.resolve("faiss")
            return replace(spec, backend="faiss")
        case None if count * max(dim, LEAST_DIM) <= EXACT_NUMBERS:
            return replace(
                spec, backend="exact", because=f"comparing {count} takes <= {EXACT_MS} ms"
            )
        case None:
            return _beyond(
                spec, count, dim, rows or count, memory or machine_memory() // MEMORY_SHARE
            )
        case _:
            return _graph(spec)


def _beyond(spec: IndexSpec, count: int, dim: int, rows: int, memory: int) -> IndexSpec:
    graph = count * (4 * dim + LINK_BYTES)
    sizes = f"a graph over {count} takes {graph / 1e6:.0f} of {memory / 1e6:.0f} MB"
    if graph > memory and (factory := codes(rows, dim)):
        try:
            indexes.resolve("faiss")
        except BackendUnavailable:
            sizes += ", codes need FAISS"
        else:
            return replace(spec, backend="faiss", options={"factory": factory}, because=sizes)
    return replace(_graph(spec), because=sizes)


def codes(count: int, dim: int) -> str:
    """Return FAISS's name for lists of short codes; empty where there is none for `dim`."""
    parts = max((m for m in range(1, dim // NUMBERS_PER_CODE + 1) if dim % m == 0), default=0)
    if 2 * NUMBERS_PER_CODE * parts < dim:  # such as a prime
        return ""
    lists = min(round(4 * math.sqrt(count)), count // POINTS_PER_CENTRE, MOST_LISTS)
    return f"IVF{max(lists, 1)},PQ{parts}x4fs"


def machine_memory() -> int:
    """Return the memory of this machine in bytes, or what its control group may use of it."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(whole, int(file.read()))
    except (OSError, ValueError):  # no control groups here, or "max"
        return whole


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
