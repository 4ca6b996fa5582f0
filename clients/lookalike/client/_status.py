"""gRPC failures to errors: the one place of the client that reads status codes."""

from __future__ import annotations

import re
from typing import Any, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from lookalike.client.errors import (
    Cancelled,
    DeadlineExceeded,
    LookalikeError,
    ServerUnavailable,
    make_error,
)

DOMAIN = "lookalike"
"""The domain of the server's ErrorInfo."""
_DETAILS_KEY = "grpc-status-details-bin"


def error_of_call(error: grpc.RpcError, address: str) -> LookalikeError:
    """Return the error of a call that failed as a whole.

    What did not come from a lookalike server (no ErrorInfo of its domain) is told from
    the gRPC code: UNAVAILABLE means that no server answers at `address`.
    """
    call = cast(Any, error)
    code, text = call.code(), call.details() or ""
    info, field, retry_after_s = _details(call)
    if info is not None:
        return make_error(
            code.value[0],
            info.reason,
            text,
            field=field,
            retry_after_s=retry_after_s,
            metadata=dict(info.metadata),
        )
    return _foreign_error(code, text, address)


def is_from_server(error: grpc.RpcError) -> bool:
    """Tell whether a lookalike server explained this failure, or the connection broke."""
    return _details(cast(Any, error))[0] is not None


def _foreign_error(code: grpc.StatusCode, text: str, address: str) -> LookalikeError:
    match code:
        case grpc.StatusCode.UNAVAILABLE if _is_of_tls(text):
            return ServerUnavailable(
                f"There is no safe connection to {address} ({_why_of_tls(text)}). Give the "
                "server's CA with ca_certificate or --ca, its name with server_name where the "
                "address has another, and a client certificate where it asks for one.",
                metadata={"address": address, "details": text},
            )
        case grpc.StatusCode.UNAVAILABLE:
            return ServerUnavailable(
                f"No server answers at {address}; start one with: lookalike serve",
                metadata={"address": address, "details": text},
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(
                f"The server at {address} did not answer in time; allow more with timeout_s, "
                "or look whether it is overloaded.",
                metadata={"address": address},
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return make_error(
                12,
                "UNIMPLEMENTED",
                f"The server at {address} does not know this call; is it an older lookalike, "
                "or another program?",
                metadata={"address": address},
            )
        case grpc.StatusCode.CANCELLED:
            return Cancelled("The call was cancelled.")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "message" in text.lower():
            return make_error(
                8, "RESOURCE_EXHAUSTED", f"{text}; send fewer or smaller things in one call."
            )
        case _:
            return make_error(code.value[0], "", f"The call failed at {address}: {text or code}")


def _is_of_tls(text: str) -> bool:
    signs = ("handshake", "SSL_ERROR", "Hostname Verification", "Peer name", "certificate")
    return any(sign in text for sign in signs)


def _why_of_tls(text: str) -> str:
    """Return OpenSSL's words for what is wrong, as far as gRPC passes them on."""
    if "Hostname Verification" in text or "is not in peer certificate" in text:
        return "its certificate is for another name"
    found = re.search(r"OPENSSL_internal:(\w+)", text)
    return found[1].replace("_", " ").lower() if found else "the TLS handshake failed"


def _details(call: Any) -> tuple[error_details_pb2.ErrorInfo | None, str, float | None]:
    info: error_details_pb2.ErrorInfo | None = None
    field, retry_after_s = "", None
    for detail in _status(call).details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            candidate = _unpacked(detail, error_details_pb2.ErrorInfo())
            info = candidate if candidate.domain == DOMAIN else info
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            for violation in _unpacked(detail, error_details_pb2.BadRequest()).field_violations:
                field = field or violation.field
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = _unpacked(detail, error_details_pb2.RetryInfo()).retry_delay
            retry_after_s = delay.seconds + delay.nanos / 1e9
    return info, field, retry_after_s


def _status(call: Any) -> status_pb2.Status:
    """Read the details ourselves: a proxy's odd ones must not hide the failure."""
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except Exception:  # DecodeError is the runtime's own class; nothing else can help
                break
    return status_pb2.Status()


def _unpacked(detail: AnyMessage, message: Any) -> Any:
    detail.Unpack(message)
    return message
