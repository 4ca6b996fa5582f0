"""What comes singly is written together: while one write is under way, the next one gathers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MOST: Final = 64
"""Things of one write: 35 us each in writes of many, and a millisecond in writes of one."""
_MOST_BYTES: Final = 16 * 2**20


class GatheredWrites(Generic[T, R]):
    """One write at a time for each target; nothing waits that could be written. Any thread.

    `write` begins one, in the order in which things came. If it fails for several they
    are tried again one by one, so that none fails for another one's fault. `wrote` and
    `failed` hear of each thing once, on whatever thread ends the write.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], Future[R]],
        *,
        wrote: Callable[[Sequence[T], R], None],
        failed: Callable[[Sequence[T], BaseException], None],
        size: Callable[[T], int],
    ) -> None:
        self._write = write
        self._wrote = wrote
        self._failed = failed
        self._size = size
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[T]] = {}
        """By target; a target that is here has a write under way."""

    def add(self, target: Hashable, thing: T) -> None:
        """Write a thing, soon. Never raises for what writing it raises."""
        with self._lock:
            if (waiting := self._waiting.get(target)) is not None:
                waiting.append(thing)
                return
            self._waiting[target] = deque()
        self._begin(target, [thing])

    def _begin(self, target: Hashable, things: Sequence[T]) -> None:
        try:
            writing = self._write(things)
        except Exception as error:
            writing = Future()
            writing.set_exception(error)
        writing.add_done_callback(partial(self._ended, target, things))

    def _ended(self, target: Hashable, things: Sequence[T], writing: Future[R]) -> None:
        following = self._next(target)
        if following:  # first, so that it is written while others hear of these
            self._begin(target, following)
        try:
            result = writing.result()
        except BaseException as error:
            if len(things) == 1:
                self._failed(things, error)
                return
            for thing in things:
                self._begin_alone(thing)
            return
        self._wrote(things, result)

    def _begin_alone(self, thing: T) -> None:
        try:
            writing = self._write([thing])
        except Exception as error:
            self._failed([thing], error)
            return
        writing.add_done_callback(partial(self._ended_alone, thing))

    def _ended_alone(self, thing: T, writing: Future[R]) -> None:
        try:
            result = writing.result()
        except BaseException as error:
            self._failed([thing], error)
            return
        self._wrote([thing], result)

    def _next(self, target: Hashable) -> list[T]:
        """Take what is written next; none: the target has nothing under way any more."""
        with self._lock:
            waiting = self._waiting[target]
            if not waiting:
                del self._waiting[target]
                return []
            taken, size = [waiting.popleft()], 0
            size += self._size(taken[0])
            while waiting and len(taken) < _MOST:
                size += self._size(waiting[0])
                if size > _MOST_BYTES:
                    break
                taken.append(waiting.popleft())
            return taken
