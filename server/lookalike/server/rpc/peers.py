"""Who calls, and how much of the server one caller may have."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from lookalike.backends.errors import Overloaded, ResourceExhausted
from lookalike.server.admission import Spread
from lookalike.server.rpc.access import Keys

_RETRY_S = 2.5


class Peers:
    """Tells callers apart: by their API key, or by their address where there are no keys."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    def of(self, context: grpc.ServicerContext) -> str:
        """Return the caller of a call."""
        if self._keys is not None and (key := self._keys.id_of(context.invocation_metadata())):
            return f"key {key}"
        peer: str = context.peer()
        return peer.rpartition(":")[0] if peer.startswith("ip") else peer


class Share:
    """Calls of one kind at the same time: so many of one caller. Any thread."""

    def __init__(self, most: int, what: str, error: type[ResourceExhausted] = Overloaded) -> None:
        self._most = most
        self._what = what
        self._error = error
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._spread = Spread()

    @contextmanager
    def of(self, peer: str) -> Iterator[None]:
        """Take a place of a caller's share. Raises what it was made with."""
        with self._lock:
            if self._counts[peer] >= self._most:
                raise self._error(
                    f"You have {self._most} {self._what} open, as many as one caller may. Try "
                    "again when one of them has ended.",
                    retry_after_s=self._spread.of(_RETRY_S),
                    limit=self._most,
                )
            self._counts[peer] += 1
        try:
            yield
        finally:
            with self._lock:
                self._counts[peer] -= 1
                if not self._counts[peer]:
                    del self._counts[peer]
