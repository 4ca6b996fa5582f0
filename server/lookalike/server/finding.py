"""Vectors to matches: candidates from the index, put in order, fetched from the store."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from lookalike.backends.errors import DataLoss, DiskFull, Unavailable
from lookalike.backends.types import Hits, Keys, Mask, Metric, Rows, Vectors, normalize
from lookalike.server.collection import Collection
from lookalike.server.domain import Answer, Item, Match, SearchOptions, Vector, View
from lookalike.server.folding import Calibration, Likeness
from lookalike.server.ranking import (
    Scores,
    cap_groups,
    closeness,
    diversify,
    fold,
    group_key,
)

_TRIES: Final = 3
"""Searches whose hits were replaced before they could be fetched are run again, at last
between two commits: items that change all the time would be left out otherwise."""
_LEAST_POOL: Final = 50
_MOST_POOL: Final = 1000
"""Candidates to choose from at first: five for each match that is wanted, within these."""
_MOST_CANDIDATES: Final = 5000
"""Where groups and folds leave too few matches, more candidates are looked at, up to these."""
_WIDER: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """A query that is a vector now, and what of the found to show."""

    vector: Vector
    options: SearchOptions
    min_score: float = -np.inf
    left_out: frozenset[int] = frozenset()
    """Keys of the items that the query was made of."""
    calibration: Calibration | None = None
    """What scores mean, for folding; None where that is not known."""

    @property
    def is_ranked(self) -> bool:
        """True if more than the score decides which matches to show."""
        o = self.options
        return bool(o.fold_duplicates or o.group_by or o.diversity)

    @property
    def pool(self) -> int:
        """How many candidates to begin with."""
        limit = self.options.limit
        if not self.is_ranked:
            return limit
        return max(limit, min(max(_LEAST_POOL, 5 * limit), _MOST_POOL))


def find(collection: Collection, wanted: Sequence[Wanted]) -> list[Answer]:
    """Answer queries of one collection that share filter, view, parameters and pool.

    The steps and their order: the nearest by score; the filter, `min_score` and
    `left_out`; near-duplicates folded; groups capped; variety; `limit`. Folding and
    grouping look at more candidates until there are enough matches, or 5000 were seen.
    """
    for _ in range(_TRIES):
        search = _Search(collection, wanted)
        answers = search.run()
        if search.complete:
            return answers
        collection.wait_level(5.0)
    try:
        return collection.between_commits(_Search(collection, wanted).run)
    except (DataLoss, DiskFull, Unavailable):  # the store does not write: these are the best
        return answers


@dataclass(frozen=True, slots=True)
class _Pick:
    """One match to be; `folded` are keys."""

    key: int
    score: float
    folded: tuple[int, ...] = ()


class _Search:
    """One try to answer; `complete` is False if items went while it ran."""

    def __init__(self, collection: Collection, wanted: Sequence[Wanted]) -> None:
        self._collection = collection
        self._wanted = wanted
        self._options = wanted[0].options
        self._items: dict[int, Item] = {}
        self._likeness: dict[int, Likeness] = {}
        self._ms: defaultdict[str, float] = defaultdict(float)
        self.complete = True

    def run(self) -> list[Answer]:
        allowed: Keys | None = None
        if self._options.filter:
            with self._timed("index"):
                allowed = self._collection.select(self._options.filter)
        left_out = max(len(w.left_out) for w in self._wanted)
        pool = max(w.pool for w in self._wanted)
        picks: dict[int, list[_Pick]] = {}
        pending = list(range(len(self._wanted)))
        exact = True
        while pending:
            asked = min(pool, _MOST_CANDIDATES) + left_out
            hits = self._nearest(pending, asked, allowed)
            exact = exact and hits.exact
            wider: list[int] = []
            for row, i in enumerate(pending):
                w = self._wanted[i]
                keys, scores, more = _through(hits, row, w, asked)
                picks[i] = self._rank(i, keys, scores)
                if w.is_ranked and more and len(picks[i]) < w.options.limit:
                    wider.append(i)
            pending = wider if self.complete and pool < _MOST_CANDIDATES else []
            pool *= _WIDER
        matches = self._fetch([picks[i] for i in range(len(self._wanted))])
        return [
            Answer(
                matches=found,
                exact=exact,
                matched_count=None if allowed is None else len(allowed),
                index_ms=self._ms["index"],
                fetch_ms=self._ms["fetch"],
                rank_ms=self._ms["rank"],
            )
            for found in matches
        ]

    def _nearest(self, rows: list[int], k: int, allowed: Keys | None) -> Hits:
        with self._timed("index"):
            vectors = np.stack([self._wanted[i].vector for i in rows])
            return self._collection.search(vectors, k, allowed, self._options.params)

    def _rank(self, i: int, keys: Keys, scores: Scores) -> list[_Pick]:
        """Return the matches to be of query `i`, in order, of candidates by score."""
        w = self._wanted[i]
        if not w.is_ranked:
            pairs = zip(keys.tolist(), scores.tolist(), strict=True)
            return [_Pick(key, score) for key, score in pairs][: w.options.limit]
        o = w.options
        keys, scores = self._known(keys, scores, View.BASIC if o.group_by else View.ID)
        vectors = np.zeros((len(keys), 0), np.float32)
        if o.fold_duplicates or o.diversity:
            with self._timed("fetch"):
                try:
                    vectors = self._collection.vectors(keys)
                except KeyError:
                    self.complete = False
                    return []
        with self._timed("rank"):
            folds = self._folded(i, keys, vectors)
            if o.group_by:
                metadata = (self._items[int(keys[first])].metadata for first, *_ in folds)
                groups = [group_key(m, o.group_by) for m in metadata]
                folds = [folds[i] for i in cap_groups(groups, o.group_limit)]
            if o.diversity:
                firsts = [first for first, *_ in folds]
                order = diversify(
                    scores[firsts], vectors[firsts], self._metric, o.diversity, o.limit
                )
                folds = [folds[i] for i in order]
            return [
                _Pick(int(keys[first]), float(scores[first]), tuple(keys[others].tolist()))
                for first, *others in folds[: o.limit]
            ]

    def _folded(self, i: int, keys: Keys, vectors: Vectors) -> list[list[int]]:
        """Return the positions of the candidates of query `i`, duplicates with their firsts."""
        w = self._wanted[i]
        if not w.options.fold_duplicates:
            return [[position] for position in range(len(keys))]
        likeness = self._likeness.setdefault(
            i, Likeness(self._collection, self._items, w.calibration, w.options.limit)
        )

        def same(first: int, others: Rows, cosines: Scores) -> Mask:
            near = closeness(vectors[others], vectors[first], self._metric)
            return likeness(int(keys[first]), keys[others], cosines, near)

        all_matter = w.options.group_by or w.options.diversity
        return fold(normalize(vectors), same, len(keys) if all_matter else w.options.limit)

    @property
    def _metric(self) -> Metric:
        return self._collection.record.config.metric

    def _known(self, keys: Keys, scores: Scores, view: View) -> tuple[Keys, Scores]:
        """Fetch the candidates; return those that are there, by score, then by id."""
        with self._timed("fetch"):
            items = self._collection.fetch(sorted(keys.tolist()), view)
        self._items.update(items)
        self.complete = self.complete and len(items) == len(keys)
        with self._timed("rank"):
            there = [i for i, key in enumerate(keys.tolist()) if key in items]
            there.sort(key=lambda i: (-scores[i], items[int(keys[i])].id.encode()))
            return keys[there], scores[there]

    def _fetch(self, picks: list[list[_Pick]]) -> list[list[Match]]:
        """Return the matches of each query, with as much of each item as the view shows."""
        with self._timed("fetch"):
            wanted = sorted({pick.key for row in picks for pick in row})
            items = self._collection.fetch(wanted, self._options.view)
        self.complete = self.complete and len(items) == len(wanted)
        with self._timed("rank"):
            rows = [
                [
                    Match(
                        items[pick.key],
                        pick.score,
                        duplicates=tuple(self._items[key].id for key in pick.folded),
                    )
                    for pick in row
                    if pick.key in items
                ]
                for row in picks
            ]
            for row, w in zip(rows, self._wanted, strict=True):
                if not w.options.diversity:
                    row.sort(key=lambda match: (-match.score, match.item.id.encode()))
            return rows

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._ms[part] += (time.monotonic() - began) * 1e3


def _through(hits: Hits, row: int, w: Wanted, asked: int) -> tuple[Keys, Scores, bool]:
    """Return the candidates of one query, and whether there may be more behind them."""
    keys, scores = hits.ids[row], hits.scores[row]
    good = (keys >= 0) & (scores >= w.min_score)
    more = len(keys) == asked and bool(good.all())
    if w.left_out:
        good &= ~np.isin(keys, list(w.left_out))
    return keys[good], scores[good], more
