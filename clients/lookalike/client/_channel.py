"""The connection: options, retries, health. No call of the API is known here."""

from __future__ import annotations

import json
import threading
from typing import Any

import grpc

from lookalike.client._results import Health
from lookalike.client._security import Security, secure
from lookalike.client.errors import LookalikeError
from lookalike.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    embed_service_pb2,
    embed_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
)

MAX_MESSAGE_BYTES = 64 * 2**20
"""As the server's own; gRPC's 4 MiB is less than one picture may have."""

_FILES = (
    admin_service_pb2,
    embed_service_pb2,
    index_service_pb2,
    search_service_pb2,
    system_service_pb2,
)
_STUBS = {
    "AdminService": admin_service_pb2_grpc.AdminServiceStub,
    "EmbedService": embed_service_pb2_grpc.EmbedServiceStub,
    "IndexService": index_service_pb2_grpc.IndexServiceStub,
    "SearchService": search_service_pb2_grpc.SearchServiceStub,
    "SystemService": system_service_pb2_grpc.SystemServiceStub,
}


def retryable_methods() -> list[dict[str, str]]:
    """Return the methods that may be sent twice, as the protos mark them.

    Streams are left out. An upload is replayed by what was acknowledged. And where the
    server dies in the middle of its own stream, a call with a policy to send it again
    waits for ever, past its deadline (grpcio 1.85.1: 46 of 144 calls to a server that was
    killed; without a policy none of 600). `Transport._stream` sends those again.
    """
    return [
        {"service": service.full_name, "method": method.name}
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.GetOptions().idempotency_level
        and not (method.client_streaming or method.server_streaming)
    ]


def service_config() -> str:
    """Return gRPC's settings for retries: UNAVAILABLE only, with back-off and a budget.

    The budget (retryThrottling) stops retries while more than about one call in ten
    fails, so that retries never add to an overload.
    """
    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "methodConfig": [{"name": retryable_methods(), "retryPolicy": policy}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }
    )


def channel_options() -> list[tuple[str, Any]]:
    """Return the options of the channel.

    Keepalive: 60 s and 20 s. Servers cut off clients that ping more often than they
    allow (300 s by default in gRPC while nothing is under way), so only with calls.
    """
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", service_config()),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Also the time that one attempt to connect has: TCP, HTTP/2 and TLS take several
        # rounds, of a second and more where the way is long or a machine busy.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A client of one address in one process shares no connection with another one.
        ("grpc.use_local_subchannel_pool", 1),
    ]


class Connection:
    """One channel, opened when first used. Any thread."""

    def __init__(self, address: str, security: Security | None = None) -> None:
        self.address = address
        self._security = security or secure(address)
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stubs: dict[str, Any] = {}
        self._is_closed = False

    def method(self, service: str, name: str) -> Any:
        """Return the callable of an RPC, IndexService.GetItem say."""
        with self._lock:
            channel = self._open()
            if service not in self._stubs:
                self._stubs[service] = _STUBS[service](channel)
        return getattr(self._stubs[service], name)

    def upload(self) -> Any:
        """Return the callable of IndexService.UploadItems; it takes messages in wire form."""
        with self._lock:
            return self._open().stream_stream(
                "/lookalike.v1.IndexService/UploadItems",
                request_serializer=None,
                response_deserializer=index_service_pb2.UploadItemsResponse.FromString,
            )

    def health(self, service: str, timeout_s: float) -> Health:
        """Ask grpc.health.v1; raises grpc.RpcError.

        The two messages have one field each and are read and written here, which
        spares every client the package that has their classes.
        """
        with self._lock:
            check: Any = self._open().unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=lambda name: _string_field(name.encode()),
                response_deserializer=lambda data: data,
            )
        answer: bytes = check(service, timeout=timeout_s)
        known = {b"\x08\x01": Health.SERVING, b"\x08\x02": Health.NOT_SERVING}
        return known.get(answer, Health.UNKNOWN)

    def close(self) -> None:
        """Close the channel; calls under way fail."""
        with self._lock:
            channel, self._channel, self._is_closed = self._channel, None, True
            self._stubs.clear()
        if channel is not None:
            channel.close()

    def _open(self) -> grpc.Channel:
        if self._is_closed:
            raise closed()
        if self._channel is None:
            self._channel = self._security.channel(channel_options())
        return self._channel


def closed() -> LookalikeError:
    """Return the error of calls over a connection that is closed."""
    return LookalikeError("This client is closed; make a new one.", reason="CLIENT_CLOSED")


def _string_field(data: bytes) -> bytes:
    """Field 1 as a string of less than 128 bytes, or nothing if it is empty."""
    return b"\n" + bytes([len(data)]) + data if data else b""
