"""Threads that read pictures: interactive work before bulk, nothing after its deadline."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Generic, NamedTuple, TypeVar

from lookalike.backends.errors import Draining, Overloaded
from lookalike.server.admission import Spread
from lookalike.server.deadlines import is_over, over

T = TypeVar("T")

_MANY_BYTES: Final = 256 * 2**20
_FIRST_RETRY_S: Final = 0.1
_SMOOTHING: Final = 0.2
_LOOK_S: Final = 0.01
"""Between two looks whether bulk work may go on: nobody tells."""


class _Work(NamedTuple, Generic[T]):
    call: Callable[[], T]
    future: Future[T]
    deadline: float | None
    size: int
    since: float


class WorkPool:
    """A fixed number of threads behind two queues. Any thread may submit.

    The interactive queue is bounded by `max_waiting` and `max_bytes`, and refuses what
    exceeds them, or would have its turn when its time is over; the bulk queue is bounded by those who fill it (upload windows). Bulk
    work starts only while no interactive work waits, on all threads but one, which
    is kept free for interactive work, and not while `hold` says so. Interactive work whose
    turn comes after more than `patience_s()` is refused then.
    """

    def __init__(
        self,
        threads: int,
        *,
        max_waiting: int,
        max_bytes: int = _MANY_BYTES,
        name: str,
        hold: Callable[[], bool] = lambda: False,
        patience_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._bytes = 0
        """Of the interactive work that waits."""
        self._work_s = 0.0
        """Seconds that a piece of interactive work takes, the newest weighing most."""
        self._spread = Spread()
        self._hold = hold
        self._patience_s = patience_s
        self._bulk_threads = max(1, threads - 1)
        self._in_bulk = 0
        self._interactive: deque[_Work[object]] = deque()
        self._bulk: deque[_Work[object]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        call: Callable[[], T],
        *,
        deadline: float | None = None,
        bulk: bool = False,
        size: int = 0,
    ) -> Future[T]:
        """Run `call` on a thread of the pool; `deadline` is in `time.monotonic()` seconds.

        `size` is what it holds in memory while it waits, in bytes. Raises Overloaded when
        too much interactive work waits, Draining after close.
        """
        future: Future[T] = Future()
        work = _Work(call, future, deadline, size, time.monotonic())
        with self._changed:
            if self._closed:
                raise Draining("The server is going down; try again when it is back.")
            if bulk:
                self._bulk.append(work)  # type: ignore[arg-type]
            else:
                self._check_room(deadline, size)
                self._bytes += size
                self._interactive.append(work)  # type: ignore[arg-type]
            self._changed.notify()
        return future

    def _check_room(self, deadline: float | None, size: int) -> None:
        """Raise Overloaded if work would be too much, or begin too late."""
        count = len(self._interactive)
        wait_s = count * self._work_s / len(self._threads)
        is_late = deadline is not None and 0 < deadline - time.monotonic() < wait_s
        is_full = count >= self._max_waiting or self._bytes + size > self._max_bytes
        if count and (is_full or is_late):
            retry_after_s = self._spread.of(wait_s or _FIRST_RETRY_S)
            raise Overloaded(
                f"{count} pictures of {self._bytes} bytes wait to be read already. Try again in "
                f"{retry_after_s * 1e3:.0f} ms.",
                retry_after_s=retry_after_s,
                limit=self._max_waiting,
            )

    def _waited_too_long(self, work: _Work[object]) -> Overloaded:
        waited_s = time.monotonic() - work.since
        retry_after_s = self._spread.of(waited_s)
        return Overloaded(
            f"More pictures came than can be read; this one waited for {waited_s * 1e3:.0f} ms. "
            f"Try again in {retry_after_s * 1e3:.0f} ms.",
            retry_after_s=retry_after_s,
        )

    def close(self) -> None:
        """Refuse what waits, finish what runs, join the threads."""
        with self._changed:
            self._closed = True
            waiting = [*self._interactive, *self._bulk]
            self._interactive.clear()
            self._bulk.clear()
            self._changed.notify_all()
        for work in waiting:
            if work.future.set_running_or_notify_cancel():
                work.future.set_exception(Draining("The server is going down."))
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            work, is_bulk = taken
            began = time.monotonic()
            self._do(work, is_bulk=is_bulk)
            spent = time.monotonic() - began
            del work, taken
            if not is_bulk:
                with self._changed:
                    self._work_s += (spent - self._work_s) * (_SMOOTHING if self._work_s else 1.0)
            if is_bulk:
                with self._changed:
                    self._in_bulk -= 1

    def _do(self, work: _Work[object], *, is_bulk: bool) -> None:
        if not work.future.set_running_or_notify_cancel():
            return
        if is_over(work.deadline):
            work.future.set_exception(over(work.deadline, "while the picture waited to be read"))
            return
        if not is_bulk and time.monotonic() - work.since > self._patience_s():
            work.future.set_exception(self._waited_too_long(work))
            return
        try:
            result = work.call()
        except BaseException as error:  # the Future's owner decides what it means
            work.future.set_exception(error)
        else:
            work.future.set_result(result)

    def _next(self) -> tuple[_Work[object], bool] | None:
        """Wait for work; return it and whether it is bulk. None once closed."""
        with self._changed:
            while not self._closed:
                if self._interactive:
                    work = self._interactive.popleft()
                    self._bytes -= work.size
                    return work, False
                wait_s = None
                if self._bulk and self._in_bulk < self._bulk_threads:
                    if not self._hold():
                        self._in_bulk += 1
                        return self._bulk.popleft(), True
                    wait_s = _LOOK_S
                self._changed.wait(wait_s)
            return None
