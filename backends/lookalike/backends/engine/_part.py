"""The parts an engine's view is made of, and searching one of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.engine._scan import nearest
from lookalike.backends.engine._sieve import FEW, FEW_SHARE, Chosen, Sifting, sift
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.types import (
    Hits,
    IndexSpec,
    Keys,
    Mask,
    Metric,
    Rows,
    SearchParams,
    Vectors,
)

LOST_SHARE = 0.05
"""Where there is no sieve, rows up to this share of a part are compared one by one: below
it graphs and lists lose recall. Measured, 100,000 x 512, 1 %: HNSW finds 40 to 76 % of
the filtered top ten."""
SPARSE = 64
"""Keys fewer than one in so many rows are looked up one by one rather than by a mask."""


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows with rising keys, and the index over them. Nothing in it ever changes."""

    number: int
    """Names the segment in its engine's folder; -1 while it waits for its index."""
    keys: Keys
    vectors: Vectors
    spec: IndexSpec
    """What the index was built with, nothing left to choose."""
    index: VectorIndex | None
    """None while there is none: the rows are compared exactly."""
    mapped: bool = False
    """True if `vectors` lie in a file rather than in memory."""
    sealed: bool = True
    """False for fresh rows, which wait for their index."""
    effort: int = 0
    """How much harder than `spec` was asked for the index tries, since others fell short."""
    boost: float = 1.0
    """How much harder than by itself it had to search when it was saved; see `Measuring`."""
    sifting: Sifting = field(default_factory=Sifting)
    """What filtered searches need, made when the first one comes."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A segment as one view sees it: with the rows that were alive then."""

    segment: Segment
    live: Mask | None = None
    """Never written to once published; None: all rows."""
    count: int = field(default=-1)
    """Live rows."""

    def __post_init__(self) -> None:
        if self.count < 0:
            rows = len(self.segment.keys)
            count = rows if self.live is None else int(np.count_nonzero(self.live))
            object.__setattr__(self, "count", count)

    @property
    def rows(self) -> int:
        return len(self.segment.keys)

    @property
    def dead(self) -> int:
        return self.rows - self.count

    def without(self, removed: Keys) -> Part:
        """Return this part without some keys (rising); itself if it holds none of them.

        The mask is copied whole, once for each commit: 27 us for a million rows,
        small beside the commit's own fsync, and readers need no rule at all.
        """
        rows = self.rows_of(removed)
        if not len(rows):
            return self
        live = np.ones(len(self.segment.keys), np.bool_) if self.live is None else self.live.copy()
        live[rows] = False
        return replace(self, live=live, count=self.count - len(rows))

    def rows_of(self, wanted: Keys) -> Rows:
        """Return the live rows of those of the wanted keys (rising) that are here."""
        rows = rows_of(self.segment.keys, wanted)
        return rows if self.live is None else rows[self.live[rows]]

    def live_rows(self) -> Rows:
        """Return the live rows, rising."""
        if self.live is None:
            return np.arange(len(self.segment.keys), dtype=np.int64)
        return np.flatnonzero(self.live)

    def keys(self) -> Keys:
        """Return the keys of the live rows, rising."""
        return self.segment.keys if self.live is None else self.segment.keys[self.live]

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes; rows that are mapped from a file do not count."""
        segment = self.segment
        held = segment.keys.nbytes + (0 if self.live is None else self.live.nbytes)
        held += segment.sifting.memory_bytes
        held += 0 if segment.mapped else segment.vectors.nbytes
        return held + (0 if segment.index is None else segment.index.memory_bytes)

    def describe(self, probed: dict[str, object]) -> dict[str, object]:
        """Return what `EngineStats.segments` says of one segment; `probed` as `Probe` reads."""
        index, algorithm = self.segment.index, self.segment.spec.algorithm
        effort = {"effort": self.segment.effort} if self.segment.effort else {}
        return {
            "backend": "" if index is None else self.segment.spec.backend,
            "algorithm": type(algorithm).__name__.removesuffix("Params").lower()
            if algorithm
            else "",
            "count": len(self.segment.keys),
            "live": self.count,
            "settings": {} if index is None else {**index.settings, **effort, **probed},
        }

    def search(
        self,
        queries: Vectors,
        k: int,
        metric: Metric,
        allowed: Keys | None,
        params: SearchParams,
    ) -> tuple[Hits, int]:
        """Return hits with keys for ids, and how many rows were allowed."""
        chosen = None if allowed is None else self.chosen(allowed)
        count = self.count if chosen is None else chosen.count
        if count == 0:
            return Hits(*_nothing(len(queries)), exact=True), 0
        if chosen is None:
            hits = self._search_all(queries, k, metric, params)
        else:
            hits = self._search_chosen(queries, k, metric, chosen, params)
        ids, scores = self.segment.keys[hits.ids], hits.scores
        if metric is Metric.COSINE and hits.spread > 1.0:  # rounding has passed the ends
            scores = np.maximum(np.minimum(scores, 1.0), -1.0)
        if not hits.filled:
            none = hits.ids < 0
            ids[none] = -1
            scores = np.where(none, hits.scores, scores)
        return Hits(ids, scores, hits.exact), count

    def chosen(self, allowed: Keys) -> Chosen:
        """Return the live rows of the allowed keys (rising), remembered for the same array."""

        def choose() -> Chosen:
            keys = self.segment.keys
            if len(allowed) * SPARSE < len(keys):
                return Chosen.of_rows(self.rows_of(allowed))
            mask = mask_of(keys, allowed)
            if self.live is not None:
                mask &= self.live
            return Chosen.of_mask(mask, self._few)

        return self.segment.sifting.chosen(allowed, self.live, choose)

    @property
    def _few(self) -> int:
        return max(FEW, int(FEW_SHARE * self.rows))

    def _search_all(self, queries: Vectors, k: int, metric: Metric, params: SearchParams) -> Hits:
        segment, live = self.segment, self.live
        if segment.index is None or (params.exact and not segment.index.exact):
            return nearest(segment.vectors, queries, k, metric, live=live)
        hits = self._ask(segment.index, queries, k, live, self.count, params)
        return hits if hits.exact else self._complete(hits, queries, k, metric, None)

    def _search_chosen(
        self, queries: Vectors, k: int, metric: Metric, chosen: Chosen, params: SearchParams
    ) -> Hits:
        """Search few rows one by one, more with the sieve, or with the index if there is none."""
        segment, index, mask = self.segment, self.segment.index, chosen.mask
        if index is not None and mask is not None and not index.exact and not params.exact:
            sieve = segment.sifting.sieve(segment.vectors, metric)
            if sieve is not None:
                return sift(sieve, segment.vectors, queries, k, metric, chosen)
        lost = max(self._few, int(LOST_SHARE * self.rows))
        approximate = index is not None and not index.exact
        if index is None or mask is None or chosen.count <= lost or (params.exact and approximate):
            return nearest(segment.vectors, queries, k, metric, rows=chosen.rising())
        hits = self._ask(index, queries, k, mask, chosen.count, params)
        return hits if hits.exact else self._complete(hits, queries, k, metric, chosen)

    def _ask(
        self,
        index: VectorIndex,
        queries: Vectors,
        k: int,
        live: Mask | None,
        count: int,
        params: SearchParams,
    ) -> Hits:
        hits = index.search(queries, k, live=live, params=params)
        # Columns that no query can fill are left out.
        return Hits(hits.ids[:, :count], hits.scores[:, :count], hits.exact)

    def _complete(
        self, hits: Hits, queries: Vectors, k: int, metric: Metric, chosen: Chosen | None
    ) -> Hits:
        """Compare exactly for queries that got fewer hits than there are rows.

        Graphs do that when many rows are dead or filtered away; nobody should get
        seven answers of ten because of it.
        """
        if hits.filled:
            return hits
        width = min(k, self.count if chosen is None else chosen.count)
        short = np.flatnonzero(hits.ids[:, width - 1] < 0)
        if not len(short):
            return hits
        rows = None if chosen is None else chosen.rising()
        live = self.live if chosen is None else None
        full = nearest(self.segment.vectors, queries[short], width, metric, rows=rows, live=live)
        ids, scores = hits.ids.copy(), hits.scores.copy()
        ids[short, :width], scores[short, :width] = full.ids, full.scores
        return Hits(ids, scores, exact=len(short) == len(ids))


def _nothing(q: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.empty((q, 0), np.int64), np.empty((q, 0), np.float32)


def rows_of(keys: Keys, wanted: Keys) -> Rows:
    """Return the rising positions in `keys` of those of `wanted` that occur; both rising."""
    if not len(keys) or not len(wanted):
        return np.empty(0, np.int64)
    low, high = np.searchsorted(wanted, keys[0]), np.searchsorted(wanted, keys[-1], "right")
    wanted = wanted[low:high]
    if keys[-1] - keys[0] + 1 == len(keys):  # no gaps: 15 us for 30,000 keys, not 0.5 ms
        found: Rows = wanted - keys[0]
        return found
    if len(wanted) * 8 > len(keys):
        return np.flatnonzero(np.isin(keys, wanted, assume_unique=True))
    places = np.searchsorted(keys, wanted)
    found = places[keys[places] == wanted].astype(np.int64, copy=False)
    return found


def mask_of(keys: Keys, wanted: Keys) -> Mask:
    """Tell for each key whether it is among `wanted`; both rising.

    Measured, 50,000 of 100,000 keys, one core: 0.05 ms without gaps, 0.2 ms with.
    """
    mask = np.zeros(len(keys), np.bool_)
    if not len(keys):
        return mask
    first, last = keys[0], keys[-1]
    low, high = np.searchsorted(wanted, first), np.searchsorted(wanted, last, "right")
    wanted, span = wanted[low:high], int(last - first) + 1
    if span == len(keys):
        mask[wanted - first] = True
    elif span <= 16 * len(keys):
        among = np.zeros(span, np.bool_)
        among[wanted - first] = True
        mask = among[keys - first]
    else:
        mask[rows_of(keys, wanted)] = True
    return mask


def difference(keys: Keys, others: Keys) -> Keys:
    """Return the rising keys that are not among the others; both rising."""
    keep = np.ones(len(keys), np.bool_)
    keep[rows_of(keys, others)] = False
    return keys[keep]
