"""How deep an approximate search has to look, and when comparing all live rows is cheaper.

With a share s of the rows live, the best live ones are the best want / s of all: an
index has to look that much deeper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lookalike.backends.index._measure import TOP
from lookalike.backends.index._params import DOT_DEPTH
from lookalike.backends.index._plan import Kind, Plan
from lookalike.backends.types import Mask, Metric, Rows, SearchParams

GRAPH_ROWS_PER_EF = 37
"""One candidate of a graph search costs as much as comparing 37 rows
(3.0 us against 80 ns, 50k x 256, one thread)."""
GRAPH_REAR = 0.75
"""The last quarter of what a graph search saw is not complete: recall at rank 64 of
64 candidates is 0.95, at rank 10 it is 1.0."""
IVF_ROWS_PER_LIST = 12
"""One list probed costs as much as comparing 12 rows (1 us against 80 ns), its
live members apart, which both compare."""
IVF_MASKED = 6
"""How much dearer a filtered search of lists is: a row costs twice as much through a
selector, and lists are searched again, twice as many, to see that nothing changes
(100k x 256 half of them live: 8 ms where comparing all takes 6)."""
SURE_SHARE = 0.9
"""With fewer rows live, an answer is looked at once more before it is believed."""
CODES_PER_ROW = 4
"""Scanning codes without a graph or lists is about 4 times quicker a row."""
UNSELECTED = 1.5
"""Codes that know no selector: so many times the proposals that should be enough."""


@dataclass(slots=True)
class Tuned:
    """What was measured, or asked for, when the index was built."""

    ef_search: int = 0
    nprobe: int = 0
    factor: int = 1
    """Proposals for each hit that is wanted, if codes are lossy."""
    recall: float | None = None
    """recall@10 on a sample of the vectors; None if there were too few."""

    def boosted(self, boost: float) -> Tuned:
        """Return these times `boost`."""
        if boost <= 1:
            return self
        return Tuned(
            math.ceil(self.ef_search * boost),
            math.ceil(self.nprobe * boost),
            math.ceil(self.factor * boost) if self.factor > 1 else 1,
            self.recall,
        )


def graph_depth(
    metric: Metric, base: int, want: int, alive: int, count: int, factor: int = 1
) -> int:
    """Choose how many nodes a graph search has to see; 0: comparing all is cheaper."""
    share = alive / count
    if metric is Metric.DOT and want > DOT_DEPTH * share:
        return 0
    depth = min(math.ceil(max(base, 2 * want * factor) / share), count)
    return 0 if alive <= GRAPH_ROWS_PER_EF * depth else depth


def first_live(rows: Rows, live: Mask, need: int) -> tuple[Rows, Mask]:
    """Keep the first `need` live rows of proposals, best first: (queries, need), -1 = none.

    Also tells the queries for which the rear of the proposals was needed, or more.
    """
    good = (rows >= 0) & live[rows]
    order = np.argsort(~good, axis=1, kind="stable")[:, :need]
    kept = np.where(np.take_along_axis(good, order, 1), np.take_along_axis(rows, order, 1), -1)
    front = good[:, : math.ceil(rows.shape[1] * GRAPH_REAR)]
    return kept, front.sum(axis=1) < min(need, rows.shape[1])


def from_the_rear(ids: Rows, proposals: Rows) -> Mask:
    """Tell the queries that have a hit from the second half of their proposals."""
    rear = proposals[:, proposals.shape[1] // 2 :]
    pairs = zip(ids, rear, strict=True)
    return np.array([np.isin(found[found >= 0], half).any() for found, half in pairs])


def knobs_for(
    made: Plan,
    tuned: Tuned,
    asked: SearchParams,
    metric: Metric,
    *,
    want: int,
    alive: int,
    count: int,
) -> Tuned | None:
    """Choose how hard FAISS looks for `want` of `alive` rows; None: compare them all.

    nprobe / s held recall at 0.99 from s = 1 to 0.01 (50k x 256, clustered), and
    nprobe * (want / 10) ** 0.25 from 10 to 1000 hits (10k x 32).
    """
    tuned = tuned.boosted(asked.boost)
    factor = tuned.factor
    match made.kind:
        case Kind.HNSW:
            base = asked.ef_search or tuned.ef_search
            depth = graph_depth(metric, base, want, alive, count, factor)
            return Tuned(ef_search=depth, factor=factor) if depth else None
        case Kind.IVF:
            nprobe = asked.nprobe or tuned.nprobe * max(1.0, want / TOP) ** 0.25
            nprobe = min(math.ceil(nprobe * count / alive), made.nlist)
            cost = IVF_ROWS_PER_LIST * nprobe
            if not made.lossy and alive < SURE_SHARE * count:
                cost = IVF_MASKED * (cost + alive * nprobe // made.nlist)
            if alive <= cost:
                return None
            return Tuned(nprobe=nprobe, factor=factor)
        case Kind.CODES if alive > count / CODES_PER_ROW:
            return Tuned(factor=factor)
    return None
