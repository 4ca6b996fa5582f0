"""Groups of items that show the same, over a whole collection."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import islice
from typing import Final

import numpy as np

from lookalike.backends.types import Keys, Metric, Vectors
from lookalike.server.calibration import Calibration, scores_of
from lookalike.server.collection import Collection
from lookalike.server.domain import Filter, Item, View
from lookalike.server.folding import NEAR
from lookalike.server.judging import PICTURE_RATE, Judge, look_at
from lookalike.server.library import Library
from lookalike.server.looks import Look
from lookalike.server.pictures import Pictures
from lookalike.server.same_picture import is_same

NEAR_RATE: Final = 1e-6
"""At most so many unrelated pairs score as high as near-duplicates by vectors alone."""
_NEIGHBOURS: Final = 4
"""Candidates of each item, itself among them: of 2700 altered copies one had more pictures
before its original. Of many copies each finds some, and the groups join them."""
_ALWAYS: Final = 2
"""The first of them, itself among them, are compared whatever they score."""
_BATCH: Final = 256
"""Items whose vectors are searched with at a time: 32 MiB at the most numbers."""
_LOOKS: Final = 1536
"""Pictures kept ready to be compared: 0.25 GB at most."""
_UNDER_WAY: Final = 16
"""Items handed out at a time to be compared with their candidates."""
_TRIES: Final = 5
"""Vectors of items that went meanwhile are read again without them."""
_EQUAL: Final = 1 - 1e-6
"""A cosine that rounding alone keeps from 1."""
_TOLD_S: Final = 0.25
"""Progress is told this often."""


class Kind(IntEnum):
    """How much alike duplicates are; each includes those before it."""

    EXACT = 1
    """The same file, byte by byte."""
    SAME_PICTURE = 2
    """The same picture, perhaps altered: the pixels were compared."""
    NEAR = 3
    """Nearly the same by their vectors alone."""


@dataclass(frozen=True, slots=True)
class Member:
    """An item of a group; `kind` and `score` say how it relates to the first of them."""

    item: Item
    kind: Kind | None = None
    """None for the first itself."""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Found:
    """Progress, or one group with its members, the one worth keeping first."""

    done: int
    total: int
    members: tuple[Member, ...] = ()


class Duplicates:
    """Finds duplicates in whole collections. Any thread."""

    def __init__(self, library: Library, pictures: Pictures, judge: Judge) -> None:
        self._library = library
        self._pictures = pictures
        self._judge = judge

    def find(self, collection: str, kind: Kind, where: Filter) -> Iterator[Found]:
        """Give progress several times a second, then the groups; stop by closing.

        Only items that pass `where` count. What is written meanwhile may be seen or not.
        Raises CollectionNotFound, CollectionLoading, FilterInvalid, Draining.
        """
        target = self._library.collection(collection)
        target.engine  # noqa: B018 - refuses while the collection is being loaded
        calibration = self._judge.calibration(target) if kind > Kind.EXACT else None
        return _Hunt(target, kind, where, calibration, self._pictures).run()


class _Groups:
    """Sets that are joined pair by pair: union-find with halved paths."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def root(self, i: int) -> int:
        """Return the lowest member of the set of `i`."""
        parent = self._parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    def join(self, i: int, j: int) -> None:
        i, j = self.root(i), self.root(j)
        self._parent[max(i, j)] = min(i, j)

    def sets(self) -> Iterator[list[int]]:
        """Yield the sets of two or more, by their lowest members."""
        roots = np.array([self.root(i) for i in range(len(self._parent))], np.int64)
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order]))
        for members in np.split(order, starts + 1):
            if len(members) > 1:
                yield members.tolist()


class _Hunt:
    """One search for duplicates, on the caller's thread and those that read pictures."""

    def __init__(
        self,
        collection: Collection,
        kind: Kind,
        where: Filter,
        calibration: Calibration | None,
        pictures: Pictures,
    ) -> None:
        self._collection = collection
        self._kind = kind
        self._metric = collection.record.config.metric
        self._near, self._comparable = _thresholds(calibration, self._metric)
        self._pictures = pictures
        self._keys: Keys = collection.select(where)
        self._allowed = self._keys if where else None
        self._groups = {level: _Groups(len(self._keys)) for level in Kind if level <= kind}
        self._compared = np.full((len(self._keys), _NEIGHBOURS), -1, np.int64)
        """By row, the rows it is compared with: 32 bytes an item."""
        self._looks = _Looks(collection)
        self._told = time.monotonic()

    def run(self) -> Iterator[Found]:
        total = len(self._keys)
        yield Found(0, total)
        yield from self._join_files()
        if self._kind > Kind.EXACT:
            for start in range(0, total, _BATCH):
                self._search(start)
                yield from self._progress(start // 2)
            yield from self._compare()
        yield Found(total, total)
        for members in self._groups[self._kind].sets():
            if len(group := self._members(members)) > 1:
                yield Found(total, total, group)

    # ------------------------------------------------------------- comparing

    def _join(self, kind: Kind, i: int, j: int) -> None:
        for level, groups in self._groups.items():
            if level >= kind:
                groups.join(i, j)

    def _join_files(self) -> Iterator[Found]:
        """Join items of one file, by the first half of its SHA-256: 16 bytes an item."""
        halves = np.zeros((len(self._keys), 2), np.uint64)
        for start in range(0, len(self._keys), _BATCH):
            rows = range(start, min(start + _BATCH, len(self._keys)))
            for i, item in self._items(rows).items():
                if item.image is not None:
                    halves[i] = np.frombuffer(bytes.fromhex(item.image.sha256[:32]), np.uint64)
            yield from self._progress(0)
        order = np.lexsort(halves.T)
        first, second = halves[order[:-1]], halves[order[1:]]
        for at in np.flatnonzero((first == second).all(axis=1) & first.any(axis=1)):
            self._join(Kind.EXACT, int(order[at]), int(order[at + 1]))

    def _search(self, start: int) -> None:
        """Join what is near by its vectors; note what to compare the items of a batch with."""
        rows, vectors = self._vectors(range(start, min(start + _BATCH, len(self._keys))))
        if not rows:
            return
        found = self._collection.engine.search(vectors, _NEIGHBOURS, allowed=self._allowed)
        others = np.searchsorted(self._keys, found.ids).clip(max=len(self._keys) - 1)
        known = (self._keys[others] == found.ids) & (others != np.array(rows)[:, None])
        near = known & (found.scores >= self._near)
        wanted = known & (found.scores >= self._comparable)
        wanted[:, :_ALWAYS] |= known[:, :_ALWAYS]
        self._compared[rows, : others.shape[1]] = np.where(wanted, others, -1)
        if self._kind is Kind.NEAR:
            for at, i in enumerate(rows):
                for j in others[at, near[at]].tolist():
                    self._join(Kind.NEAR, i, j)

    def _compare(self) -> Iterator[Found]:
        """Join the items whose pictures are the same."""
        total, waiting = len(self._keys), deque[tuple[int, int, Future[list[int]]]]()
        # Looked up when they are handed out: what has been joined by then is left out.
        todo = ((at, i, self._apart(i)) for at, i in enumerate(self._order()))
        todo = ((at, i, others) for at, i, others in todo if others)
        try:
            while True:
                for at, i, others in islice(todo, _UNDER_WAY - len(waiting)):
                    keys = self._keys[[i, *others]].tolist()
                    call = partial(self._looks.same, keys[0], keys[1:])
                    future = self._pictures.submit(call, deadline=None, bulk=True)
                    waiting.append((at, i, future))
                if not waiting:
                    return
                at, i, future = waiting.popleft()
                for key in future.result():
                    self._join(Kind.SAME_PICTURE, i, int(np.searchsorted(self._keys, key)))
                yield from self._progress((total + at) // 2)
        finally:
            for _, _, future in waiting:
                future.cancel()

    def _order(self) -> Iterator[int]:
        """Yield the rows, each soon after those it is compared with, depth first.

        So most pictures are read once, in whatever order they were stored.
        """
        seen = np.zeros(len(self._keys), bool)
        for first in range(len(self._keys)):
            ahead = [first]
            while ahead:
                if not seen[i := ahead.pop()]:
                    seen[i] = True
                    yield i
                    ahead += (j for j in self._compared[i, ::-1].tolist() if j >= 0 and not seen[j])

    def _apart(self, i: int) -> list[int]:
        """Return what to compare a row with: what it chose, and is not joined with yet.

        A pair that chose each other is compared once.
        """
        groups = self._groups[Kind.SAME_PICTURE]
        return [
            j
            for j in self._compared[i].tolist()
            if j >= 0 and (j > i or i not in self._compared[j]) and groups.root(i) != groups.root(j)
        ]

    def _progress(self, done: int) -> Iterator[Found]:
        if (now := time.monotonic()) - self._told >= _TOLD_S:
            self._told = now
            yield Found(done, len(self._keys))

    # ---------------------------------------------------------------- groups

    def _members(self, rows: Sequence[int]) -> tuple[Member, ...]:
        """Return a group's members that are still there, the one worth keeping first."""
        items = self._items(rows)
        first, *others = sorted(items, key=lambda row: _worth(items[row])) if items else [-1]
        if not others:
            return ()
        known, vectors = self._vectors([first, *others])
        scores = dict(
            zip(known, scores_of(vectors[:1], vectors, self._metric)[0].tolist(), strict=True)
        )
        if first not in scores:
            return ()
        return (
            Member(items[first]),
            *(
                Member(items[row], self._relation(first, row), scores[row])
                for row in others
                if row in scores
            ),
        )

    def _relation(self, i: int, j: int) -> Kind:
        return min(kind for kind, sets in self._groups.items() if sets.root(i) == sets.root(j))

    def _items(self, rows: Sequence[int]) -> dict[int, Item]:
        """Return those items of some rows that are still there."""
        items = self._collection.fetch(self._keys[list(rows)].tolist(), View.BASIC)
        return {row: items[key] for row in rows if (key := int(self._keys[row])) in items}

    def _vectors(self, rows: Sequence[int]) -> tuple[list[int], Vectors]:
        """Return those of some rows that are still there, and their vectors."""
        left = list(rows)
        for _ in range(_TRIES):
            try:
                return left, self._collection.vectors(self._keys[left])
            except KeyError:  # an item went meanwhile
                left = [row for row in left if row in self._items(left)]
        return [], np.zeros((0, self._collection.record.config.dimension), np.float32)


class _Looks:
    """Pictures ready to be compared, the last ones used. Any thread."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._looks: OrderedDict[int, Future[Look | None]] = OrderedDict()
        self._lock = threading.Lock()

    def same(self, key: int, others: Sequence[int]) -> list[int]:
        """Return which other items show the same picture; those without one do not."""
        if (kept := self._get(key)) is None:
            return []
        # A copy: what it learns of itself while it is compared is large, and goes with it.
        look = copy(kept)
        return [
            other
            for other in others
            if (one := self._get(other)) is not None and is_same(look, one)
        ]

    def _get(self, key: int) -> Look | None:
        """Return an item's picture; who asks while another thread reads it waits for that."""
        with self._lock:
            is_new = key not in self._looks
            future = self._looks.setdefault(key, Future())
            self._looks.move_to_end(key)
            if len(self._looks) > _LOOKS:
                self._looks.popitem(last=False)
        if is_new:
            try:
                item = self._collection.fetch([key], View.ID).get(key)
                future.set_result(None if item is None else look_at(self._collection, item.id))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


def _thresholds(calibration: Calibration | None, metric: Metric) -> tuple[float, float]:
    """Return the least scores of near-duplicates and of pictures worth comparing."""
    cosine = metric is Metric.COSINE
    if calibration is None:
        return (NEAR if cosine else np.inf), -np.inf
    near = calibration.score(NEAR_RATE)
    return (min(near, _EQUAL) if cosine else near), calibration.score(PICTURE_RATE)


def _worth(item: Item) -> tuple[int, float, int]:
    """Order by what is worth keeping: the largest picture, then the oldest item."""
    pixels = item.image.width * item.image.height if item.image else 0
    return -pixels, item.create_time, item.key
