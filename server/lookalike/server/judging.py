"""What matches are worth: a false-match rate from the collection itself, and a tier."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from lookalike.backends.errors import (
    CollectionLoading,
    ImageNotRetained,
    ItemNotFound,
    LookalikeError,
)
from lookalike.backends.types import Keys, RgbImage, Vectors
from lookalike.server.calibration import MIN_ITEMS, Calibration, learn, sample_size
from lookalike.server.collection import Collection
from lookalike.server.domain import Filter, Judgement, Match, Tier, View
from lookalike.server.images import decode
from lookalike.server.library import Library
from lookalike.server.looks import Look
from lookalike.server.same_picture import is_same

_log = logging.getLogger(__name__)

SCENE_RATE: Final = 1e-4
"""At most so many unrelated pairs score as high as the same scene or object. Of pairs of
photographs beyond it, all showed the same kind of thing."""
SIMILAR_RATE: Final = 1e-2
"""And as high as what is similar: of the pairs of photographs beyond it, a third show one kind of
thing, of all pairs one in fifty."""
PICTURE_RATE: Final = 5e-3
"""Matches that more unrelated pairs reach are not compared as pictures: of 2700 altered
copies of photographs none lay there (grey ones came nearest, at 3.6e-3)."""
_ALWAYS: Final = 2
"""So many of the best are compared whatever they score: where all pictures are much alike,
as scans of one form are, even a copy is within what others score."""
_MOST_COMPARED: Final = 20
"""Matches of one query that are compared as pictures, the highest first."""
_MISSES: Final = 5
"""After so many in a row that are no copies none is expected: of 2700 altered copies none
had as many other pictures before its original."""
_DRIFT: Final = 0.25
"""Learned again when the collection has grown or shrunk by this part."""
_SEED: Final = 20240607
_TRIES: Final = 3
_THUMBNAIL_PIXELS: Final = 2**20


@dataclass(frozen=True, slots=True)
class _Learned:
    """A calibration, and what it was learned from."""

    calibration: Calibration | None
    count: int
    space: str


class Judge:
    """Says what matches are worth. Any thread."""

    def __init__(self) -> None:
        self._learned: dict[int, _Learned] = {}
        """By the number of the collection, which is never used twice."""
        self._locks: dict[int, threading.Lock] = {}
        self._guard = threading.Lock()

    def calibration(self, collection: Collection) -> Calibration | None:
        """Return what scores mean in the collection; None where there are too few items.

        Learned by the caller that finds it missing or outdated, within about a second;
        others get the old one meanwhile, or wait for it where there is none.
        """
        number, space = collection.number, collection.record.space
        known = self._learned.get(number)
        count = collection.engine.stats().count
        if known is not None and known.space == space:
            drift = abs(count - known.count) > _DRIFT * known.count
            if not drift and (known.count < MIN_ITEMS) == (count < MIN_ITEMS):
                return known.calibration
        elif known is not None:
            known = None
        with self._guard:
            lock = self._locks.setdefault(number, threading.Lock())
        if not lock.acquire(blocking=known is None):
            return known.calibration if known else None
        try:
            meanwhile = self._learned.get(number)
            if known is None and meanwhile is not None and meanwhile.space == space:
                return meanwhile.calibration
            learned = self._learn(collection, count, space)
            self._learned[number] = learned
            return learned.calibration
        finally:
            lock.release()

    def judge(
        self, collection: Collection, picture: RgbImage | None, matches: Sequence[Match]
    ) -> list[Judgement]:
        """Judge each match of one query; `picture` is the query's, if it has one.

        Without a picture, none is found to be the same one. Takes a few milliseconds
        for each of the best matches, up to 20.
        """
        calibration = self.calibration(collection)
        rates = [None if calibration is None else calibration.rate(m.score) for m in matches]
        same = self._same(collection, picture, matches, rates)
        return [
            Judgement(rate, Tier.SAME_PICTURE if i in same else _tier(rate))
            for i, rate in enumerate(rates)
        ]

    def _same(
        self,
        collection: Collection,
        picture: RgbImage | None,
        matches: Sequence[Match],
        rates: Sequence[float | None],
    ) -> set[int]:
        """Return which matches show the very picture."""
        if picture is None:
            return set()
        order = sorted(range(len(matches)), key=lambda i: -matches[i].score)
        near = [
            i
            for rank, i in enumerate(order)
            if rank < _ALWAYS or (rate := rates[i]) is None or rate <= PICTURE_RATE
        ]
        same: set[int] = set()
        look: Look | None = None
        misses = 0
        for i in near[:_MOST_COMPARED]:
            if (stored := look_at(collection, matches[i].item.id)) is None:
                continue
            look = look or Look(picture)
            misses = 0 if is_same(look, stored) else misses + 1
            if not misses:
                same.add(i)
            if misses == _MISSES:
                break
        return same

    def _learn(self, collection: Collection, count: int, space: str) -> _Learned:
        keys = collection.select(Filter())
        if len(keys) < MIN_ITEMS:
            return _Learned(None, count, space)
        config = collection.record.config
        size = sample_size(len(keys), config.dimension)
        rng = np.random.default_rng(_SEED)
        chosen: Keys = np.sort(rng.choice(keys, size, replace=False))
        chosen, vectors = _still_there(collection, chosen)
        calibration = None
        if len(chosen) >= MIN_ITEMS:
            calibration = learn(vectors, config.metric, _Pairs(collection, chosen).same)
        _log.info(
            "calibrated collection=%s items=%d pairs=%d",
            collection.name,
            len(chosen),
            calibration.pair_count if calibration else 0,
        )
        return _Learned(calibration, count, space)


def _still_there(collection: Collection, keys: Keys) -> tuple[Keys, Vectors]:
    """Return the vectors of items, and the keys of those that have not gone meanwhile."""
    for _ in range(_TRIES):
        try:
            return keys, collection.vectors(keys)
        except KeyError:  # the rest is as good a sample
            keys = np.array(sorted(collection.fetch(keys.tolist(), View.ID)), np.int64)
    # All are being replaced: those that can be read one by one will do.
    found: list[tuple[int, Vectors]] = []
    for key in keys.tolist():
        with suppress(KeyError):
            found.append((key, collection.vectors(np.array([key], np.int64))))
    if not found:
        return keys[:0], np.empty((0, collection.record.config.dimension), np.float32)
    return np.array([key for key, _ in found], np.int64), np.concatenate([v for _, v in found])


class Calibrations:
    """What scores mean, by the names of collections. Any thread."""

    def __init__(self, library: Library, judge: Judge) -> None:
        self._library = library
        self._judge = judge

    def of(self, collection: str) -> Calibration | None:
        """Return what scores mean there; None where nothing can be told, or not yet.

        Raises CollectionNotFound.
        """
        try:
            return self._judge.calibration(self._library.collection(collection))
        except CollectionLoading:
            return None


class _Pairs:
    """Compares the pictures of rows of a sample; remembers what it has seen."""

    def __init__(self, collection: Collection, keys: Keys) -> None:
        self._collection = collection
        self._keys = keys
        self._looks: dict[int, Look | None] = {}

    def same(self, row: int, other: int) -> bool:
        one, two = self._look(row), self._look(other)
        return one is not None and two is not None and is_same(one, two)

    def _look(self, row: int) -> Look | None:
        if row not in self._looks:
            key = int(self._keys[row])
            item = self._collection.fetch([key], View.ID).get(key)
            self._looks[row] = look_at(self._collection, item.id) if item else None
        return self._looks[row]


def look_at(collection: Collection, item_id: str) -> Look | None:
    """Return a stored item's picture, ready to be compared; None if none is kept.

    A picture that cannot be read is as if there were none: an answer is worth more
    than its judgement.
    """
    try:
        stored = collection.image(item_id, original=False)
        return Look(decode(stored.data, max_pixels=_THUMBNAIL_PIXELS).image)
    except (ItemNotFound, ImageNotRetained):
        return None
    except LookalikeError as error:
        _log.warning("a thumbnail cannot be compared id=%r reason=%s", item_id, error.reason)
        return None


def _tier(rate: float | None) -> Tier | None:
    if rate is None:
        return None
    if rate <= SCENE_RATE:
        return Tier.SAME_SCENE
    return Tier.SIMILAR if rate <= SIMILAR_RATE else Tier.WEAK
