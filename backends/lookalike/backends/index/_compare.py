"""Compare queries with vectors, all of them or some, so that ties come out the same everywhere.

Blocks are scored in float32 (fast), everything that rounding could have kept out
of the best k is scored once more in float64, and only that decides. So an answer
depends neither on how a matrix product was blocked nor on the index that proposed
the rows, and equal vectors have equal scores.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.index._codes import CodedVectors
from lookalike.backends.index._int8 import MOST_DIM, int8_product
from lookalike.backends.index._threads import cores, divided
from lookalike.backends.types import Hits, Mask, Metric, Rows, Vectors, sum_of_squares

Floats: TypeAlias = NDArray[Any]

CODED_NUMBERS = 2**21
"""Fewer numbers are compared as they are: 4,096 x 512 take 12 ms for 256 queries."""
CODED_QUERIES = 4
"""Codes are quicker from so many queries on: 100,000 x 512, 14 ms against 16 ms."""
DIVIDED_PRODUCTS = 2**31
"""From so many on a second thread is started: 12 ms of work for one, with codes."""
QUERY_BLOCK = 256
"""Queries scored together."""
GATHER_SHARE = 0.3
"""Below this share of live rows they are copied out rather than all be scored:
copying costs about 3 times the scoring (100k x 256, one query)."""
GEMM_QUERIES = 6
GEMM_DIM = 192
"""A matrix product is quicker than a dot product of each pair from so many queries on
(100k x 256, one thread: 17 against 16 ms at 4 queries, 22 against 30 ms at 8), and for
shorter vectors (10k x 128, one query: 0.05 against 0.16 ms). For few long vectors dot
products run at memory speed, and do not wait for a second core."""
FLOAT32_SAFE = 1e37
"""Products beyond this may overflow float32; they are made in float64 instead."""
FEW_OF = 4
"""From so many times the wanted proposals on, float32 goes first: 160 of 512 numbers for
10 hits take 120 us in float64."""
WIDE_NUMBERS = 2**15
"""Numbers made float64 at a time, 256 KiB: what stays in a core's cache is quicker by half."""


class ExactSearch:
    """Compares with every live row, in bounded memory. Any thread."""

    def __init__(self, metric: Metric, vectors: Vectors, *, coded: bool = False) -> None:
        """Prepare; with `coded` a copy in 8 bits is made when the first batch comes."""
        self.metric = metric
        self.vectors = vectors
        self.squares: NDArray[np.float64] | None = None
        self.longest = 1.0
        """Length of the longest vector."""
        if metric is not Metric.COSINE:
            squares = _squares(vectors)
            self.longest = float(np.sqrt(squares.max()))
            if metric is Metric.L2:
                self.squares = squares
        coded = coded and vectors.size >= CODED_NUMBERS and vectors.shape[1] <= MOST_DIM
        self._coder = threading.Lock() if coded and self._suits_codes else None
        """Held while codes are made; None if there will be none."""
        self._codes: CodedVectors | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory held beyond the vectors."""
        held = 0 if self.squares is None else int(self.squares.nbytes)
        return held + (0 if self._codes is None else self._codes.memory_bytes)

    @property
    def _suits_codes(self) -> bool:
        return self.metric is not Metric.L2 and 1e-12 < self.longest < 1e15

    def _coded(self, queries: int, want: int, alive: int) -> CodedVectors | None:
        """Return the codes if they are quicker for this; made now if no one else is about to."""
        count = len(self.vectors)
        if self._coder is None or queries < CODED_QUERIES or 16 * want > count:
            return None
        if alive < GATHER_SHARE * count:
            return None
        coder = self._coder
        if self._codes is None and coder.acquire(blocking=False):
            try:
                if self._codes is None and (make := int8_product()) is not None:
                    self._codes = CodedVectors(self.vectors, make)
                elif self._codes is None:
                    self._coder = None
            finally:
                coder.release()
        return self._codes

    def fits_float32(self, queries: Vectors) -> bool:
        """Tell whether no product of these queries can overflow float32."""
        length = math.sqrt(sum_of_squares(queries))  # of all of them together
        if not length < 1e15:
            length = float(_lengths(queries).max(initial=0))
        return (length + self.longest) * max(length, self.longest) < FLOAT32_SAFE

    @property
    def unfit(self) -> str:
        """Say why no structure of float32 products over these can be trusted; empty if one can."""
        if not 1 / FLOAT32_SAFE < 2 * self.longest**2 < FLOAT32_SAFE:
            return "the vectors' products leave the range of float32"
        return ""

    def search(self, queries: Vectors, k: int, live: Mask | None = None) -> Hits:
        """Find the k best live rows; k <= count. The answer is k wide."""
        alive = len(self.vectors) if live is None else int(np.count_nonzero(live))
        parts = [
            self._search_block(queries[start : start + QUERY_BLOCK], k, live, alive)
            for start in range(0, len(queries), QUERY_BLOCK)
        ] or [empty_hits(0, k)]
        return Hits(
            ids=np.concatenate([part.ids for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            exact=True,
        )

    def _search_block(self, queries: Vectors, k: int, live: Mask | None, alive: int) -> Hits:
        want = min(k, alive)
        if want == 0:
            return empty_hits(len(queries), k)
        wide = not self.fits_float32(queries)
        if not wide and (codes := self._coded(len(queries), want, alive)) is not None:
            return self._search_codes(codes, queries, k, want, live)
        best = _Best(len(queries), want, self._slack(queries, wide))
        for rows, scores in self._blocks(queries, live, alive, wide):
            best.add(rows, scores)
        which, rows = best.candidates()
        exact = pair_scores(self.metric, queries, self.vectors, which, rows)
        return rank(which, rows, exact, len(queries), k)

    def _search_codes(
        self, codes: CodedVectors, queries: Vectors, k: int, want: int, live: Mask | None
    ) -> Hits:
        threads = cores() if len(queries) * self.vectors.size >= DIVIDED_PRODUCTS else 1
        which, rows = codes.candidates(queries, want, live, threads)

        def score(start: int, stop: int) -> NDArray[np.float32]:
            part = slice(start, stop)
            return pair_scores(self.metric, queries, self.vectors, which[part], rows[part])

        scores = np.concatenate(divided(len(rows), threads, score))
        hits = rank(which, rows, scores, len(queries), k)
        odd = codes.odd if live is None else codes.odd[live[codes.odd]]
        if not len(odd):
            return replace(hits, exact=True)
        others = self._scores(queries, self.vectors[odd], odd)
        row, query = np.nonzero(others >= hits.scores[:, want - 1] - self._slack(queries, False))
        more = pair_scores(self.metric, queries, self.vectors, query, odd[row])
        return rank(
            np.concatenate([which, query]),
            np.concatenate([rows, odd[row]]),
            np.concatenate([scores, more]),
            len(queries),
            k,
        )

    def _slack(self, queries: Vectors, wide: bool) -> NDArray[np.float64]:
        """Bound how far a block's scores of each query may be from the truth, twice.

        Any order of summing d products is within d * u * sum(|a_i * b_i|) (Higham,
        Accuracy and Stability, 3.1), and that sum is at most |a| * |b|; the second
        term covers products that underflow, the doubling both sides of a comparison.
        """
        dim = queries.shape[1]
        lengths = _lengths(queries)
        bound = lengths * self.longest
        if self.metric is Metric.L2:
            bound = 2 * bound + self.longest**2
        info = np.finfo(np.float64 if wide else np.float32)
        slack: NDArray[np.float64] = 2 * (dim + 8) * (float(info.eps) * bound + float(info.tiny))
        return slack

    def _blocks(
        self, queries: Vectors, live: Mask | None, alive: int, wide: bool
    ) -> Iterator[tuple[Rows, Floats]]:
        """Yield rows and their (rows, queries) scores, -inf for those that are not live."""
        count, dim = self.vectors.shape
        if wide:
            queries = queries.astype(np.float64)
        size = min(max(2**21 // len(queries), 1024), 65536)
        if live is not None and alive < GATHER_SHARE * count:
            chosen = np.flatnonzero(live)
            # chunks that stay in the cache and below the allocator's mmap threshold
            size = min(size, max(2**18 // dim, 64) * (1 if len(queries) < GEMM_QUERIES else 4))
            for start in range(0, alive, size):
                rows = chosen[start : start + size]
                yield rows, self._scores(queries, self.vectors[rows], rows)
            return
        if wide:
            size = 1024  # each block is copied to float64
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            scores = self._scores(queries, self.vectors[start : start + len(rows)], rows)
            if live is not None:
                scores[~live[start : start + len(rows)]] = -np.inf
            yield rows, scores

    def _scores(self, queries: Floats, block: Floats, rows: Rows) -> Floats:
        if queries.dtype != block.dtype:
            block = block.astype(queries.dtype)
        if len(queries) < GEMM_QUERIES and queries.shape[1] >= GEMM_DIM:
            scores = np.vecdot(block[:, None, :], queries[None, :, :])
        else:
            scores = block @ queries.T
        if self.squares is not None:
            # |q|^2 is the same for every row, so it is left out here
            scores *= 2
            scores -= self.squares[rows, None].astype(scores.dtype)
        made: Floats = scores
        return made


class _Best:
    """The candidates for the best `want` rows of each query, seen block by block."""

    def __init__(self, queries: int, want: int, slack: NDArray[np.float64]) -> None:
        self.want = want
        self.slack = slack
        self.floor = np.full(queries, -np.inf)
        """The `want`-th best score so far, less the slack."""
        self.which: list[Rows] = []
        self.rows: list[Rows] = []
        self.scores: list[Floats] = []
        self.size = 0

    def add(self, rows: Rows, scores: Floats) -> None:
        if len(rows) > self.want and not self.size:
            cut = len(rows) - self.want
            self.floor = np.partition(scores.T, cut, axis=1)[:, cut] - self.slack
        # compared in the scores' own type: float64 here would copy the whole block
        floor = np.nextafter(self.floor.astype(scores.dtype), -np.inf, dtype=scores.dtype)
        row, which = np.nonzero((scores >= floor) & (scores > -np.inf))
        if not len(row):
            return
        self.which.append(which)
        self.rows.append(rows[row])
        self.scores.append(scores[row, which])
        self.size += len(row)
        if self.size > 2 * self.want * len(self.floor) + 1024:
            self._prune()

    def _prune(self) -> None:
        which = np.concatenate(self.which)
        rows = np.concatenate(self.rows)
        scores = np.concatenate(self.scores)
        order = np.lexsort((-scores, which))
        first = np.searchsorted(which[order], np.arange(len(self.floor)))
        last = first + self.want - 1
        full = np.flatnonzero(last < np.append(first[1:], len(order)))
        self.floor[full] = scores[order[last[full]]] - self.slack[full]
        keep = scores >= self.floor[which]
        self.which, self.rows, self.scores = [which[keep]], [rows[keep]], [scores[keep]]
        self.size = int(np.count_nonzero(keep))

    def candidates(self) -> tuple[Rows, Rows]:
        """Return the pairs (query, row) one of which every one of the best is."""
        self._prune()
        return self.which[0], self.rows[0]


def pair_scores(
    metric: Metric, queries: Vectors, vectors: Vectors, which: Rows, rows: Rows
) -> NDArray[np.float32]:
    """Score the pairs (queries[which[i]], vectors[rows[i]]) in float64."""
    out = np.empty(len(rows), dtype=np.float64)
    step = max(WIDE_NUMBERS // vectors.shape[1], 16)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        right = queries[which[part]].astype(np.float64)
        out[part] = _wide_scores(metric, vectors[rows[part]].astype(np.float64), right)
    return _narrowed(metric, out)


def _wide_scores(
    metric: Metric, left: NDArray[np.float64], right: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Score float64 vectors, one dot product each: equal ones alike wherever they lie.

    `left` may be written to.
    """
    if metric is Metric.L2:
        left -= right
        distances: NDArray[np.float64] = -np.vecdot(left, left)
        return distances
    products: NDArray[np.float64] = np.vecdot(left, right)
    return products


def _narrowed(metric: Metric, scores: NDArray[np.float64]) -> NDArray[np.float32]:
    if metric is Metric.COSINE:
        # float32 vectors have length 1 only to about 1e-7; no one expects a cosine of 1.0000001
        near = np.abs(scores)
        if near.max(initial=0) > 1 - 1e-6:
            near = np.abs(near - 1) < 1e-6
            scores[near] = np.sign(scores[near])
    else:
        limit = float(np.finfo(np.float32).max)
        scores = np.clip(scores, -limit, limit)
    return scores.astype(np.float32)


def rank(which: Rows, rows: Rows, scores: NDArray[np.float32], queries: int, k: int) -> Hits:
    """Keep the k best pairs of each query: best first, equal scores by rising row."""
    order = np.lexsort((rows, -scores, which))
    which = which[order]
    place = np.arange(len(order)) - np.searchsorted(which, which)
    hits = empty_hits(queries, k)
    taken = place < k
    hits.ids[which[taken], place[taken]] = rows[order][taken]
    hits.scores[which[taken], place[taken]] = scores[order][taken]
    return hits


def rerank(metric: Metric, queries: Vectors, vectors: Vectors, rows: Rows, k: int) -> Hits:
    """Score proposed rows (queries, any), -1 = none, exactly and keep the k best.

    Measured, 100,000 x 512, 10 rows: 20 us for one query, 8 us for each of 256.
    """
    if not rows.size or rows.min() < 0:
        which, column = np.nonzero(rows >= 0)
        found = rows[which, column]
        scores = pair_scores(metric, queries, vectors, which, found)
        return rank(which, found, scores, len(queries), k)
    if len(rows) == 1 and k <= rows.shape[1] < FEW_OF * k:
        found = rows[0]
        wide = vectors[found].astype(np.float64)
        scores = _narrowed(metric, _wide_scores(metric, wide, queries[0].astype(np.float64)))
        values = scores.tolist()
        if k == len(values) and sorted(set(values), reverse=True) == values:
            return Hits(rows, scores[None])  # in order already, as nearly always
        order = np.lexsort((found, -scores))[:k]
        return Hits(found[None, order], scores[None, order])
    if metric is Metric.COSINE and rows.shape[1] >= FEW_OF * k:
        return _rerank_many(queries, vectors, rows, k)
    made = np.empty(rows.shape, np.float64)
    step = max(WIDE_NUMBERS // (rows.shape[1] * vectors.shape[1]), 1)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        right = queries[part, None].astype(np.float64)
        made[part] = _wide_scores(metric, vectors[rows[part]].astype(np.float64), right)
    scores = _narrowed(metric, made)
    order = np.lexsort((rows, -scores))[:, :k]
    own = np.arange(len(rows))[:, None]
    ids, scores = rows[own, order], scores[own, order]
    if (missing := k - ids.shape[1]) > 0:
        none = empty_hits(len(queries), missing)
        ids, scores = np.hstack([ids, none.ids]), np.hstack([scores, none.scores])
    return Hits(ids, scores)


def _rerank_many(queries: Vectors, vectors: Vectors, rows: Rows, k: int) -> Hits:
    """Leave out in float32 what rounding cannot have kept out of the k best, for cosine."""
    made = np.empty(rows.shape, np.float32)
    step = max(2 * WIDE_NUMBERS // (rows.shape[1] * vectors.shape[1]), 1)
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        made[part] = np.vecdot(vectors[rows[part]], queries[part, None])
    # both roundings, and stored lengths of 1 only to 1e-6, as in ExactSearch._slack
    info = np.finfo(np.float32)
    slack = 2 * (queries.shape[1] + 8) * (info.eps * 1.001 * _lengths(queries) + info.tiny)
    place = rows.shape[1] - k
    floor = np.partition(made, place, axis=1)[:, place] - slack
    which, column = np.nonzero(made >= floor[:, None])
    found = rows[which, column]
    scores = pair_scores(Metric.COSINE, queries, vectors, which, found)
    return rank(which, found, scores, len(queries), k)


def empty_hits(queries: int, k: int) -> Hits:
    """Make an answer in which nothing was found."""
    return Hits(
        ids=np.full((queries, k), -1, dtype=np.int64),
        scores=np.full((queries, k), -np.inf, dtype=np.float32),
    )


def _lengths(queries: Vectors) -> NDArray[np.float64]:
    wide = queries.astype(np.float64)
    lengths: NDArray[np.float64] = np.sqrt(np.vecdot(wide, wide))
    return lengths


def _squares(vectors: Vectors) -> NDArray[np.float64]:
    out = np.empty(len(vectors), dtype=np.float64)
    step = max(2**18 // vectors.shape[1], 16)
    for start in range(0, len(vectors), step):
        block = vectors[start : start + step].astype(np.float64)
        out[start : start + len(block)] = np.vecdot(block, block)
    return out
