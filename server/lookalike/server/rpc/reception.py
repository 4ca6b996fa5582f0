"""The first that a call meets: a thread or a refusal, and time limits for its peer.

Refusals are made on gRPC's one serving thread, before anything of the call is read, so
that they cost little and never wait. What is let in has a thread at once: nothing
queues for one. Requests are read here, by the call's thread, under a time limit; so
every handler is a streaming one to gRPC, which would otherwise read the request by
itself, for as long as a peer likes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import grpc

from lookalike.backends.errors import LookalikeError, Overloaded, TooManyUploads
from lookalike.server.admission import Admission, Spread
from lookalike.server.limits import Limits
from lookalike.server.rpc.interceptors import HEALTH, LASTING, request_id_of
from lookalike.server.rpc.peers import Peers, Share
from lookalike.server.rpc.status import rich_status
from lookalike.server.rpc.threads import AtOnce, Threads, on
from lookalike.server.rpc.watch import LAST_PLACES, Watch

_log = logging.getLogger(__name__)

SEARCHES: Final = frozenset({"Search", "BatchSearch"})
"""Calls of which no more are let in than are answered soon."""
UPLOADS, QUERIES = "UploadItems", "StreamSearch"
_SPARE_THREADS: Final = 8
_HEALTH_THREADS: Final = 8
_HEALTH_S: Final = 2.0
"""A health check is 30 bytes; its threads are for nobody who is slower."""
_LOG_S: Final = 1.0
"""One line for all that were refused in so long."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long peers may take, in seconds; see the section `server` of the configuration."""

    default_deadline_s: float = 30.0
    max_wait_s: float = 0.025
    message_s: float = 30.0
    idle_s: float = 60.0
    handshake_s: float = 10.0
    connection_idle_s: float = 600.0
    keepalive_s: float = 20.0


class Reception(grpc.ServerInterceptor):
    """The outermost interceptor; `start` and `close` by its owner.

    Searches, other calls, calls that last, and health checks have threads of their own.
    """

    def __init__(
        self, limits: Limits, searches: Admission, threads: int, times: Times, peers: Peers
    ) -> None:
        """`searches`: who of those who search is let in."""
        lasting = limits.max_uploads + limits.max_search_streams + limits.max_lasting_calls
        self.watch = Watch()
        self.searches = searches
        self._batches = Admission(threads, "batches of searches", wait_s=times.max_wait_s)
        self._times = times
        self._peers = peers
        self._shares = {
            UPLOADS: Share(limits.max_uploads_per_peer, "uploads", TooManyUploads),
            QUERIES: Share(limits.max_search_streams_per_peer, "streams of searches"),
        }
        self._lasting_share = Share(limits.max_lasting_calls_per_peer, "calls that last")
        self._at_once = AtOnce()
        self._for_searches = Threads(threads, "search")
        self.for_calls = Threads(threads, "call")
        self._for_streams = Threads(lasting + _SPARE_THREADS, "stream")
        self._for_health = Threads(_HEALTH_THREADS, "health")
        self.for_watchers = Threads(1, "health-watch")
        self._refusals = _Refusals()
        self._wrapped: dict[str, tuple[Any, Any]] = {}

    def start(self) -> None:
        """Begin to look after peers that are slow."""
        self.watch.start()

    def close(self) -> None:
        """Let the threads go that have nothing to do."""
        self.watch.close()
        for threads in (
            self._at_once,
            self._for_searches,
            self.for_calls,
            self._for_streams,
            self._for_health,
            self.for_watchers,
        ):
            threads.shutdown(wait=False)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call on the threads for it, or one that refuses it."""
        method = handler_call_details.method
        name = method.rpartition("/")[2]
        if error := self._no_room(method, name):
            return self._refusing(method, error)
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = handler, self._received(handler, method, name)
            if len(self._wrapped) < 256 or method in self._wrapped:
                self._wrapped[method] = known
        return known[1]

    # ---------------------------------------------------------------- refusing

    def _admission(self, name: str) -> Admission | None:
        if name not in SEARCHES:
            return None
        return self.searches if name == "Search" else self._batches

    def _threads(self, method: str, name: str) -> Threads:
        if method.startswith(HEALTH):
            return self._for_health
        if name in SEARCHES:
            return self._for_searches
        if name in LASTING or name in self._shares:
            return self._for_streams
        return self.for_calls

    def _no_room(self, method: str, name: str) -> LookalikeError | None:
        """Return why there is neither a place nor a thread for a call; serving thread only."""
        threads = self._threads(method, name)
        if (admission := self._admission(name)) is not None:
            # Those with a thread count, although some are on their way to `enter`; those
            # whose request takes its time to arrive do not.
            here = max(admission.count, threads.count - self.watch.slow_readings)
            if here >= admission.limit:
                return admission.refusal(here)
        if threads.count >= threads.most - LAST_PLACES:
            self.watch.make_room(threads)
        if threads.count >= threads.most:
            return Overloaded(
                f"The server is busy with {threads.count} calls of this kind, as many as it "
                "takes. Try again in a moment.",
                retry_after_s=self._refusals.spread_s(),
                limit=threads.most,
            )
        return None

    def _refusing(self, method: str, error: LookalikeError) -> Any:
        """Return a handler that reads nothing and ends the call on the serving thread."""

        def refuse(requests: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
            self._refusals.end(method, context, error)

        return grpc.stream_unary_rpc_method_handler(on(self._at_once, refuse))

    # ---------------------------------------------------------------- letting in

    def _received(self, handler: Any, method: str, name: str) -> Any:
        if method.startswith(HEALTH) and handler.response_streaming:
            return handler  # has marks of its own
        threads = self._threads(method, name)
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream
            behaviour = self._streaming(inner, method, name, reads=handler.request_streaming)
            make = grpc.stream_stream_rpc_method_handler
        elif handler.request_streaming:  # no method of ours: the guard's refusals
            return handler._replace(stream_unary=on(self._at_once, handler.stream_unary))
        else:
            behaviour = self._answering(handler.unary_unary, method, name)
            make = grpc.stream_unary_rpc_method_handler
        return make(
            on(threads, behaviour), handler.request_deserializer, handler.response_serializer
        )

    def _answering(self, inner: Any, method: str, name: str) -> Any:
        admission, threads = self._admission(name), self._threads(method, name)
        is_health = method.startswith(HEALTH)
        message_s = _HEALTH_S if is_health else self._times.message_s

        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            request = self._first(requests, context, message_s, threads)
            if request is None:
                return None
            if admission is None:
                response = inner(request, context)
            else:
                try:
                    entered = admission.enter(_deadline(context))
                except LookalikeError as error:
                    self._refusals.end(method, context, error)
                answered = False
                try:
                    response = inner(request, context)
                    answered = True
                finally:
                    admission.leave(entered, answered=answered)
            self.watch.until_delivered(context, message_s)
            return response

        return handle

    def _streaming(self, inner: Any, method: str, name: str, *, reads: bool) -> Any:
        share = self._lasting_share if name in LASTING else self._shares.get(name)
        threads = self._threads(method, name)
        watch, times = self.watch, self._times

        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                with share.of(self._peers.of(context)) if share else nullcontext():
                    if not reads:
                        first = self._first(requests, context, times.message_s, threads)
                        if first is None:
                            return
                        responses = inner(first, context)
                    elif name == UPLOADS:  # knows best when it waits for its peer
                        responses = inner(requests, context)
                    else:
                        heard = watch.read(requests, context, times.idle_s)
                        responses = inner(heard, context)
                    yield from watch.write(responses, context, times.message_s)
            except (TooManyUploads, Overloaded) as error:
                self._refusals.end(method, context, error)

        return handle

    def _first(
        self,
        requests: Iterator[Any],
        context: grpc.ServicerContext,
        seconds: float,
        threads: Threads,
    ) -> Any:
        """Return the one request of a call, or None if none came; raises if the peer left."""
        wait = self.watch.begin(context, seconds, is_reading=True, place=threads)
        try:
            request = next(requests, None)
        finally:
            self.watch.end(wait)
        if request is None and context.is_active():
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "The call needs exactly one request.")
        return request


class _Refusals:
    """Ends calls with an error, and has a line in the log for many of them."""

    def __init__(self) -> None:
        self._spread = Spread()
        self._count = 0
        self._said_at = 0.0

    def spread_s(self) -> float:
        return self._spread.of(0.1)

    def end(self, method: str, context: grpc.ServicerContext, error: LookalikeError) -> NoReturn:
        request_id = request_id_of(context)
        self._count += 1
        now = time.monotonic()
        if now - self._said_at > _LOG_S:
            count, self._count, self._said_at = self._count, 0, now
            _log.info(
                "refused method=%s reason=%s count=%d request_id=%s",
                method.removeprefix("/"),
                error.reason,
                count,
                request_id,
            )
        context.abort_with_status(rich_status(error, request_id))
        raise AssertionError("gRPC raises to end a call")


def _deadline(context: grpc.ServicerContext) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining
