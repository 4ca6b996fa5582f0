"""The health service: gRPC's own, that no caller can fill up or stop.

The library's keeps its lock while it tells a watcher something, and telling waits for
gRPC's one serving thread; that thread wants the lock when another watcher leaves. Then the
whole server stands still, for ever: two who watch at the same moment are enough. And a
watcher that reads nothing keeps the lock from everyone who asks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2

from lookalike.backends.errors import Overloaded
from lookalike.server.rpc.status import rich_status

MOST_WATCHERS: Final = 256
TAKE_S: Final = 2.0
"""A watcher that has not taken a word of 2 bytes by then is cut off."""
_RETRY_S: Final = 10.0
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class _Watcher:
    """One call of Watch."""

    __slots__ = ("context", "service", "tell", "telling", "told")

    def __init__(
        self, service: str, context: grpc.ServicerContext, tell: Callable[[Any], None]
    ) -> None:
        self.service = service
        self.context = context
        self.tell = tell
        self.told: int | None = None
        self.telling = False


class Health(health.HealthServicer):  # type: ignore[misc]
    """Watchers are told of changes on `threads`; they hold none meanwhile. Any thread."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        super().__init__(experimental_thread_pool=threads)
        self._threads = threads
        self._watchers: set[_Watcher] = set()

    def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[Any], None] | None = None,
    ) -> Any:
        """Tell a service's health now and when it changes; of an unknown one that it is unknown."""
        assert send_response_callback is not None, "the mark is known to gRPC since 1.20"
        watcher = _Watcher(request.service, context, send_response_callback)
        with self._lock:
            is_known = watcher.service in self._server_status
            has_room = len(self._watchers) < MOST_WATCHERS
            if is_known and has_room:
                self._watchers.add(watcher)
        if not is_known:  # it never will be, so there is nothing to remember
            _send(watcher, _UNKNOWN)
            watcher.tell(None)
        elif not has_room:
            error = Overloaded(
                f"{MOST_WATCHERS} callers watch the server's health, as many as may. Ask with "
                "Check instead.",
                retry_after_s=_RETRY_S,
                limit=MOST_WATCHERS,
            )
            context.abort_with_status(rich_status(error))
        elif context.add_callback(lambda: self._left(watcher)):
            self._tell(watcher)
        else:
            self._left(watcher)
        return None

    def set(self, service: str, status: int) -> None:
        """Set a service's health, and have its watchers told."""
        with self._lock:
            if self._gracefully_shutting_down:
                return
            self._server_status[service] = status
            concerned = [one for one in self._watchers if one.service == service]
        for watcher in concerned:
            self._threads.submit(self._tell, watcher)

    def _left(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watchers.discard(watcher)

    def _tell(self, watcher: _Watcher) -> None:
        """Bring a watcher up to date, without the lock while it is told."""
        while True:
            with self._lock:
                status = self._server_status[watcher.service]
                if watcher.telling or watcher.told == status or watcher not in self._watchers:
                    return
                watcher.told, watcher.telling = status, True
            try:
                _send(watcher, status)
            finally:
                with self._lock:
                    watcher.telling = False


def _send(watcher: _Watcher, status: int) -> None:
    patience = threading.Timer(TAKE_S, watcher.context.cancel)
    patience.daemon = True
    patience.start()
    try:
        watcher.tell(health_pb2.HealthCheckResponse(status=status))
    finally:
        patience.cancel()
