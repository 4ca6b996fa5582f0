"""JSON and form fields to messages of the API.

A request is the JSON form of its proto message, in the proto's names, with some ease:
`where` is a condition as text in place of `filter`; `view` and the like are words
("id"); a region may be a list [left, top, width, height]; and "@image" in place of a
picture is the file that came as `image` in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from starlette.requests import Request

from lookalike.client.errors import FilterInvalid, ImageTooLarge, InvalidArgument
from lookalike.client.filters import compile_filter
from lookalike.v1 import search_service_pb2, types_pb2
from lookalike.web.bodies import json_object, media_type, read_json, read_parts

M = TypeVar("M", bound=Message)
Files = Mapping[str, bytes]
"""Files of a form by their field's name."""

_MAX_DEPTH = 24
_ENUM_PREFIXES = {"view": "ITEM_VIEW_"}
_REGION_KEYS = ("left", "top", "width", "height")


async def read_query(request: Request, max_image_bytes: int) -> tuple[dict[str, Any], Files]:
    """Return the query in a body, JSON or form, and its files.

    In a form, `request` is the JSON object; other fields join it, text as it is typed:
    `curl -F image=@cat.jpg -F limit=5`.

    Raises:
        ImageTooLarge: a file has more bytes than a picture may have.
        InvalidArgument: what cannot be read.
    """
    if media_type(request) != "multipart/form-data":
        return await read_json(request), {}
    query: dict[str, Any] = {}
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    async for part in read_parts(request, max_image_bytes):
        if part.is_cut:
            raise ImageTooLarge(
                f"The image file has more than {max_image_bytes} bytes, which is the most that "
                "the server takes. Send a smaller copy.",
                field="image",
            )
        if part.filename is not None:
            files[part.name] = bytes(part.data)
        elif part.name == "request":
            query = json_object(part.data, "The field 'request'")
        else:
            fields[part.name] = part.text
    return {**query, **fields}, files


def search_request(query: dict[str, Any], files: Files) -> search_service_pb2.SearchRequest:
    """Make the message of a search; a file `image` is the query unless `parts` are given."""
    query = dict(query)
    if "image" in files and not query.get("parts"):
        query.setdefault("image", "@image")
    return _message(search_service_pb2.SearchRequest(), query, files)


def explain_request(query: dict[str, Any], files: Files) -> search_service_pb2.ExplainRequest:
    """Make the message that asks why an item matches."""
    query = dict(query)
    if "image" in files:
        query.setdefault("image", "@image")
    return _message(search_service_pb2.ExplainRequest(), query, files)


def where_filter(where: str) -> types_pb2.Filter:
    """Make the message of a condition; an empty one lets everything through."""
    return compile_filter(where) if where.strip() else types_pb2.Filter()


def _message(message: M, query: dict[str, Any], files: Files) -> M:
    where = query.pop("where", "")
    if not isinstance(where, str):
        raise FilterInvalid("where must be a text: 'price < 100'.", field="where")
    if where.strip() and "filter" in query:
        raise FilterInvalid("Give either where or filter.", field="where")
    pictures: list[tuple[list[str | int], bytes]] = []
    ready = {
        name: _ready(value, message.DESCRIPTOR, name, files, pictures, [name])
        for name, value in query.items()
    }
    try:
        json_format.ParseDict(ready, message, max_recursion_depth=_MAX_DEPTH)
    except json_format.ParseError as error:
        raise InvalidArgument(f"The request cannot be read: {str(error)[:300]}") from None
    for path, data in pictures:
        _at(message, path).data = data
    if where.strip():
        message.filter.CopyFrom(compile_filter(where))  # type: ignore[attr-defined]
    return message


def _ready(
    value: Any,
    owner: Any,
    name: str,
    files: Files,
    pictures: list[tuple[list[str | int], bytes]],
    path: list[str | int],
) -> Any:
    """Return a field's value as json_format takes it, and note where files belong."""
    field = owner.fields_by_name.get(name)
    if field is None:
        return value
    if name == "parts" and isinstance(value, str):
        value = _from_text(value, name)
    if name == "parts" and isinstance(value, list):
        kind = field.message_type
        return [
            {
                key: _ready(one, kind, key, files, pictures, [*path, i, key])
                for key, one in part.items()
            }
            if isinstance(part, dict)
            else part
            for i, part in enumerate(value)
        ]
    if name == "image" and isinstance(value, str) and value.startswith("@"):
        pictures.append((path, _file(files, value[1:])))
        return {}
    if name == "region":
        return _region(value)
    if name == "vector" and isinstance(value, list):
        return {"values": value}
    return _typed(field, name, value)


def _typed(field: Any, name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name in _ENUM_PREFIXES and not value.startswith(_ENUM_PREFIXES[name]):
        return _ENUM_PREFIXES[name] + value.upper()
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            words = {"true": True, "1": True, "on": True, "false": False, "0": False, "": False}
            return words.get(value.lower(), value)
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return _from_text(value, name)
        case _:
            return value


def _from_text(value: str, name: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidArgument(f"{name} is not JSON.", field=name) from None


def _region(value: Any) -> Any:
    """Return a region as an object: it may be one, a list, or "0.1,0.2,0.5,0.5"."""
    if isinstance(value, str):
        value = _from_text(value, "region") if value.startswith(("{", "[")) else value.split(",")
    if isinstance(value, list):
        if len(value) != len(_REGION_KEYS):
            raise InvalidArgument("A region is left, top, width, height.", field="region")
        return dict(zip(_REGION_KEYS, value, strict=True))
    return value


def _file(files: Files, name: str) -> bytes:
    if name not in files:
        raise InvalidArgument(f"The form has no file {name!r}.", field="image")
    return files[name]


def _at(message: Any, path: list[str | int]) -> Any:
    for step in path:
        message = message[step] if isinstance(step, int) else getattr(message, step)
    message.SetInParent()
    return message
