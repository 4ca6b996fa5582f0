"""Messages of the API as JSON values, and the responses that carry them.

Names are those of the protos. Enum values become words in lower case ("same_picture"),
64-bit integers numbers, times RFC 3339; what is absent is left out. Hits are flat: the
item's fields stand beside `score`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.responses import Response

from lookalike.client.errors import LookalikeError
from lookalike.client.raw import from_struct, from_value
from lookalike.web.errors import body_of, status_of

_WHOLE: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Struct": from_struct,
    "google.protobuf.Value": from_value,
    "google.protobuf.Timestamp": lambda stamp: stamp.ToJsonString(),
}
"""Messages that are one value each."""


class JsonResponse(Response):
    """UTF-8 JSON that no cache keeps."""

    media_type = "application/json"

    def __init__(self, value: Any, status: int = 200, headers: dict[str, str] | None = None):
        super().__init__(value, status, {"Cache-Control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def error_response(error: LookalikeError) -> JsonResponse:
    """Return the response of an error."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    status = status_of(error)
    if status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is not wanted
    return JsonResponse({"error": body_of(error)}, status, headers)


def plain(message: Message) -> Any:
    """Return a message as JSON values."""
    name = message.DESCRIPTOR.full_name
    if name in _WHOLE:
        return _WHOLE[name](message)
    if name == "lookalike.v1.Vector":
        return list(map(_number, message.values))  # type: ignore[attr-defined]
    out: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            out[field.name] = [_value(field, one) for one in getattr(message, field.name)]
        elif not field.has_presence or message.HasField(field.name):
            value = _value(field, getattr(message, field.name))
            if value is not None:
                out[field.name] = value
    return out


def hit(message: Message) -> dict[str, Any]:
    """Return a SearchHit with its item's fields beside its own."""
    out: dict[str, Any] = plain(message)
    return {**out.pop("item", {}), **out}


def search_response(message: Any) -> dict[str, Any]:
    """Return a SearchResponse."""
    return {"hits": [hit(one) for one in message.hits], "info": plain(message.info)}


def _value(field: Any, value: Any) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return plain(value)
        case FieldDescriptor.CPPTYPE_ENUM:
            return _word(field, value)
        case FieldDescriptor.CPPTYPE_FLOAT:
            return _number(value)
        case _:
            return value


def _word(field: Any, value: int) -> str | None:
    """Return "cosine" for METRIC_COSINE, None for what is unspecified or unknown."""
    enum = field.enum_type
    known = enum.values_by_number.get(value)
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper() + "_"
    word = known.name.removeprefix(prefix).lower() if known is not None else "unspecified"
    return None if word == "unspecified" else word


def _number(value: float) -> float | None:
    """Return a float32 as the shortest decimal that is it; JSON knows no NaN."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
