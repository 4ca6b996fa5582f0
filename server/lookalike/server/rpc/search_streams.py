"""SearchService.StreamSearch: queries and answers in turn, on the one thread of the call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc

from lookalike.backends.errors import Draining, Overloaded
from lookalike.v1 import search_service_pb2 as pb

_RETRY_S = 5.0


class SearchStreams:
    """The streams of searches of a server: how many there are, and how they end. Any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: set[grpc.ServicerContext] = set()
        self._count = 0
        self._draining = False

    def run(
        self,
        requests: Iterator[pb.StreamSearchRequest],
        context: grpc.ServicerContext,
        answer: Callable[[pb.SearchRequest, pb.BatchSearchResult], None],
    ) -> Iterator[pb.StreamSearchResponse]:
        """Serve one stream. Raises Overloaded, Draining."""
        self._enter()
        try:
            while (request := self._next(requests, context)) is not None:
                response = pb.StreamSearchResponse(tag=request.tag)
                answer(request.search, response.result)
                yield response
        finally:
            with self._lock:
                self._count -= 1

    def drain(self) -> None:
        """Refuse new streams, cancel those that wait for a query, end others with their answer.

        A thread that waits for a query cannot be given a reason to leave, so its caller
        sees CANCELLED.
        """
        with self._lock:
            self._draining = True
            for context in self._idle:
                context.cancel()

    def _enter(self) -> None:
        with self._lock:
            self._check_open()
            if self._count >= self._most:
                raise Overloaded(
                    f"{self._count} streams of searches are open, which is the most. Try again "
                    "when one has ended, or use Search.",
                    retry_after_s=_RETRY_S,
                    limit=self._most,
                )
            self._count += 1

    def _check_open(self) -> None:
        if self._draining:
            raise Draining(
                "The server is going down; call again when it is back.", retry_after_s=_RETRY_S
            )

    def _next(
        self, requests: Iterator[pb.StreamSearchRequest], context: grpc.ServicerContext
    ) -> pb.StreamSearchRequest | None:
        """Wait for a query; None when the caller has no more."""
        with self._lock:
            self._check_open()
            self._idle.add(context)
        try:
            return next(requests, None)
        finally:
            with self._lock:
                self._idle.discard(context)
