"""Metadata between Python objects and google.protobuf.Struct."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import numpy as np
from google.protobuf import struct_pb2

from lookalike.client.errors import InvalidArgument

_EXACT = 2**53
"""Beyond this an IEEE double cannot tell neighbouring integers apart."""


def to_value(value: object, field: str = "metadata") -> struct_pb2.Value:
    """Make the message of a JSON value; also takes numpy scalars and aware datetimes.

    Raises:
        InvalidArgument: the value has no form in JSON that comes back the same.
    """
    out = struct_pb2.Value()
    match value:
        case None:
            out.null_value = struct_pb2.NULL_VALUE
        case bool() | np.bool_():
            out.bool_value = bool(value)
        case int() | float() | np.integer() | np.floating():
            out.number_value = _number(value, field)
        case str():
            out.string_value = value
        case datetime():
            out.string_value = _rfc3339(value, field)
        case Mapping():
            out.struct_value.CopyFrom(to_struct(value, field))
        case list() | tuple() | set() | frozenset() | np.ndarray():
            out.list_value.CopyFrom(to_list(value, field))
        case _:
            raise InvalidArgument(
                f"{field} has a {type(value).__name__}, which JSON does not know; "
                "use text, numbers, booleans, None, lists and dicts.",
                field=field,
            )
    return out


def to_list(values: Iterable[object], field: str = "metadata") -> struct_pb2.ListValue:
    """Make the message of a list; see `to_value`."""
    elements = (to_value(v, f"{field}[{i}]") for i, v in enumerate(values))
    return struct_pb2.ListValue(values=elements)


def to_struct(mapping: Mapping[str, object], field: str = "metadata") -> struct_pb2.Struct:
    """Make the message of an object; see `to_value`."""
    out = struct_pb2.Struct()
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise InvalidArgument(f"{field} has the key {key!r}; keys must be text.", field=field)
        out.fields[key].CopyFrom(to_value(value, f"{field}.{key}"))
    return out


def from_value(message: struct_pb2.Value) -> object:
    """Return the Python value; whole numbers come back as int."""
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "number_value":
            number = message.number_value
            if not number.is_integer() or abs(number) > _EXACT:
                return number
            is_minus_zero = not number and math.copysign(1, number) < 0
            return number if is_minus_zero else int(number)
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return from_struct(message.struct_value)
        case "list_value":
            return [from_value(v) for v in message.list_value.values]
        case _:
            return None


def from_struct(message: struct_pb2.Struct) -> dict[str, object]:
    """Return the Python dict; whole numbers come back as int, keys in order."""
    return {key: from_value(value) for key, value in sorted(message.fields.items(), key=_first)}


def _first(entry: tuple[str, object]) -> str:
    return entry[0]


def _number(value: float | np.integer | np.floating, field: str) -> float:
    if isinstance(value, (int, np.integer)) and abs(int(value)) > _EXACT:
        raise InvalidArgument(
            f"{field} is {value}: integers beyond 2^53 would be rounded; send them as text.",
            field=field,
        )
    number = float(value)
    if not math.isfinite(number):
        raise InvalidArgument(f"{field} is {number}, which JSON does not know.", field=field)
    return number


def _rfc3339(value: datetime, field: str) -> str:
    if value.tzinfo is None:
        raise InvalidArgument(f"{field} is a time without a time zone; give it one.", field=field)
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
