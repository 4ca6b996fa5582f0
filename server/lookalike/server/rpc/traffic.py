"""Bulk work stands back while someone searches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from lookalike.backends.errors import LookalikeError
from lookalike.server.domain import Answer, Query, SearchOptions
from lookalike.server.rpc.ports import Searcher

RECENT_S = 0.05
"""So long after a search another one is expected: who asks in a loop asks again at once."""
MOST_WAIT_S = 0.01
MOST_REST_S = 0.02
"""No piece of bulk work is held up longer than by these two, so that it always goes on."""
LEAST_REST_S = 0.0005


class Traffic:
    """Counts the searches under way: `with traffic:` is one. Any thread.

    A search crosses several threads of a Python server and needs the interpreter's lock on
    each; beside a thread that never lets go of it, it waits for that lock up to 5 ms each
    time. So bulk work is done in pieces of about a millisecond, and between two of them
    the searches get their turn. Measured, 2 busy cores, one caller beside an upload of
    vectors as fast as it goes: p99 38-80 ms without, 13-18 ms with (idle: 5-11 ms), at 60 %
    of the upload's rate.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._none_left = threading.Condition(self._lock)
        self._searches = 0
        self._resting = 0
        self._last = -RECENT_S

    @property
    def busy(self) -> bool:
        """Whether there is a search under way, or was one just now."""
        return self._searches > 0 or self._clock() - self._last < RECENT_S

    def __enter__(self) -> None:
        with self._lock:
            self._searches += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._searches -= 1
            self._last = self._clock()
            if self._resting and not self._searches:
                self._none_left.notify_all()

    def give_way(self, worked_s: float) -> None:
        """Rest as long as a piece of bulk work took, then wait until no search is under way.

        Returns at once where nobody searches.
        """
        if not self.busy:
            return
        time.sleep(min(max(worked_s, LEAST_REST_S), MOST_REST_S))
        with self._lock:
            self._resting += 1
            self._none_left.wait_for(lambda: not self._searches, MOST_WAIT_S)
            self._resting -= 1


class CountedSearcher:
    """A searcher whose searches are counted. Any thread."""

    def __init__(self, searcher: Searcher, traffic: Traffic) -> None:
        self._searcher = searcher
        self._traffic = traffic

    def search(
        self, collection: str, query: Query, options: SearchOptions, *, deadline: float | None
    ) -> Answer:
        with self._traffic:
            return self._searcher.search(collection, query, options, deadline=deadline)

    def search_batch(
        self,
        requests: Sequence[tuple[str, Query, SearchOptions]],
        *,
        deadline: float | None,
    ) -> list[Answer | LookalikeError]:
        with self._traffic:
            return self._searcher.search_batch(requests, deadline=deadline)
