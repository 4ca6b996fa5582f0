"""What happens around every call: request ids, one log line, errors, admission.

Interceptors run on gRPC's one serving thread, so this one only wraps the
handler; its work is done on the thread of the call.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import grpc

from lookalike.backends.errors import Draining, Internal, LookalikeError, Overloaded
from lookalike.server.rpc.status import code_of, rich_status

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_OURS = "/lookalike.v1."
_HEALTH = "/grpc.health.v1."
_LASTING = frozenset(
    {"WatchJob", "FindDuplicates", "Verify", "Backup", "ExportItems", "ServerReflectionInfo"}
)
"""Methods whose calls last as long as their callers like."""
_BOUNDED_ELSEWHERE = frozenset({"UploadItems", "StreamSearch"})
_CLEAN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_FAR_S = 10 * 365 * 86400.0


class Slots:
    """A number of places that calls take without waiting. Any thread."""

    def __init__(self, count: int, what: str) -> None:
        self.count = count
        self._what = what
        self._used = 0
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place. Raises Overloaded at once if there is none."""
        with self._lock:
            if self._used >= self.count:
                raise Overloaded(
                    f"The server is busy with {self._used} {self._what}, as many as it takes. "
                    "Try again in a moment.",
                    retry_after_s=0.5,
                    limit=self.count,
                )
            self._used += 1
        try:
            yield
        finally:
            with self._lock:
                self._used -= 1


class CallGuard(grpc.ServerInterceptor):
    """The outermost interceptor; `calls` bounds short calls, `streams` those that last.

    More calls than that are refused at once, on one of the pool's spare threads,
    so that refusals and health checks always get through. Upload streams have a
    bound of their own. Health calls are left alone: their handlers have marks
    that wrapping would lose.
    """

    def __init__(self, calls: Slots, streams: Slots) -> None:
        self._calls = calls
        self._streams = streams
        self._traffic = _Traffic()

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those under way; return whether all ended in time.

        Stopping gRPC's server at once would do the first with CANCELLED for calls that
        cross it on the wire, which clients rightly do not try again.
        """
        return self._traffic.drain(timeout_s)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler that serves this call."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        slots = self._slots(method.rpartition("/")[2])
        kinds = ("unary", "stream")
        kind = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
        wrap = _stream if handler.response_streaming else _unary
        behaviour = wrap(getattr(handler, kind), method, slots, self._traffic)
        return handler._replace(**{kind: behaviour})

    def _slots(self, name: str) -> Slots | None:
        if name in _BOUNDED_ELSEWHERE:
            return None
        return self._streams if name in _LASTING else self._calls


class _Traffic:
    """The calls under way, and whether more may come."""

    def __init__(self) -> None:
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a call. Raises Draining when no more may come."""
        with self._changed:
            if self._closed:
                raise Draining(
                    "The server is going down; call again when it is back.", retry_after_s=1.0
                )
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: self._count == 0, timeout_s)


def _unary(
    behaviour: Callable[[Any, grpc.ServicerContext], Any],
    method: str,
    slots: Slots | None,
    traffic: _Traffic,
) -> Callable[[Any, grpc.ServicerContext], Any]:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        call = _Call(method, context)
        call.count(request)
        with call.guarded(), traffic.one(), slots.one() if slots else nullcontext():
            return behaviour(request, context)

    return handle


def _stream(
    behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
    method: str,
    slots: Slots | None,
    traffic: _Traffic,
) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        call = _Call(method, context)
        with call.guarded(), traffic.one(), slots.one() if slots else nullcontext():
            for response in behaviour(request, context):
                call.count(response)
                yield response

    return handle


class _Call:
    """One call: its id, its clock, its end."""

    def __init__(self, method: str, context: grpc.ServicerContext) -> None:
        self._method = method
        self._context = context
        self._started = time.monotonic()
        self._items = 0
        self.request_id = _request_id(context)
        context.set_trailing_metadata(((REQUEST_ID, self.request_id),))

    def count(self, message: Any) -> None:
        """Add the items of a message to those of the log line."""
        for name in ("items", "inputs", "queries", "ids"):
            if (found := getattr(message, name, None)) is not None:
                self._items += len(found)
        if hasattr(message, "acks"):
            self._items += len(message.acks.acks)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what is raised into a status, and log the end of the call."""
        try:
            yield
        except LookalikeError as error:
            self._fail(error)
        except GeneratorExit:
            self._log(grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:
            self._unexpected(error)
        else:
            self._log(self._context.code() or grpc.StatusCode.OK)  # type: ignore[attr-defined]

    def _unexpected(self, error: Exception) -> None:
        aborted = self._context.code()  # type: ignore[attr-defined]
        if aborted is not None and type(error) is Exception and not error.args:
            self._log(aborted)  # a deliberate context.abort
            raise error
        if not self._context.is_active():
            self._log(grpc.StatusCode.CANCELLED)  # the caller left; the rest is its echo
            raise error
        logger.error(
            "unexpected error: method=%s request_id=%s",
            self._method,
            self.request_id,
            exc_info=error,
        )
        self._fail(
            Internal(
                f"internal error, request id {self.request_id}; the server's log has the cause",
                request_id=self.request_id,
            )
        )

    def _fail(self, error: LookalikeError) -> None:
        self._log(code_of(type(error)), error.reason)
        self._context.abort_with_status(rich_status(error, self.request_id))

    def _log(self, code: grpc.StatusCode, reason: str = "") -> None:
        level = logging.INFO if self._method.startswith(_OURS) else logging.DEBUG
        logger.log(
            level,
            "call method=%s code=%s ms=%.1f items=%d request_id=%s%s",
            self._method.removeprefix("/"),
            code.name,
            (time.monotonic() - self._started) * 1000,
            self._items,
            self.request_id,
            f" reason={reason}" if reason else "",
        )


def _request_id(context: grpc.ServicerContext) -> str:
    """Return the caller's own id if it is fit for a log line, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _CLEAN_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


def deadline_of(context: grpc.ServicerContext, default_s: float) -> float:
    """Return when the caller gives up, as `time.monotonic()`; without a deadline, the default."""
    remaining = context.time_remaining()
    if remaining is None or remaining > _FAR_S:
        remaining = default_s
    return time.monotonic() + remaining
