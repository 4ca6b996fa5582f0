"""Who may come in: as many as will be answered soon, by the rate at which answers come."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from lookalike.backends.errors import Overloaded
from lookalike.server.deadlines import is_over, over

_WINDOW_S: Final = 0.5
"""Of busy time; what is older counts half, and again after each further window."""
_ENOUGH: Final = 8
"""Answers from which on there is a rate to speak of."""
_CALM_S: Final = 1.0
_UNKNOWN: Final = 16
"""Calls that are answered soon while the rate is not known."""
_SMOOTHING: Final = 0.1
"""Weight of the newest call in the time that a call takes alone."""
_LEAST_RETRY_S, _MOST_RETRY_S = 0.001, 30.0
_GOLDEN: Final = 0.6180339887


class Pace:
    """How much is done in a second while there is enough to do. Under its owner's lock."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._busy_s = 0.0
        self._count = 0.0

    @property
    def per_s(self) -> float:
        """The rate; 0.0 while it is not known."""
        return self._count / self._busy_s if self._count >= _ENOUGH and self._busy_s else 0.0

    def has_work(self, now: float) -> None:
        """Say that there is enough to do from now on, unless there was already."""
        if self._since is None:
            self._since = now

    def done(self, now: float, *, more: bool, count: int = 1) -> None:
        """Say that something was done, and whether there is enough left to do."""
        if self._since is not None:
            self._busy_s += now - self._since
            self._count += count
            if self._busy_s > _WINDOW_S and self._count > 2 * _ENOUGH:
                self._busy_s /= 2
                self._count /= 2
        self._since = now if more else None


class Spread:
    """Makes waiting times differ, so that those who were refused together come back apart."""

    def __init__(self) -> None:
        self._turn = 0.0

    def of(self, seconds: float) -> float:
        """Return one to two times as long, in whole milliseconds, at least one."""
        self._turn = (self._turn + _GOLDEN) % 1.0
        seconds = min(max(seconds * (1 + self._turn), _LEAST_RETRY_S), _MOST_RETRY_S)
        return round(seconds, 3)


class Admission:
    """Calls of one kind at the same time: at most `most`, and no more than are answered soon.

    `most` are let in until one is too many: callers who each wait for their answer before
    they ask again are so many and no more, and nobody need be refused. Once somebody had to
    be, and until nobody had to for a second, there come more than can be answered, and only
    as many are let in as are answered in `wait_s` seconds, or in twice the time that a call
    takes alone if that is longer; by the rate at which calls are answered while there are
    enough of them. So whoever is let in then waits no longer than that, and whoever is not
    is refused at once, and told when those before it will be done. Those who came in before
    it was known that there are too many should not wait longer than `patience_s`; who has
    the work they wait for looks at that. Without `wait_s` there are always `most`. Any thread; `with admission:` is a call without a deadline.
    """

    def __init__(
        self,
        most: int,
        what: str,
        *,
        wait_s: float | None = None,
        least: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._what = what
        self._wait_s = wait_s
        self._least = min(least, most)
        self._clock = clock
        self._lock = threading.Lock()
        self._pace = Pace()
        self._spread = Spread()
        self._alone_s = 0.0
        self.count = 0
        """Calls that are in now."""
        self._soon = most if wait_s is None else min(most, _UNKNOWN)
        """As many as are answered soon."""
        self._refused_at = -_CALM_S

    @property
    def limit(self) -> int:
        """As many as may be in now."""
        return self._soon if self._clock() - self._refused_at < _CALM_S else self._most

    @property
    def patience_s(self) -> float:
        """How long one that was let in may wait for its turn; without end while nobody is
        refused, then twice as long as those before it should have taken."""
        is_calm = self._wait_s is None or self._clock() - self._refused_at >= _CALM_S
        return math.inf if is_calm else 2 * self._soon_s

    @property
    def per_s(self) -> float:
        """Calls answered in a second while there are enough; 0.0 while that is not known."""
        return self._pace.per_s

    def enter(self, deadline: float | None = None) -> tuple[float, bool]:
        """Come in; what is returned is for `leave`.

        Raises Overloaded if too many are in already, or the time that is left is less than
        they take; DeadlineExceeded and Cancelled if nobody waits any more.
        """
        now = self._clock()
        with self._lock:
            if self.count >= self.limit:
                raise self._refusal(self.count)
            if deadline is not None:
                self._check(deadline, now)
            self.count += 1
            if self.count >= self._enough:
                self._pace.has_work(now)
            return now, self.count == 1

    def leave(self, entered: tuple[float, bool], *, answered: bool = True) -> None:
        """Go; calls that were not answered say nothing of the rate."""
        now = self._clock()
        began, alone = entered
        with self._lock:
            self.count -= 1
            self._pace.done(now, more=self.count >= self._enough, count=int(answered))
            if alone and answered and not self.count:
                spent = now - began
                self._alone_s += (spent - self._alone_s) * (_SMOOTHING if self._alone_s else 1.0)
            self._adapt()

    def refusal(self, here: int) -> Overloaded:
        """Return the error for a call that is not let in, for there are so many before it."""
        with self._lock:
            return self._refusal(here)

    @property
    def _enough(self) -> int:
        return max(2, self._soon // 2)

    def _check(self, deadline: float, now: float) -> None:
        if is_over(deadline):
            raise over(deadline, "before the call began")
        per_s = self._pace.per_s
        if per_s and self.count >= self._enough and now + self.count / per_s > deadline:
            why = f" They take longer than the {(deadline - now) * 1e3:.0f} ms left."
            raise self._refusal(self.count, why)

    @property
    def _soon_s(self) -> float:
        return max(self._wait_s or 0.0, 2 * self._alone_s)

    def _adapt(self) -> None:
        per_s = self._pace.per_s
        if self._wait_s is not None and per_s:
            self._soon = min(max(self._least, int(self._soon_s * per_s)), self._most)

    def _refusal(self, here: int, why: str = "") -> Overloaded:
        self._refused_at = self._clock()
        per_s = self._pace.per_s
        wait_s = here / per_s if per_s else (self._wait_s or 0.1)
        retry_s = self._spread.of(wait_s)
        return Overloaded(
            f"The server has {here} {self._what} to answer before this one.{why} "
            f"Try again in {retry_s * 1e3:.0f} ms.",
            retry_after_s=retry_s,
            limit=self.limit,
        )

    def __enter__(self) -> None:
        self.enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave((0.0, False), answered=error is None)
