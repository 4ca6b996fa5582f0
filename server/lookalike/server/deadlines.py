"""Until when work is wanted. Elsewhere a deadline is a float, or None, and may be one of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Self, TypeVar

from lookalike.backends.errors import Cancelled, DeadlineExceeded

T = TypeVar("T")


class Until(float):
    """A `time.monotonic()` that comes at once when the caller leaves. Any thread."""

    __slots__ = ("_calls", "left")

    left: bool
    """Whether the caller has left."""
    _calls: list[Callable[[], object]]

    def __new__(cls, at: float) -> Self:
        self = super().__new__(cls, at)
        self.left = False
        self._calls = []
        return self

    def leave(self) -> None:
        """Say that the caller has left."""
        self.left = True
        while self._calls:
            try:
                call = self._calls.pop()
            except IndexError:  # another thread was quicker
                return
            call()

    def when_left(self, call: Callable[[], object]) -> None:
        """Have `call` called when the caller leaves; at once if it has. Twice does no harm."""
        self._calls.append(call)
        if self.left:
            self.leave()


def is_over(deadline: float | None) -> bool:
    """Tell whether nobody wants the work any more."""
    if deadline is None:
        return False
    return deadline <= time.monotonic() or (type(deadline) is Until and deadline.left)


def over(deadline: float | None, where: str) -> Cancelled | DeadlineExceeded:
    """Return the error of work that nobody wants any more; `where` ends a sentence."""
    if type(deadline) is Until and deadline.left:
        return Cancelled("The caller has left.")
    return DeadlineExceeded(
        f"The time ran out {where}. Allow more time, or try again when the server has less to do."
    )


def outcome(future: Future[T], deadline: float | None) -> T:
    """Wait for a future, no longer than it is wanted; then what has not begun never does.

    Raises what the future raises, Cancelled, DeadlineExceeded.
    """
    if deadline is None:
        return future.result()
    if type(deadline) is Until:
        deadline.when_left(future.cancel)
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        if future.done() and not future.cancelled():
            return future.result()  # just in time, or a TimeoutError of its own
        future.cancel()
        raise over(deadline, "before there was an answer") from None
    except CancelledError:
        raise over(deadline, "before there was an answer") from None
