"""What every method of the client rests on: a connection, and how calls are done over it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from lookalike.client._calls import Call
from lookalike.client._channel import Connection, closed
from lookalike.client._security import Pem, secure
from lookalike.client._status import error_of_call

T = TypeVar("T")

DEFAULT_ADDRESS = "127.0.0.1:50051"
_PAUSES_S = (0.1, 0.3, 1.0)
"""Before a stream is asked for again; as long as gRPC waits with other calls."""


class Transport:
    """A connection to the server at an address. Any thread."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 60.0,
        api_key: str = "",
        ca_certificate: Pem | None = None,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        server_name: str = "",
    ) -> None:
        """Say where the server is, and how to reach it safely; nothing is sent yet.

        `address`: "HOST:PORT", "grpcs://HOST:PORT" for TLS, or "grpc://HOST:PORT" for none
        on a way that is safe. `ca_certificate`: the roots of the server's certificate, a
        file in PEM or its bytes; otherwise the public ones. `client_certificate` and
        `client_key`: for servers that ask for them. `server_name`: the name in the
        server's certificate, where it is not the one in the address.

        Raises:
            InvalidArgument: these do not go together, or the key would go unencrypted to
                another machine.
        """
        self.address = address
        self.timeout_s = timeout_s
        security = secure(
            address,
            api_key=api_key,
            ca_certificate=ca_certificate,
            client_certificate=client_certificate,
            client_key=client_key,
            server_name=server_name,
        )
        self._connection = Connection(address, security)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.address!r})"

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._connection.close()

    def _call(self, call: Call[T], timeout_s: float | None = None) -> T:
        method = self._connection.method(call.service, call.method)
        try:
            return call.parse(method(call.request, timeout=timeout_s or self.timeout_s))
        except grpc.RpcError as error:
            raise error_of_call(error, self.address) from None

    def _stream(self, call: Call[Any], timeout_s: float | None) -> Iterator[Any]:
        """Give the server's messages; a call that none came of is made again a few times.

        gRPC's own way to do that is not used: see `retryable_methods`.
        """
        pauses_s = iter(_PAUSES_S if isinstance(call.request, Message) else ())
        while True:
            method = self._connection.method(call.service, call.method)
            try:
                answers, begun = method(call.request, timeout=timeout_s), False
            except ValueError:  # another thread has closed the channel since
                raise closed() from None
            try:
                for answer in answers:
                    begun = True
                    yield answer
                return
            except grpc.RpcError as error:
                pause_s = next(pauses_s, None)
                if begun or pause_s is None or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise error_of_call(error, self.address) from None
            finally:
                answers.cancel()
            time.sleep(pause_s)

    def _pages(self, page: Callable[[str], Call[Any]], field: str) -> Iterator[Any]:
        token = ""
        while True:
            answer = self._call(page(token))
            yield from getattr(answer, field)
            token = answer.next_page_token
            if not token:
                return
