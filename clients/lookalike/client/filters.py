"""Conditions on items: `F.price < 100`, or the text that `--where` takes.

    from lookalike.client import F
    client.search(text="a shoe", where=(F.price < 100) & F.tags.contains("red"))
    client.search(text="a shoe", where='price < 100 and tags contains "red"')

Both compile to `lookalike.v1.Filter`; `str()` of a condition gives the text. A field
that an item lacks is as if it were null, so `not (price < 100)` lets items without a
price through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lookalike.client._json import from_value, to_list, to_value
from lookalike.client.errors import FilterInvalid, InvalidArgument
from lookalike.v1 import types_pb2

Operator: TypeAlias = Literal[
    "eq", "ne", "lt", "lte", "gt", "gte", "any_of", "none_of", "contains", "starts_with", "exists"
]
"""The tests of `lookalike.v1.Condition`, by the names they have there."""

KEYWORDS = frozenset(
    ["and", "or", "not", "in", "contains", "starts", "with", "exists", "true", "false", "null"]
)
SYMBOLS = {"eq": "=", "ne": "!=", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
PLAIN_NAME = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*|@[a-z_]+")
"""A field that needs no backticks; digits may follow a dot."""


class Where:
    """A condition on items; combine with `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: Where) -> Where:
        return All((*_parts(All, self), *_parts(All, other)))

    def __or__(self, other: Where) -> Where:
        return Any((*_parts(Any, self), *_parts(Any, other)))

    def __invert__(self) -> Where:
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError(
            "A condition has no truth value of its own: combine conditions with &, | and ~ "
            "(each in parentheses), not with and, or, not or a < F.x < b."
        )


@dataclass(frozen=True, slots=True)
class Test(Where):
    """One test of one field."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    field: str
    operator: Operator
    operand: object

    def __str__(self) -> str:
        name, operand = _name_text(self.field), self.operand
        match self.operator:
            case "any_of" | "none_of":
                assert isinstance(operand, tuple)
                word = "in" if self.operator == "any_of" else "not in"
                return f"{name} {word} ({', '.join(map(_value_text, operand))})"
            case "contains":
                return f"{name} contains {_value_text(operand)}"
            case "starts_with":
                return f"{name} starts with {_value_text(operand)}"
            case "exists":
                return f"exists {name}" if operand else f"not exists {name}"
            case symbol:
                return f"{name} {SYMBOLS[symbol]} {_value_text(operand)}"


@dataclass(frozen=True, slots=True)
class All(Where):
    """All of the parts hold."""

    parts: tuple[Where, ...]

    def __str__(self) -> str:
        return " and ".join(_part_text(p, (All, Any)) for p in self.parts)


@dataclass(frozen=True, slots=True)
class Any(Where):
    """At least one of the parts holds."""

    parts: tuple[Where, ...]

    def __str__(self) -> str:
        return " or ".join(_part_text(p, (Any,)) for p in self.parts)


@dataclass(frozen=True, slots=True)
class Not(Where):
    """The part does not hold."""

    part: Where

    def __str__(self) -> str:
        return f"not ({self.part})"


class Field:
    """A metadata key, or a dotted path into nested objects ("size.width")."""

    __slots__ = ("_name",)

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, value: object) -> Where:  # type: ignore[override]
        return Test(self._name, "eq", value)

    def __ne__(self, value: object) -> Where:  # type: ignore[override]
        return Test(self._name, "ne", value)

    def __lt__(self, value: object) -> Where:
        return Test(self._name, "lt", value)

    def __le__(self, value: object) -> Where:
        return Test(self._name, "lte", value)

    def __gt__(self, value: object) -> Where:
        return Test(self._name, "gt", value)

    def __ge__(self, value: object) -> Where:
        return Test(self._name, "gte", value)

    def in_(self, values: Iterable[object]) -> Where:
        """Let items through whose field equals one of these, at most 1000."""
        return Test(self._name, "any_of", tuple(values))

    def not_in(self, values: Iterable[object]) -> Where:
        """Let items through whose field equals none of these, at most 1000."""
        return Test(self._name, "none_of", tuple(values))

    def contains(self, value: object) -> Where:
        """Let items through whose field is a list with this element."""
        return Test(self._name, "contains", value)

    def startswith(self, prefix: str) -> Where:
        """Let items through whose field is a text that begins with this."""
        return Test(self._name, "starts_with", prefix)

    def exists(self, wanted: bool = True) -> Where:
        """Let items through whose field is there and not null, or is not (False)."""
        return Test(self._name, "exists", wanted)


class _Fields:
    """`F.price` and `F["size.width"]` name fields."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):  # numpy, copy and others feel for such names
            raise AttributeError(name)
        return Field(name)

    def __getitem__(self, name: str) -> Field:
        return Field(name)


F = _Fields()
"""Names fields of items in conditions: `F.price < 100`, `F["size.width"] >= 3`."""


def compile_filter(where: Where | str | None) -> types_pb2.Filter:
    """Make the message of a condition, or of its text; None lets everything through.

    Raises:
        FilterInvalid: a text that is no condition (the message points at the place), or
            an operand that JSON does not know.
    """
    if where is None:
        return types_pb2.Filter()
    if isinstance(where, str):
        from lookalike.client._filter_text import parse

        where = parse(where)
    if not isinstance(where, Where):
        raise FilterInvalid(
            f"A condition must be made with F or be a text, not a {type(where).__name__}.",
            field="filter",
        )
    try:
        return _filter(where)
    except InvalidArgument as error:
        raise FilterInvalid(error.message, field="filter") from None


def _filter(where: Where) -> types_pb2.Filter:
    """Use the three lists of one Filter before nesting another: nesting is limited."""
    match where:
        case All(parts):
            out, any_of = types_pb2.Filter(), None
            for part in parts:
                match part:
                    case Not(inner):
                        out.none.extend(map(_condition, _parts(Any, inner)))
                    case Any(alternatives) if any_of is None and alternatives:
                        any_of = alternatives
                    case _:
                        out.all.append(_condition(part))
            out.any.extend(map(_condition, any_of or ()))
            return out
        case Any(parts):
            return types_pb2.Filter(any=map(_condition, parts))
        case Not(Not(part)):
            return _filter(part)
        case Not(part):
            return types_pb2.Filter(none=map(_condition, _parts(Any, part)))
        case _:
            return types_pb2.Filter(all=[_condition(where)])


def _condition(where: Where) -> types_pb2.Condition:
    if not isinstance(where, Test):
        return types_pb2.Condition(group=_filter(where))
    out, label = types_pb2.Condition(field=where.field), where.field or "the field"
    match where.operator:
        case "any_of" | "none_of":
            assert isinstance(where.operand, tuple)
            getattr(out, where.operator).CopyFrom(to_list(where.operand, label))
        case "starts_with":
            if not isinstance(where.operand, str):
                raise FilterInvalid(f"{label} can only start with a text.", field="filter")
            out.starts_with = where.operand
        case "exists":
            out.exists = bool(where.operand)
        case operator:
            value = to_value(where.operand, label)
            if value.WhichOneof("kind") in ("list_value", "struct_value"):
                raise FilterInvalid(
                    f"{label} can be compared with one text, number, boolean or null; "
                    "use in_ for several.",
                    field="filter",
                )
            getattr(out, operator).CopyFrom(value)
    return out


def _parts(kind: type[All | Any], where: Where) -> Iterator[Where]:
    if isinstance(where, kind):
        yield from where.parts
    else:
        yield where


def _part_text(part: Where, needs_parentheses: tuple[type[Where], ...]) -> str:
    return f"({part})" if isinstance(part, needs_parentheses) else str(part)


def _name_text(name: str) -> str:
    if PLAIN_NAME.fullmatch(name) and name.lower() not in KEYWORDS:
        return name
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _value_text(value: object) -> str:
    return json.dumps(from_value(to_value(value, "the value")), ensure_ascii=False)
