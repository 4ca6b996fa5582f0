"""Which of the found show the same: by their vectors, and where those leave doubt, their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np

from lookalike.backends.types import Keys, Mask, Metric
from lookalike.server.collection import Collection
from lookalike.server.domain import Item
from lookalike.server.judging import PICTURE_RATE, look_at
from lookalike.server.looks import Look
from lookalike.server.ranking import Scores
from lookalike.server.same_picture import is_same

NEAR: Final = 0.97
"""Cosine from which on two vectors show the same: of 2.5 million pairs of 2257 photographs
none comes so close (0.965 at most), while 99 % of copies that were only saved anew do."""
_NEAR_RATE: Final = 1e-6
_NEAREST: Final = 0.995
"""For models that put all pictures close together, NEAR is the score that only this share
of unrelated pairs reaches; more than this is not asked for: copies drag that score up."""
_MISSES: Final = 2
"""After so many others in a row that are no copies of a picture, the rest is passed over."""
_LEAST_COMPARED: Final = 10
_COMPARED_EACH: Final = 2
_MOST_COMPARED: Final = 60
"""Pairs of pictures compared for one query, 2 to 4 ms each: 10, and 2 for each match that
is wanted, but no more than this; the best matches come first."""


class Calibration(Protocol):
    """What scores mean in one collection."""

    def score(self, rate: float) -> float:
        """Return the score that this share of unrelated pairs reaches."""


class Likeness:
    """Says which items show the same, for one query. One thread.

    `items` are those known so far, by key; it may grow. Remembers what it was asked.
    """

    def __init__(
        self,
        collection: Collection,
        items: Mapping[int, Item],
        calibration: Calibration | None,
        limit: int,
    ) -> None:
        self._collection = collection
        self._items = items
        self._near, self._comparable = NEAR, -np.inf
        if calibration is not None:
            self._comparable = calibration.score(PICTURE_RATE)
            if collection.record.config.metric is Metric.COSINE:
                score = calibration.score(_NEAR_RATE)
                self._near = max(NEAR, min(score, _NEAREST))
        self._left = min(_LEAST_COMPARED + _COMPARED_EACH * limit, _MOST_COMPARED)
        self._looks: dict[int, Look | None] = {}
        self._known: dict[tuple[int, int], bool] = {}

    def __call__(self, first: int, others: Keys, cosines: Scores, scores: Scores) -> Mask:
        """Say which of `others` show the same as `first`; all are keys.

        `cosines` and `scores` (by the collection's metric) are those of the others
        against the first.
        """
        same: Mask = cosines >= self._near
        misses = 0
        doubtful = np.flatnonzero(~same & (scores >= self._comparable))
        for i in doubtful[np.argsort(-cosines[doubtful], kind="stable")].tolist():
            if misses == _MISSES:
                break
            same[i] = self._is_same(first, int(others[i]))
            misses = 0 if same[i] else misses + 1
        return same

    def _is_same(self, one: int, other: int) -> bool:
        pair = (one, other)
        if pair not in self._known:
            if self._left == 0:
                return False
            first, second = self._look(one), self._look(other)
            if first is None or second is None:
                return False
            self._left -= 1
            self._known[pair] = is_same(first, second)
        return self._known[pair]

    def _look(self, key: int) -> Look | None:
        if key not in self._looks:
            self._looks[key] = look_at(self._collection, self._items[key].id)
        return self._looks[key]
