"""Errors as HTTP sees them: the one place that knows both worlds.

    {"error": {"code": "NOT_FOUND", "reason": "ITEM_NOT_FOUND", "message": "..."}}

`code` is the name of the gRPC code, `reason` that of lookalike.v1.ErrorReason or one of
the gateway's own, and `field` and `retry_after_s` join them where they are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lookalike.client import errors
from lookalike.client.errors import LookalikeError

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "CANCELLED": 499,
        "INVALID_ARGUMENT": 400,
        "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404,
        "ALREADY_EXISTS": 409,
        "PERMISSION_DENIED": 403,
        "UNAUTHENTICATED": 401,
        "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400,
        "UNIMPLEMENTED": 501,
        "INTERNAL": 500,
        "UNAVAILABLE": 503,
        "DATA_LOSS": 500,
    }
)
"""HTTP status by gRPC code, as google.rpc.Code says it."""

_CODES: Mapping[type[LookalikeError], str] = MappingProxyType(
    {
        LookalikeError: "INTERNAL",
        errors.InvalidArgument: "INVALID_ARGUMENT",
        errors.NotFound: "NOT_FOUND",
        errors.AlreadyExists: "ALREADY_EXISTS",
        errors.FailedPrecondition: "FAILED_PRECONDITION",
        errors.ResourceExhausted: "RESOURCE_EXHAUSTED",
        errors.Unavailable: "UNAVAILABLE",
        errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
        errors.Cancelled: "CANCELLED",
        errors.PermissionDenied: "PERMISSION_DENIED",
        errors.Unauthenticated: "UNAUTHENTICATED",
        errors.DataLoss: "DATA_LOSS",
        errors.Internal: "INTERNAL",
    }
)
# Where the server is, is not for whoever looks at the page.
_NEUTRAL: Mapping[str, str] = MappingProxyType(
    {
        "SERVER_UNAVAILABLE": "The search server does not answer; try again in a moment.",
        "UNIMPLEMENTED": "The search server does not know this call; it may be an older one.",
        "EXPIRED": "The search server did not answer in time; it may be overloaded.",
    }
)
# Visitors have no keys: it is the page's own that is not good enough.
_OF_THE_PAGE: Mapping[str, str] = MappingProxyType(
    {
        "KEY_MISSING": "This page has no key for the search server; its operator can give it one.",
        "KEY_INVALID": "The search server does not take this page's key; its operator must act.",
        "KEY_EXPIRED": "This page's key has expired; its operator must act.",
        "SCOPE_MISSING": "This page may not do that.",
        "COLLECTION_NOT_ALLOWED": "This page may not do that in this collection.",
    }
)


class BodyTooLarge(errors.ResourceExhausted):
    """The request has more bytes than this call takes."""

    reason_name = "BODY_TOO_LARGE"
    http_status = 413


class ReadTimeout(errors.DeadlineExceeded):
    """The request's body came too slowly."""

    reason_name = "READ_TIMEOUT"
    http_status = 408


class HostNotAllowed(errors.PermissionDenied):
    """The request names a host that this is not known by."""

    reason_name = "HOST_NOT_ALLOWED"
    http_status = 421


class OriginNotAllowed(errors.PermissionDenied):
    """Another site's page made the request."""

    reason_name = "ORIGIN_NOT_ALLOWED"


class MediaTypeUnsupported(errors.InvalidArgument):
    """The body is neither JSON nor a form."""

    reason_name = "MEDIA_TYPE_UNSUPPORTED"
    http_status = 415


class RouteNotFound(errors.NotFound):
    """There is nothing at this path."""

    reason_name = "ROUTE_NOT_FOUND"


class MethodNotAllowed(errors.InvalidArgument):
    """The path is there, but not for this method."""

    reason_name = "METHOD_NOT_ALLOWED"
    http_status = 405


def code_of(error: LookalikeError) -> str:
    """Return the name of the gRPC code of an error."""
    if error.reason == "UNIMPLEMENTED":
        return "UNIMPLEMENTED"
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def status_of(error: LookalikeError) -> int:
    """Return the HTTP status of an error: its code's, or its own if it has one."""
    own: int = getattr(error, "http_status", 0)
    return own or STATUS[code_of(error)]


def body_of(error: LookalikeError) -> dict[str, Any]:
    """Return what is said of an error: code, reason, message, and what else is known."""
    hides_address = "address" in error.metadata
    message = _NEUTRAL.get(error.reason, error.message) if hides_address else error.message
    message = _OF_THE_PAGE.get(error.reason, message)
    body: dict[str, Any] = {"code": code_of(error), "reason": error.reason, "message": message}
    if error.field:
        body["field"] = error.field
    if error.retry_after_s is not None:
        body["retry_after_s"] = round(error.retry_after_s, 3)
    return body
