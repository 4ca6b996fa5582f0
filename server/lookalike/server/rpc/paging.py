"""Pages of long lists: sizes, and tokens that only fit the request they were made for."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TypeVar

from google.protobuf.message import Message

from lookalike.backends.errors import InvalidArgument, PageTokenInvalid
from lookalike.server.limits import Limits

M = TypeVar("M", bound=Message)

_DEFAULT_SIZE = 100
_FREE = ("page_size", "page_token", "view")
"""Fields that may change from page to page."""
_DIGEST_BYTES = 12


def page_size(request: Message, limits: Limits) -> int:
    """Return how many entries a page may have. Raises InvalidArgument if negative."""
    wanted: int = request.page_size  # type: ignore[attr-defined]
    if wanted < 0:
        raise InvalidArgument("page_size must not be negative.", field="page_size")
    return min(wanted or _DEFAULT_SIZE, limits.max_page_size)


def write_token(request: Message, cursor: str) -> str:
    """Return the token of the page that begins after `cursor`."""
    data = cursor.encode()
    return base64.urlsafe_b64encode(_digest(request, data) + data).decode().rstrip("=")


def read_token(request: Message) -> str:
    """Return the cursor in the request's token, "" for the first page.

    Raises PageTokenInvalid for a token of another request, or of no request at all.
    """
    token: str = request.page_token  # type: ignore[attr-defined]
    if not token:
        return ""
    try:
        data = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), b"-_", validate=True)
        digest, cursor = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if digest == _digest(request, cursor):
            return cursor.decode()
    except (binascii.Error, ValueError):
        pass
    raise PageTokenInvalid(
        "The page token is not from this list. Take next_page_token as it is, leave the rest of "
        "the request as it was, or begin again without a token.",
        field="page_token",
    )


def _digest(request: Message, cursor: bytes) -> bytes:
    """Bind a cursor to a request. It guards against mix-ups; it keeps no secret."""
    same = type(request)()
    same.CopyFrom(request)
    for name in _FREE:
        if name in same.DESCRIPTOR.fields_by_name:
            same.ClearField(name)
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, person=b"lookalike-page")
    digest.update(same.DESCRIPTOR.full_name.encode() + b"\0")
    digest.update(same.SerializeToString(deterministic=True) + b"\0")
    digest.update(cursor)
    return digest.digest()
