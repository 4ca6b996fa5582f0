"""The API as its protos have it: messages in, messages out, errors as classes.

For programs that pass the API on (the HTTP gateway does); `lookalike.client.Client` is
what everybody else wants.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from lookalike.client._channel import Connection
from lookalike.client._json import from_struct, from_value
from lookalike.client._security import Pem, secure
from lookalike.client._status import error_of_call

__all__ = ["RawClient", "from_struct", "from_value"]


class RawClient:
    """A lookalike server at an address, called with the messages of `lookalike.v1`.

    Any thread. Methods raise the classes of `lookalike.client.errors`.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 60.0,
        api_key: str = "",
        ca_certificate: Pem | None = None,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        server_name: str = "",
    ) -> None:
        """As of `Client`."""
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

    def begin(
        self, service: str, method: str, request: Any, *, timeout_s: float | None = None
    ) -> grpc.Future[Any]:
        """Start a unary call, "SearchService" and "Search" say; `result` reads its answer."""
        call = self._connection.method(service, method)
        future: grpc.Future[Any] = call.future(request, timeout=timeout_s or self.timeout_s)
        return future

    def result(self, call: grpc.Future[Any]) -> Any:
        """Wait for the answer of a call that was begun."""
        try:
            return call.result()
        except grpc.RpcError as error:
            raise error_of_call(error, self.address) from None

    def call(
        self, service: str, method: str, request: Any, *, timeout_s: float | None = None
    ) -> Any:
        """Do a unary call and return its answer."""
        return self.result(self.begin(service, method, request, timeout_s=timeout_s))

    def stream(
        self, service: str, method: str, request: Any, *, timeout_s: float | None = None
    ) -> Iterator[Any]:
        """Do a call with many answers; closing the iterator ends the call."""
        answers = self._connection.method(service, method)(
            request, timeout=timeout_s or self.timeout_s
        )
        try:
            yield from answers
        except grpc.RpcError as error:
            raise error_of_call(error, self.address) from None
        finally:
            answers.cancel()

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._connection.close()
