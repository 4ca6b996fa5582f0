"""The health service: gRPC's own, that no caller can fill up."""

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
_RETRY_S: Final = 10.0


class Health(health.HealthServicer):  # type: ignore[misc]
    """Watchers are told of changes on `threads`; they hold none meanwhile."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        super().__init__(experimental_thread_pool=threads)
        self._counting = threading.Lock()
        self._watchers = 0

    def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[Any], None] | None = None,
    ) -> Any:
        """Tell a service's health now and when it changes; of an unknown one that it is unknown."""
        assert send_response_callback is not None, "the mark is known to gRPC since 1.20"
        with self._lock:
            is_known = request.service in self._server_status
        if not is_known:  # the library would remember the name for ever
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            send_response_callback(health_pb2.HealthCheckResponse(status=unknown))
            send_response_callback(None)
            return None
        with self._counting:
            if self._watchers >= MOST_WATCHERS:
                error = Overloaded(
                    f"{MOST_WATCHERS} callers watch the server's health, as many as may. Ask "
                    "with Check instead.",
                    retry_after_s=_RETRY_S,
                    limit=MOST_WATCHERS,
                )
                context.abort_with_status(rich_status(error))
            self._watchers += 1
        if not context.add_callback(self._left):
            self._left()
            return None
        return super().Watch(request, context, send_response_callback)

    def _left(self) -> None:
        with self._counting:
            self._watchers -= 1
