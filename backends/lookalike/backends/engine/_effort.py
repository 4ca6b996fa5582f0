"""How hard an index is built, after one that was built as asked for fell short."""

from __future__ import annotations

from dataclasses import replace

from lookalike.backends.engine._part import Part
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams

MOST_EFFORT = 2
WITHERED = 0.05
"""So many more dead rows may be to blame."""


def next_effort(part: Part) -> int:
    """Return how hard to try next: as before where dead rows may be to blame."""
    effort = part.segment.effort
    if part.dead > WITHERED * part.rows:
        return effort
    return 1 if effort == 0 and harder(part.segment.spec) is not None else MOST_EFFORT


def raised(spec: IndexSpec, effort: int) -> IndexSpec:
    """Return a spec that tries harder: 0 as asked for, 1 with more links and a deeper
    search, 2, or where there is nothing to raise, comparing with all."""
    if effort <= 0 or spec.backend == "exact":
        return spec
    more = harder(spec) if effort < MOST_EFFORT else None
    return more or IndexSpec("exact", metric=spec.metric, target_recall=spec.target_recall)


def harder(spec: IndexSpec) -> IndexSpec | None:
    """Return a spec with more of everything; None if there is nothing to raise."""
    if spec.backend not in ("faiss", "hnswlib") or spec.options:
        return None
    match spec.algorithm:
        case HnswParams(m=m, ef_construction=breadth, ef_search=depth):
            # 0: the depth is measured when the index is built, by FAISS
            depth = min(4 * depth, 10_000) if depth >= 64 else 0
            if spec.backend == "hnswlib":
                depth = max(depth, 256)
            return replace(
                spec, algorithm=HnswParams(min(2 * (m or 16), 128), max(2 * breadth, 400), depth)
            )
        case IvfParams(nlist=lists, nprobe=probes) if probes:
            return replace(spec, algorithm=IvfParams(lists))
        case None:
            return replace(
                spec, algorithm=HnswParams(32, 400, 256 if spec.backend == "hnswlib" else 0)
            )
        case _:
            return None
