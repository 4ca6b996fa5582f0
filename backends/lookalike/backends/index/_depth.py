"""How deep a FAISS search has to look, and when comparing all live rows is cheaper."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lookalike.backends.index._measure import TOP
from lookalike.backends.index._plan import Kind, Plan
from lookalike.backends.types import SearchParams

HNSW_ROWS_PER_EF = 37
"""One candidate of a graph search costs as much as comparing 37 rows
(3.0 us against 80 ns, 50k x 256, one thread)."""
IVF_ROWS_PER_LIST = 12
"""One list probed costs as much as comparing 12 rows (1 us against 80 ns), its
live members apart, which both compare."""
CODES_PER_ROW = 4
"""Scanning codes without a graph or lists is about 4 times quicker a row."""


@dataclass(slots=True)
class Tuned:
    """What was measured, or asked for, when the index was built."""

    ef_search: int = 0
    nprobe: int = 0
    factor: int = 1
    """Proposals for each hit that is wanted, if codes are lossy."""
    recall: float | None = None
    """recall@10 on a sample of the vectors; None if there were too few."""


def knobs_for(
    made: Plan, tuned: Tuned, asked: SearchParams, want: int, alive: int, count: int
) -> Tuned | None:
    """Choose how hard to look for `want` of `alive` rows; None: compare them all.

    With a share s of the rows live, the best live ones are the best want / s of
    all: an index has to look that much deeper. ef * s ** -0.75 held recall at
    0.99 from s = 1 to 0.05, nprobe / s likewise (50k x 256, clustered). For more
    than 10 hits, nprobe * (want / 10) ** 0.25 held it to 1000.
    """
    share = alive / count
    factor = tuned.factor
    match made.kind:
        case Kind.HNSW:
            base = asked.ef_search or tuned.ef_search
            ef = max(base, want * factor + base // 2)
            ef = min(math.ceil(ef * share**-0.75), count)
            if alive <= HNSW_ROWS_PER_EF * ef:
                return None
            return Tuned(ef_search=ef, factor=factor)
        case Kind.IVF:
            nprobe = asked.nprobe or tuned.nprobe * max(1.0, want / TOP) ** 0.25
            nprobe = min(math.ceil(nprobe / share), made.nlist)
            if alive <= IVF_ROWS_PER_LIST * nprobe:
                return None
            return Tuned(nprobe=nprobe, factor=factor)
        case Kind.CODES if alive > count / CODES_PER_ROW:
            return Tuned(factor=factor)
    return None
