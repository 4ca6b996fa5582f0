"""Who may call what: API keys are checked before a request's body is read.

An interceptor sees method and metadata alone. Where they do not suffice, it puts a
handler in the place of the real one that reads nothing and ends the call. Of the server's
CPU time, a call that lists no collections took 300 us without keys, 340 with a key that may
(3 of them here, the rest is gRPC's for one more header and interceptor), and 320 refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from lookalike.backends.errors import (
    CollectionNotAllowed,
    FailedPrecondition,
    KeyInvalid,
    KeyMissing,
    LookalikeError,
    NotFound,
    ScopeMissing,
)
from lookalike.server.keys import ApiKey, KeyRing, Scope, read_keys
from lookalike.server.rpc.interceptors import request_id_of
from lookalike.server.rpc.ports import Jobs
from lookalike.server.rpc.scopes import collections_of, is_of_a_job, needs_all
from lookalike.server.rpc.status import code_of, rich_status
from lookalike.server.watching import FileWatch

_log = logging.getLogger(__name__)

_METADATA = "authorization"
_SCHEME = "bearer"
_LINES_A_SECOND = 10
"""Of refusals in the log: strangers must not fill it. What is left out is counted."""


class Keys:
    """The keys in force, and what time it is. Any thread."""

    def __init__(self, ring: KeyRing, clock: Callable[[], float] = time.time) -> None:
        self._ring = ring
        self._clock = clock

    def replace(self, ring: KeyRing) -> None:
        """Take other keys from now on."""
        self._ring = ring

    def admit(self, metadata: Any) -> ApiKey:
        """Return the key that a call has. Raises KeyMissing, KeyInvalid, KeyExpired."""
        return self._ring.check(_presented(metadata), self._clock())

    def confirm(self, key: ApiKey) -> None:
        """Raise KeyInvalid or KeyExpired unless the key of a call under way still holds."""
        self._ring.confirm(key, self._clock())

    def id_of(self, metadata: Any) -> str:
        """Return the id of the key that a call has, if it is a known one, for the log."""
        try:
            return self._ring.id_of(_presented(metadata))
        except LookalikeError:
            return ""

    def collections(self, metadata: Any) -> frozenset[str] | None:
        """Return the only collections that a caller may see; None: all of them."""
        try:
            names = self.admit(metadata).collections
        except LookalikeError:  # revoked since the call was admitted
            return frozenset()
        return frozenset(names) or None


class KeysFile:
    """Keeps `keys` as a file has them. `start` and `close` by one owner."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Read the file. Raises FailedPrecondition, which names it."""
        self._path = path
        self._watch = FileWatch([path], self.reload)
        known = read_keys(path)
        self.keys = Keys(KeyRing(known), clock)
        if not known:
            _log.warning("there are no keys, so nobody may call; make some: lookalike keys create")

    def start(self) -> None:
        """Begin to look for changes."""
        self._watch.start()

    def close(self) -> None:
        """Stop looking."""
        self._watch.close()

    def reload(self) -> None:
        """Read the file again. One that is damaged changes nothing."""
        try:
            known = read_keys(self._path)
        except FailedPrecondition as error:
            bare = error.message.replace(str(self._path), self._path.name)
            _log.error("the keys in force stay: %s", bare)
            return
        self.keys.replace(KeyRing(known))
        _log.info("keys read anew count=%d", len(known))


def _presented(metadata: Any) -> str:
    values = [value for name, value in metadata or () if name == _METADATA]
    if not values:
        raise KeyMissing(
            'This server asks for an API key. Send "authorization: Bearer lk_..."; in Python '
            "Client(api_key=...), on the command line LOOKALIKE_API_KEY or --api-key-file."
        )
    scheme, _, key = str(values[0]).partition(" ")
    if len(values) > 1 or scheme.lower() != _SCHEME or not key.strip():
        raise KeyInvalid('The authorization is not of the form "Bearer lk_...", once.')
    return key.strip()


class AccessGuard(grpc.ServerInterceptor):
    """Lets calls through whose key allows them; the outermost interceptor.

    `scopes` by "/package.Service/Method" or "/package.Service/"; a method that is in it
    neither way needs everything.
    """

    def __init__(self, keys: Keys, scopes: Mapping[str, Scope], jobs: Jobs) -> None:
        self._keys = keys
        self._scopes = scopes
        self._jobs = jobs
        self._lines = _Sparing()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, or one that refuses it."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        scope = self._scope(method)
        if scope is Scope.NONE:
            return handler
        try:
            key = self._keys.admit(handler_call_details.invocation_metadata)
            _check_scope(key, scope, method)
        except LookalikeError as error:
            return self._refusing(method, error)
        return self._bound(handler, method, key)

    def _scope(self, method: str) -> Scope:
        scope = self._scopes.get(method)
        if scope is None:
            scope = self._scopes.get(method[: method.rfind("/") + 1], Scope.ADMIN)
        return scope

    # ------------------------------------------------------------------ refusing

    def _refusing(self, method: str, error: LookalikeError) -> Any:
        """Return a handler that reads nothing: gRPC reads a stream only when it is asked to."""

        def refuse(requests: Iterator[Any], context: grpc.ServicerContext) -> NoReturn:
            self._end(method, context, error)

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _end(self, method: str, context: grpc.ServicerContext, error: LookalikeError) -> NoReturn:
        request_id = request_id_of(context)
        left_out = self._lines.take()
        if left_out is not None:
            _log.info(
                "refused method=%s code=%s reason=%s key=%s peer=%s request_id=%s%s",
                method.removeprefix("/"),
                code_of(type(error)).name,
                error.reason,
                self._keys.id_of(context.invocation_metadata()) or "-",
                context.peer(),
                request_id,
                f" left_out={left_out}" if left_out else "",
            )
        context.abort_with_status(rich_status(error, request_id))
        raise AssertionError("gRPC raises to end a call")

    # -------------------------------------------------------- once there are messages

    def _bound(self, handler: Any, method: str, key: ApiKey) -> Any:
        """Return the handler, bound to what the key is for and how long it holds."""
        if handler.request_streaming:
            kind = "stream_stream" if handler.response_streaming else "stream_unary"
            return handler._replace(**{kind: self._reading(getattr(handler, kind), method, key)})
        if handler.response_streaming:
            return handler._replace(unary_stream=self._answering(handler.unary_stream, method, key))
        if not key.collections:
            return handler
        return handler._replace(unary_unary=self._asked_once(handler.unary_unary, method, key))

    def _asked_once(self, behaviour: Any, method: str, key: ApiKey) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self._check_or_end(method, request, context, key)
            return behaviour(request, context)

        return handle

    def _answering(self, behaviour: Any, method: str, key: ApiKey) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self._check_or_end(method, request, context, key)
            for response in behaviour(request, context):
                try:
                    self._keys.confirm(key)
                except LookalikeError as error:
                    self._end(method, context, error)
                yield response

        return handle

    def _reading(self, behaviour: Any, method: str, key: ApiKey) -> Any:
        def read(requests: Iterator[Any]) -> Iterator[Any]:
            for request in requests:
                self._keys.confirm(key)
                self._check(method, request, key)
                yield request

        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            return behaviour(read(requests), context)

        return handle

    def _check_or_end(
        self, method: str, request: Any, context: grpc.ServicerContext, key: ApiKey
    ) -> None:
        try:
            self._check(method, request, key)
        except LookalikeError as error:
            self._end(method, context, error)

    def _check(self, method: str, request: Any, key: ApiKey) -> None:
        """Raise CollectionNotAllowed unless the key is for all that a request is about."""
        if not key.collections:
            return
        if needs_all(method):
            raise _not_allowed("This call is about all collections, and the key for some")
        if isinstance(request, Message):
            for name in self._named(method, request):
                if name not in key.collections:
                    raise _not_allowed(
                        f"The key is not for the collection {name[:80]!r}"
                        if name
                        else "Without a collection, this call is about all of them"
                    )

    def _named(self, method: str, request: Any) -> Iterator[str]:
        if not is_of_a_job(method):
            yield from collections_of(method, request)
            return
        try:
            yield self._jobs.get(request.id).collection
        except NotFound:
            return  # its handler says so


def _check_scope(key: ApiKey, scope: Scope, method: str) -> None:
    if key.scope < scope:
        needed = scope.name.lower()
        raise ScopeMissing(
            f"This call needs a key with the scope {needed!r}, and the one it has may only "
            f"{key.scope.name.lower()!r}. Use another, or ask the operator for one.",
            scope=needed,
            method=method.rpartition("/")[2],
        )


def _not_allowed(what: str) -> CollectionNotAllowed:
    return CollectionNotAllowed(
        f"{what}. ListCollections shows what it is for; the operator makes keys for others."
    )


class _Sparing:
    """Says which of many lines may be written. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second = 0
        self._used = 0
        self._left_out = 0

    def take(self) -> int | None:
        """Return how many were left out since the last, or None if this one is as well."""
        second = int(time.monotonic())
        with self._lock:
            if second != self._second:
                self._second, self._used = second, 0
            if self._used >= _LINES_A_SECOND:
                self._left_out += 1
                return None
            self._used += 1
            left_out, self._left_out = self._left_out, 0
            return left_out
