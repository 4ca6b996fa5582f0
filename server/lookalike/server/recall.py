"""How much of the truth searches find, measured on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.errors import Overloaded
from lookalike.backends.recall import (
    Estimate,
    Recall,
    Shares,
    found_shares,
    of_queries,
    of_trials,
    without_own,
)
from lookalike.backends.types import (
    DEFAULT_TARGET_RECALL,
    Hits,
    Keys,
    Metric,
    SearchParams,
    Vectors,
)
from lookalike.server.collection import Collection
from lookalike.server.domain import Filter
from lookalike.server.library import Library

_BLOCK_NUMBERS = 2e9
"""Multiplications of one comparison with all items: about 50 ms on two cores."""
_TIMED, _TIMED_S = 20, 2.0
"""So many queries are compared one at a time, for so long."""
_READ = 256
"""Vectors read at a time."""
_TRIES = 3
_CLOSE = 1e-5
_RETRY_S = 2.0


class Source(Enum):
    """Which queries to ask."""

    BOTH = "both"
    STORED = "stored"
    RECENT = "recent"


@dataclass(frozen=True, slots=True)
class RecallOptions:
    """What to measure."""

    count: int = 256
    limit: int = 10
    params: SearchParams = field(default_factory=SearchParams)
    seed: int = 0
    source: Source = Source.BOTH


@dataclass(frozen=True, slots=True)
class Times:
    """How long searches took, in milliseconds."""

    mean_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found; None where there was nothing to ask or to find."""

    recall: Recall | None
    self_match: Estimate | None
    exact: bool
    target: float
    stored: int
    """Queries of each kind."""
    recent: int
    index_times: Times | None
    exact_times: Times | None
    params: SearchParams
    segments: Sequence[Mapping[str, object]]
    """As in `EngineStats`."""
    item_count: int


class Recalls:
    """Measures the recall of collections, one at a time. Any thread."""

    def __init__(self, library: Library, *, clock: Callable[[], float] = time.time) -> None:
        self._library = library
        self._clock = clock
        self._measuring = threading.Lock()

    def measure(
        self, collection: str, options: RecallOptions, check: Callable[[], None]
    ) -> Measurement:
        """Ask queries of the index and compare with every item.

        `check` is called every few ten milliseconds and may raise to stop. Raises
        CollectionNotFound, CollectionLoading, Overloaded (another is at it), DataLoss.
        """
        target = self._library.collection(collection)
        if not self._measuring.acquire(blocking=False):
            raise Overloaded(
                "Recall is being measured already, and that is done one at a time. "
                "Try again in a moment.",
                retry_after_s=_RETRY_S,
                limit=1,
            )
        try:
            return _Measuring(target, options, check).run(self._clock)
        finally:
            self._measuring.release()


class _Measuring:
    def __init__(
        self, collection: Collection, options: RecallOptions, check: Callable[[], None]
    ) -> None:
        self._collection = collection
        self._engine = collection.engine
        self._options = options
        self._check = check
        self._index_ms: list[float] = []
        self._exact = True

    def run(self, clock: Callable[[], float]) -> Measurement:
        keys = self._collection.select(Filter())
        own, stored, recent = self._drawn(keys)
        top = min(self._options.limit, len(keys) - (len(own) > 0))
        shares: list[Shares] = []
        found = 0
        for start, stop in self._blocks(len(own), len(keys)):
            some, itself = self._stored(stored[start:stop], own[start:stop], top)
            shares.append(some)
            found += itself
        for start, stop in self._blocks(len(recent) if top > 0 else 0, len(keys)):
            shares.append(self._recent(recent[start:stop], top))
        recall = None
        asked = np.concatenate(shares) if shares else np.empty(0)
        if len(asked):
            recall = Recall(of_queries(asked, top), top, clock())
        index = self._collection.record.config.index
        return Measurement(
            recall=recall,
            self_match=of_trials(found, len(own)) if len(own) else None,
            exact=self._exact,
            target=index.goal if index is not None else DEFAULT_TARGET_RECALL,
            stored=len(own),
            recent=len(recent) if len(keys) else 0,
            index_times=_times(self._index_ms),
            exact_times=_times(self._timed_exactly(np.concatenate([stored, recent]), top)),
            params=self._options.params,
            segments=self._engine.stats().segments,
            item_count=len(keys),
        )

    def _drawn(self, keys: Keys) -> tuple[Keys, Vectors, Vectors]:
        """Return the keys of the queries that are stored, their vectors, and recent queries."""
        options = self._options
        rng = np.random.default_rng(options.seed)
        recent = self._collection.recent.vectors()
        none = np.empty((0, self._collection.record.config.dimension), np.float32)
        if options.source is Source.STORED or recent.shape[1] != none.shape[1] or not len(keys):
            recent = none
        else:
            share = 1 if options.source is Source.RECENT else 2
            recent = np.random.default_rng(options.seed).permutation(recent)
            recent = recent[: options.count // share]
        if options.source is Source.RECENT or not len(keys):
            return keys[:0], none, recent
        count = min(options.count - len(recent), len(keys))
        own = np.sort(rng.choice(keys, count, replace=False))
        return *self._read(own), recent

    def _read(self, keys: Keys) -> tuple[Keys, Vectors]:
        """Read stored vectors; items that go meanwhile are left out."""
        there: list[Keys] = [keys[:0]]
        read: list[Vectors] = [np.empty((0, self._collection.record.config.dimension), np.float32)]
        for start in range(0, len(keys), _READ):
            some = keys[start : start + _READ]
            for _ in range(_TRIES):
                self._check()
                try:
                    read.append(self._collection.vectors(some))
                except KeyError:
                    some = np.intersect1d(some, self._collection.select(Filter()))
                else:
                    there.append(some)
                    break
        return np.concatenate(there), np.concatenate(read)

    def _blocks(self, count: int, items: int) -> Sequence[tuple[int, int]]:
        """Cut queries into blocks that take a moment each."""
        dim = self._collection.record.config.dimension
        step = int(min(64, max(8, _BLOCK_NUMBERS // max(1, items * dim))))
        return [(start, min(start + step, count)) for start in range(0, count, step)]

    def _stored(self, queries: Vectors, own: Keys, top: int) -> tuple[Shares, int]:
        """Return the shares found, and how many items found themselves."""
        truth, found = self._both(queries, top + 1)
        itself = (found.ids == own[:, None]).any(axis=1)
        right = _own_scores(queries, self._collection.record.config.metric)
        margin = _CLOSE * np.maximum(1.0, np.abs(right))
        if found.scores.shape[1]:
            itself |= found.scores[:, -1] >= right - margin
        if found.scores.shape[1] < 2:
            return np.empty(0), int(itself.sum())
        shares = found_shares(
            without_own(found.ids, found.scores, own), without_own(truth.ids, truth.scores, own)
        )
        return shares, int(itself.sum())

    def _recent(self, queries: Vectors, top: int) -> Shares:
        truth, found = self._both(queries, top)
        return found_shares(found.scores, truth.scores) if truth.scores.size else np.empty(0)

    def _both(self, queries: Vectors, k: int) -> tuple[Hits, Hits]:
        """Return the truth and what the index finds, at the same moment if that can be had."""
        for _ in range(_TRIES):
            self._check()
            seq = self._engine.applied_seq
            truth = self._engine.search(queries, k, params=SearchParams(exact=True))
            self._check()
            times, hits = [], []
            for query in queries:
                began = time.perf_counter()
                hits.append(self._engine.search(query[np.newaxis], k, params=self._options.params))
                times.append((time.perf_counter() - began) * 1e3)
            width = min(truth.ids.shape[1], *(one.ids.shape[1] for one in hits))
            if seq == self._engine.applied_seq:
                break
        self._index_ms += times
        self._exact = self._exact and all(one.exact for one in hits)
        found = Hits(
            np.concatenate([one.ids[:, :width] for one in hits]),
            np.concatenate([one.scores[:, :width] for one in hits]),
        )
        return Hits(truth.ids[:, :width], truth.scores[:, :width]), found

    def _timed_exactly(self, queries: Vectors, top: int) -> list[float]:
        times: list[float] = []
        until = time.perf_counter() + _TIMED_S
        for query in queries[:_TIMED]:
            self._check()
            began = time.perf_counter()
            if began > until:
                break
            self._engine.search(query[np.newaxis], max(1, top), params=SearchParams(exact=True))
            times.append((time.perf_counter() - began) * 1e3)
        return times


def _own_scores(queries: Vectors, metric: Metric) -> NDArray[np.float64]:
    """Return what each vector scores with itself."""
    if metric is Metric.L2:
        return np.zeros(len(queries))
    wide = queries.astype(np.float64)
    squares: NDArray[np.float64] = np.einsum("qd,qd->q", wide, wide)
    return squares


def _times(ms: Sequence[float]) -> Times | None:
    if not ms:
        return None
    p99 = float(np.percentile(ms, 99, method="inverted_cdf"))
    return Times(float(np.mean(ms)), p99, len(ms))
