"""What happens around every call: request ids, one log line, errors, admission.

Interceptors run on gRPC's one serving thread, so this one only wraps the
handler, once for each method; its work is done on the thread of the call. That is
20 us of CPU time where wrapping anew, uuid4 and generators for `with` took 70.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from lookalike.backends.errors import Internal, LookalikeError, Overloaded
from lookalike.server.deadlines import Until
from lookalike.server.rpc import reading
from lookalike.server.rpc.gates import Gate, Gates, only_reads
from lookalike.server.rpc.status import code_of, rich_status

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
_OURS = "/lookalike.v1."
HEALTH = "/grpc.health.v1."
LASTING = frozenset(
    {"WatchJob", "FindDuplicates", "Verify", "Backup", "ExportItems", "ServerReflectionInfo"}
)
"""Methods whose calls last as long as their callers like."""
_BOUNDED_ELSEWHERE = frozenset({"UploadItems", "StreamSearch"})
_NOT_OFFERED = "/grpc.health.v1.Health/List"
"""gRPC's library answers it, to whoever asks, with a traceback in the log."""
UNKNOWN_SERVICE = health_pb2.HealthCheckRequest(service="what the message does not say")
"""What a health check of bytes that are no message is taken for: NOT_FOUND."""
_CLEAN_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_FAR_S = 10 * 365 * 86400.0
_SLOW_S = 1.0
"""Calls that only read and go well are in the log at INFO if they took longer. A line for
each took 30 us, of 600 that the server spends on a search."""


class Slots:
    """A number of places that calls take without waiting. Any thread.

    `with slots:` holds a place; it raises Overloaded at once if there is none.
    """

    def __init__(self, count: int, what: str) -> None:
        self.count = count
        self._what = what
        self._used = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._used >= self.count:
                raise Overloaded(
                    f"The server is busy with {self._used} {self._what}, as many as it takes. "
                    "Try again in a moment.",
                    retry_after_s=0.5,
                    limit=self.count,
                )
            self._used += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        self.gates = Gates()
        self._wrapped: dict[str, tuple[Any, Any]] = {}
        """By method: its handler, and that wrapped. gRPC gives the same one for each call."""

    def drain(self, timeout_s: float) -> bool:
        """Refuse new calls and wait for those under way; return whether all ended in time.

        Stopping gRPC's server at once would do the first with CANCELLED for calls that
        cross it on the wire, which clients rightly do not try again.
        """
        return self.gates.drain(timeout_s)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler that serves this call."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method == _NOT_OFFERED:
            return None
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, self._wrap(handler, method)
        return known[1]

    def _wrap(self, handler: Any, method: str) -> Any:
        if method.startswith(HEALTH):
            return handler._replace(
                request_deserializer=reading.reading(handler.request_deserializer, UNKNOWN_SERVICE)
            )
        slots = self._slots(method.rpartition("/")[2])
        kinds = ("unary", "stream")
        kind = f"{kinds[handler.request_streaming]}_{kinds[handler.response_streaming]}"
        wrap = _stream if handler.response_streaming else _unary
        behaviour = wrap(getattr(handler, kind), method, slots, self.gates.of(method))
        read = handler.request_deserializer and reading.reading(handler.request_deserializer)
        return handler._replace(**{kind: behaviour, "request_deserializer": read})

    def _slots(self, name: str) -> Slots:
        if name in _BOUNDED_ELSEWHERE:
            return Slots(sys.maxsize, "calls")
        return self._streams if name in LASTING else self._calls


def _unary(
    behaviour: Callable[[Any, grpc.ServicerContext], Any],
    method: str,
    slots: Slots,
    gate: Gate,
) -> Callable[[Any, grpc.ServicerContext], Any]:
    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        call = _Call(method, context, request)
        try:
            with gate, slots:
                reading.check(request, method)
                response = behaviour(request, context)
        except Exception as error:
            call.failed(error)
        call.ended()
        return response

    return handle


def _stream(
    behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
    method: str,
    slots: Slots,
    gate: Gate,
) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        call = _Call(method, context)
        try:
            with gate, slots:
                if isinstance(request, Iterator):
                    request = reading.checked(request, method)
                else:
                    reading.check(request, method)
                for response in behaviour(request, context):
                    call.count(response)
                    yield response
        except GeneratorExit:
            call.log(grpc.StatusCode.CANCELLED)
            raise
        except Exception as error:
            call.failed(error)
        call.ended()

    return handle


class _Call:
    """One call: its id, its clock, its end."""

    def __init__(
        self, method: str, context: grpc.ServicerContext, request: Message | None = None
    ) -> None:
        self._method = method
        self._context = context
        self._request = request
        self._started = time.monotonic()
        self._items = 0
        self.request_id = request_id_of(context)
        context.set_trailing_metadata(((REQUEST_ID, self.request_id),))

    def count(self, message: Message) -> None:
        """Add the items of a message to those of the log line."""
        for path in _counted(message.DESCRIPTOR):
            found: Any = message
            for field in path:
                found = getattr(found, field)
            self._items += len(found)

    def ended(self) -> None:
        """Log the end of a call that went well, or as its handler or its caller ended it."""
        code = self._context.code()  # type: ignore[attr-defined]
        if code is None:
            active = self._context.is_active()
            code = grpc.StatusCode.OK if active else grpc.StatusCode.CANCELLED
        self.log(code)

    def failed(self, error: Exception) -> NoReturn:
        """Log the end of the call, and raise what gRPC turns into its status."""
        if isinstance(error, LookalikeError):
            self._fail(error)
        self._unexpected(error)

    def _unexpected(self, error: Exception) -> NoReturn:
        aborted = self._context.code()  # type: ignore[attr-defined]
        if aborted is not None and type(error) is Exception and not error.args:
            self.log(aborted)  # a deliberate context.abort
            raise error
        if not self._context.is_active():
            self.log(grpc.StatusCode.CANCELLED)  # the caller left; the rest is its echo
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

    def _fail(self, error: LookalikeError) -> NoReturn:
        self.log(code_of(type(error)), error.reason)
        self._context.abort_with_status(rich_status(error, self.request_id))
        raise AssertionError("gRPC raises to end a call")

    def log(self, code: grpc.StatusCode, reason: str = "") -> None:
        spent = time.monotonic() - self._started
        level = self._level(code, spent)
        if not logger.isEnabledFor(level):
            return
        if isinstance(self._request, Message):
            self.count(self._request)
        logger.log(
            level,
            "call method=%s code=%s ms=%.1f items=%d request_id=%s%s",
            self._method.removeprefix("/"),
            code.name,
            spent * 1000,
            self._items,
            self.request_id,
            f" reason={reason}" if reason else "",
        )

    def _level(self, code: grpc.StatusCode, spent_s: float) -> int:
        if not self._method.startswith(_OURS):
            return logging.DEBUG
        if code is grpc.StatusCode.OK and spent_s <= _SLOW_S and only_reads(self._method):
            return logging.DEBUG
        return logging.INFO


@functools.cache
def _counted(kind: Descriptor) -> tuple[tuple[str, ...], ...]:
    """Return where in messages of a kind the items are that the log line counts."""
    fields = kind.fields_by_name
    named = ("items", "inputs", "queries", "ids")
    paths = [(name,) for name in named if name in fields and fields[name].is_repeated]
    return (*paths, *([("acks", "acks")] if "acks" in fields else []))


def request_id_of(context: grpc.ServicerContext) -> str:
    """Return the caller's own id if it is fit for a log line, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _CLEAN_ID.fullmatch(value):
            return value
    return os.urandom(16).hex()


def deadline_of(context: grpc.ServicerContext, default_s: float) -> Until:
    """Return when the caller gives up, or until it leaves; without a deadline, the default."""
    remaining = context.time_remaining()
    if remaining is None or remaining > _FAR_S:
        remaining = default_s
    until = Until(time.monotonic() + remaining)
    if not context.add_callback(until.leave):
        until.leave()
    return until
