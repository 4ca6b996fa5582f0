"""Errors as gRPC sees them: the one place that knows both worlds.

A call that fails answers with a google.rpc.Status that carries one ErrorInfo
(reason, domain "lookalike", metadata), BadRequest where a field is to blame and
RetryInfo where waiting helps. A thing that fails inside a call that succeeds
carries the same in a `lookalike.v1.Error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from lookalike.backends import errors
from lookalike.backends.errors import LookalikeError
from lookalike.v1 import types_pb2

DOMAIN = "lookalike"
CODES: Mapping[type[LookalikeError], grpc.StatusCode] = MappingProxyType(
    {
        LookalikeError: grpc.StatusCode.INTERNAL,
        errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
        errors.NotFound: grpc.StatusCode.NOT_FOUND,
        errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
        errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
        errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
        errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.Cancelled: grpc.StatusCode.CANCELLED,
        errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
        errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        errors.DataLoss: grpc.StatusCode.DATA_LOSS,
        errors.Internal: grpc.StatusCode.INTERNAL,
    }
)
"""Status codes by class; a class that is not here has its nearest parent's."""

_PUSHBACK = "grpc-retry-pushback-ms"
_SOON_S = 2.0
# A client accepts 8 KiB of trailers by default, and the message is in them twice,
# once percent-encoded (up to 3 bytes a byte) and once in base64.
_MESSAGE_BYTES = 1000
_VALUE_BYTES = 200
_METADATA_ENTRIES = 8
_FIELDS = (
    (errors.IdMissing, "id"),
    (errors.IdInvalid, "id"),
    (errors.ItemExists, "id"),
    (errors.DimensionMismatch, "vector"),
    (errors.VectorNotFinite, "vector"),
    (errors.VectorZero, "vector"),
    (errors.ImageUndecodable, "image"),
    (errors.ImageFormatUnsupported, "image"),
    (errors.ImageTooLarge, "image"),
    (errors.ChecksumMismatch, "sha256"),
    (errors.MetadataTooLarge, "metadata"),
)


def code_of(error: type[LookalikeError]) -> grpc.StatusCode:
    """Return the status code of an error class, looked up along its MRO."""
    return next(CODES[kind] for kind in error.__mro__ if kind in CODES)


def code_of_reason(reason: str) -> grpc.StatusCode:
    """Return the status code of the error with this reason; INTERNAL if there is none."""
    for kind in error_classes():
        if kind.reason == reason:
            return code_of(kind)
    return grpc.StatusCode.INTERNAL


def error_classes(root: type[LookalikeError] = LookalikeError) -> list[type[LookalikeError]]:
    """List the error tree, parents before children."""
    return [root, *(kind for child in root.__subclasses__() for kind in error_classes(child))]


def place(error: LookalikeError, at: str) -> str:
    """Return the path of the field to blame in the thing at `at` ("items[3]").

    The domain does not know where in a request a thing stood: it names the field
    relative to the thing, or not at all, and then the kind of error tells it.
    """
    if error.field.startswith(at):
        return error.field
    name = error.field or next((name for kind, name in _FIELDS if isinstance(error, kind)), "")
    return f"{at}.{name}" if at and name else at or name


def in_band(error: LookalikeError, at: str = "") -> types_pb2.Error:
    """Build the error of one thing, at `at` in the request, that failed on its own."""
    return types_pb2.Error(
        code=code_number(code_of(type(error))),
        reason=error.reason,
        message=_cut(error.message, _MESSAGE_BYTES),
        metadata=_metadata(error),
        field=_cut(place(error, at), _VALUE_BYTES),
    )


def code_number(code: grpc.StatusCode) -> int:
    """Return the number of a status code, as in google.rpc.Code."""
    number: int = code.value[0]
    return number


def rich_status(error: LookalikeError, request_id: str = "") -> grpc.Status:
    """Build the status of a call that failed, its trailing metadata included."""
    message = _cut(error.message, _MESSAGE_BYTES)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_metadata(error))
    ]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(error.field, _VALUE_BYTES), description=_cut(message, 2 * _VALUE_BYTES)
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(
        code=code_number(code_of(type(error))),
        message=message,
        details=[_pack(detail) for detail in details],
    )
    built = rpc_status.to_status(status)
    extra = [("x-request-id", request_id)] if request_id else []
    if isinstance(error, errors.Unavailable) and 0 < (error.retry_after_s or 0) <= _SOON_S:
        # gRPC's own clients know no RetryInfo; this is theirs, of calls with a retry policy.
        extra.append((_PUSHBACK, str(round(1000 * (error.retry_after_s or 0)))))
    trailers = (*built.trailing_metadata, *extra)
    return built._replace(trailing_metadata=trailers)  # type: ignore[no-any-return]


def _pack(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _metadata(error: LookalikeError) -> dict[str, str]:
    entries = list(error.metadata.items())[:_METADATA_ENTRIES]
    return {key: _cut(value, _VALUE_BYTES) for key, value in entries}


def _cut(text: str, limit: int) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode("utf-8")
    return data[: limit - 3].decode("utf-8", "ignore") + "..."
