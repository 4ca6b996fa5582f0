"""Peers that keep a call waiting: they have so much time for it and no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import grpc

from lookalike.server.rpc.threads import Threads

T = TypeVar("T")

LOOK_S: Final = 0.25
"""How often the watch looks; so much later than allowed is a peer cut off."""
LAST_PLACES: Final = 4
"""When so few threads of a kind are free, those that wait for a slow peer are freed."""
SLOW_S: Final = 0.25
"""A request that takes longer to arrive does not hold the place of one that is there."""


class Wait:
    """One wait for the peer of a call."""

    __slots__ = ("call", "is_reading", "place", "since", "until")

    def __init__(
        self, call: grpc.ServicerContext, until: float, *, is_reading: bool, place: Threads | None
    ) -> None:
        self.call = call
        self.place = place
        self.since = time.monotonic()
        self.until = until
        self.is_reading = is_reading


class Watch:
    """Cancels calls whose peers take too long to send a message or to take one. Any thread.

    The thread of such a call waits inside gRPC, so that another one has to look. One
    thread does for all of them; it runs from `start` to `close`.
    """

    def __init__(self) -> None:
        self._waits: dict[int, Wait] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.slow_readings = 0
        """Requests that have been arriving for some time."""
        self.cut_off = 0
        """Calls ended so far."""

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()

    def begin(
        self,
        call: grpc.ServicerContext,
        seconds: float,
        *,
        is_reading: bool = False,
        place: Threads | None = None,
    ) -> Wait:
        """Allow the peer so much time from now on; `end` takes what is returned.

        `place` are the threads of which it holds one meanwhile: see `make_room`.
        """
        wait = Wait(call, time.monotonic() + seconds, is_reading=is_reading, place=place)
        self._waits[id(wait)] = wait
        return wait

    def end(self, wait: Wait) -> None:
        """Wait no longer. Twice does no harm."""
        self._waits.pop(id(wait), None)

    def make_room(self, place: Threads) -> bool:
        """Cut off who has held a thread for longest without sending its request, if anyone has.

        It has time left; but calls that begin and never go on would take all threads.
        """
        before = time.monotonic() - SLOW_S
        slow = [wait for wait in list(self._waits.values()) if wait.place is place]
        wait = min(slow, key=lambda wait: wait.since, default=None)
        if wait is None or wait.since > before:
            return False
        self.cut_off += 1
        self.end(wait)
        wait.call.cancel()
        return True

    def read(
        self, requests: Iterator[T], call: grpc.ServicerContext, seconds: float
    ) -> Iterator[T]:
        """Iterate over what a peer sends, each message no more than so long after the last."""
        while True:
            wait = self.begin(call, seconds)
            try:
                request = next(requests)
            except StopIteration:
                return
            finally:
                self.end(wait)
            yield request

    def write(
        self, responses: Iterator[T], call: grpc.ServicerContext, seconds: float
    ) -> Iterator[T]:
        """Iterate over what a peer has to take, each message within so long."""
        for response in responses:
            wait = self.begin(call, seconds)
            try:
                yield response
            finally:
                self.end(wait)

    def until_delivered(self, call: grpc.ServicerContext, seconds: float) -> None:
        """Give the peer so much time to take the one answer that the call is about to get."""
        wait = self.begin(call, seconds)
        ended: Callable[[], None] = lambda: self.end(wait)
        if not call.add_callback(ended):
            ended()

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            now = time.monotonic()
            waits = list(self._waits.values())
            for place in {wait.place for wait in waits if wait.place is not None}:
                for _ in range(place.count - place.most + LAST_PLACES):
                    self.make_room(place)
            self.slow_readings = sum(w.is_reading and now - w.since > SLOW_S for w in waits)
            for wait in waits:
                if wait.until < now:
                    self.cut_off += 1
                    self.end(wait)
                    wait.call.cancel()
