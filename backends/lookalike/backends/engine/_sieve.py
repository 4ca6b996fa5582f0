"""Filtered searches of one segment: which rows may answer, and the sieve that finds the best."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.engine._scan import nearest
from lookalike.backends.index._compare import rerank
from lookalike.backends.types import Hits, Keys, Mask, Metric, Rows, Vectors

_log = logging.getLogger(__name__)

LEAST_ROWS = 8192
"""A smaller segment is compared row by row as quickly."""
FEW = 1024
FEW_SHARE = 1 / 80
"""Up to so many rows, or this share of a segment, are compared one by one whatever the
index. Measured, 512-d, one core: 1,000 rows 0.2 ms, scanning the codes of 100,000 rows
and comparing 200 of them 0.5 ms."""
PROPOSALS = 200
PROPOSALS_PER_HIT = 6
REAR_SHARE = 0.02
"""If more than this share of the hits comes from the rear half of the proposals, there may
be others behind them: then four times as many are looked at, at last all rows."""
REMEMBERED = 8
"""Sets of keys whose rows in a segment are remembered: the same filter comes again."""


class Sieve(Protocol):
    """What scans codes; see `index._faiss_sieve`. Any thread."""

    @property
    def memory_bytes(self) -> int: ...

    def propose(self, queries: Vectors, fetch: int, bits: NDArray[np.uint8]) -> Rows | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The rows of a part that may answer: `rows` (rising) if they are few, else `mask`."""

    count: int
    rows: Rows | None = None
    mask: Mask | None = None
    bits: NDArray[np.uint8] | None = None

    @classmethod
    def of_rows(cls, rows: Rows) -> Chosen:
        return cls(len(rows), rows=rows)

    @classmethod
    def of_mask(cls, mask: Mask, few: int) -> Chosen:
        count = int(np.count_nonzero(mask))
        if count <= few:
            return cls(count, rows=np.flatnonzero(mask))
        return cls(count, mask=mask, bits=np.packbits(mask, bitorder="little"))

    def rising(self) -> Rows:
        """Return the rows, rising."""
        if self.rows is not None:
            return self.rows
        assert self.mask is not None
        return np.flatnonzero(self.mask)


class Sifting:
    """What filtered searches of one segment keep for the next ones. Any thread.

    The sieve is made in the background when it is first asked for, 1.5 s for 100,000 x
    512, and is not saved: collections that are never filtered have none.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._made = threading.Event()
        self._sieve: Sieve | None = None
        self._known: tuple[tuple[weakref.ref[Keys], Mask | None, Chosen], ...] = ()

    @property
    def memory_bytes(self) -> int:
        """Memory held, in bytes."""
        sieve = self._sieve
        return 0 if sieve is None else sieve.memory_bytes

    def sieve(self, vectors: Vectors, metric: Metric) -> Sieve | None:
        """Return the sieve; None if there is none (yet)."""
        if self._begun or len(vectors) < LEAST_ROWS:
            return self._sieve
        with self._lock:
            if not self._begun:
                self._begun = True
                me = weakref.ref(self)
                thread = threading.Thread(
                    target=_make, args=(me, vectors, metric), name="sieve", daemon=True
                )
                thread.start()
        return self._sieve

    def wait(self, timeout_s: float) -> bool:
        """Wait until a sieve that was begun is made, or has failed."""
        return self._made.wait(timeout_s)

    def made(self, sieve: Sieve | None) -> None:
        """Put the sieve to use."""
        self._sieve = sieve
        self._made.set()

    def chosen(self, allowed: Keys, live: Mask | None, choose: Callable[[], Chosen]) -> Chosen:
        """Return what `choose` made of the same keys and live rows, or makes now."""
        for known, alive, chosen in self._known:
            if known() is allowed and alive is live:
                return chosen
        chosen = choose()
        # Of two threads at once, one is forgotten.
        kept = [entry for entry in self._known if entry[0]() is not None]
        self._known = ((weakref.ref(allowed), live, chosen), *kept[: REMEMBERED - 1])
        return chosen


def _make(me: weakref.ref[Sifting], vectors: Vectors, metric: Metric) -> None:
    """Make the sieve of a segment, as long as there is one."""
    made: Any = None
    try:
        module = import_module("lookalike.backends.index._faiss_sieve")
        try:
            made = module.Sieve.build(vectors, metric, lambda: me() is not None)
        except module.Stopped:
            return
    except ImportError:
        pass  # filtered searches use the index, or compare more rows
    except Exception:
        _log.exception("no sieve, filtered searches are slower")
    if (sifting := me()) is not None:
        sifting.made(made)


def sift(
    sieve: Sieve, vectors: Vectors, queries: Vectors, k: int, metric: Metric, chosen: Chosen
) -> Hits:
    """Find the k best of the chosen rows, of which `bits` tells; k hits for each query."""
    width = min(k, chosen.count)
    ids = np.full((len(queries), width), -1, np.int64)
    scores = np.full((len(queries), width), -np.inf, np.float32)
    left = np.arange(len(queries))
    fetch = max(PROPOSALS, PROPOSALS_PER_HIT * k)
    while len(left) and 4 * fetch <= chosen.count:
        assert chosen.bits is not None
        proposals = sieve.propose(queries[left], fetch, chosen.bits)
        if proposals is None:
            break
        hits = rerank(metric, queries[left], vectors, proposals, width)
        ids[left], scores[left] = hits.ids, hits.scores
        rear = proposals[:, fetch // 2 :]
        # Not isin, which takes 36 us instead of 6.
        doubts = [
            np.count_nonzero(found[:, None] == behind) > REAR_SHARE * width
            for found, behind in zip(hits.ids, rear, strict=True)
        ]
        left = left[np.array(doubts) | (hits.ids[:, -1] < 0)]
        fetch *= 4
    if len(left):
        hits = nearest(vectors, queries[left], width, metric, rows=chosen.rising())
        ids[left], scores[left] = hits.ids, hits.scores
    return Hits(ids, scores, exact=len(left) == len(queries))
