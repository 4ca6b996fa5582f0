"""How many uploads go into one call of a model, so that a query does not wait long for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_LATELY_S: Final = 10.0
"""So long after a query more of them are expected."""
_WAIT: Final = 1.25
"""Times what one picture alone takes, that a query may find the model taken by uploads. With its
own call and the readers beside it that stays below three times what it takes in peace."""
_MOST_S: Final = 0.5
"""The same bound in seconds while nobody has asked."""
_ENOUGH: Final = 3
"""Calls of one picture and of several that have to be seen before there is a bound."""
_SMOOTHING: Final = 0.2
"""Weight of the newest call in the mean times."""


class Pace:
    """Learns what calls take and bounds those of uploads. One thread, but `asked`: any."""

    def __init__(self, max_batch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch = max_batch
        self._clock = clock
        self._asked_at = -_LATELY_S
        self._alone = _Mean()
        self._each = _Mean()
        """Of one picture in a batch of several."""

    def asked(self) -> None:
        """Note that there was a query."""
        self._asked_at = self._clock()

    def took(self, count: int, seconds: float) -> None:
        """Note what a call with so many pictures took."""
        (self._alone if count == 1 else self._each).add(seconds / count)

    def most(self) -> int:
        """Return how many uploads may go into the next call, at least 1."""
        if self._each.count < _ENOUGH:
            return self._max_batch
        bound_s = _MOST_S
        if self._clock() - self._asked_at < _LATELY_S and self._alone.count >= _ENOUGH:
            bound_s = _WAIT * self._alone.mean
        return max(1, min(self._max_batch, int(bound_s / self._each.mean)))


class _Mean:
    def __init__(self) -> None:
        self.mean = 0.0
        self.count = 0

    def add(self, value: float) -> None:
        self.mean += (value - self.mean) * (_SMOOTHING if self.count else 1.0)
        self.count += 1
