"""Filters as SQL, every value and every field name a bound parameter.

Each expression is true or false, never NULL, so that NOT means what it says. The
rules are those of `lookalike.v1.Condition`: a missing field is null, values of
different types are neither equal nor in order, text is compared byte by byte
(which in UTF-8 is by code point), numbers are doubles.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import apsw
import numpy as np

from lookalike.backends.errors import FilterInvalid
from lookalike.server.domain import Condition, Filter, Test

_ORDER = {Test.LT: "<", Test.LTE: "<=", Test.GT: ">", Test.GTE: ">="}
_AFTER_TEXTS = "x''"
"""The smallest blob: SQLite puts blobs behind texts, and texts behind numbers."""
_TIME_COLUMNS = {"@create_time": "i.create_us", "@update_time": "i.update_us"}
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Field:
    """SQL for the type (as json_type names it) and the value of a field."""

    type: str
    value: str
    path: str = ""
    """The parameter with the JSON path; empty for the item's own fields, which are text."""
    is_time: bool = False


def to_sql(
    where: Filter,
    params: list[apsw.SQLiteValue | apsw.CArrayBinding],
    indexed: Collection[str] = (),
) -> str:
    """Return an expression over the table `items AS i`; its values are added to `params`.

    `indexed` are the fields with an index in the collection; `of_collection` of the same
    filter and fields lets SQLite use them. Raises FilterInvalid for what no filter can mean.
    """
    return _Translation(params, frozenset(indexed)).filter(where)


def of_collection(number: int, where: Filter, indexed: Collection[str] = ()) -> str:
    """Return the condition that items are of a collection.

    Written so that SQLite takes the index over a field where one helps, and the index
    by collection elsewhere: it knows no statistics, and would often take the latter.
    """
    if _is_found(where, frozenset(indexed)):
        return owned_by(number, "i.collection")
    return f"i.collection = {number:d}"


def owned_by(number: int, column: str) -> str:
    """Return the condition under which an item is in the field indexes of a collection.

    Without the sum, SQLite could use the index by collection for it. Not with a
    parameter, for it has to see that the index's own condition is the same.
    """
    return f"{column} + 0 = {number:d}"


def is_led(where: Filter, indexed: Collection[str]) -> bool:
    """Say whether an index leads to all items that pass."""
    return _is_found(where, frozenset(indexed))


def _is_found(where: Filter, indexed: frozenset[str]) -> bool:
    if any(_leads(part, indexed) for part in where.all):
        return True
    # Of several alternatives, SQLite would read a whole index instead.
    return len(where.any) == 1 and _leads(where.any[0], indexed)


def _leads(part: Condition | Filter, indexed: frozenset[str]) -> bool:
    if isinstance(part, Filter):
        return _is_found(part, indexed)
    if part.field not in indexed:
        return False
    operand = part.operand
    match part.test:
        case Test.EQ:
            return isinstance(operand, bool | int | float | str)
        case Test.LT | Test.LTE | Test.GT | Test.GTE:
            return isinstance(operand, int | float | str) and not isinstance(operand, bool)
        case Test.ANY_OF:
            return bool(operand) and None not in _values(operand)
        case Test.STARTS_WITH:
            return isinstance(operand, str)
    return False


def field_key(name: str, metadata: str) -> str:
    """Return the expression that a field is indexed by; null for lists, objects, nothing.

    In an index, numbers come first, as doubles, then texts, then blobs, which false and
    true are made to. The path stands in it as text, for SQLite compares expressions to
    find an index. Damaged metadata has no key, so that its row can still be deleted.
    Raises FilterInvalid.
    """
    path = "'" + json_path(name).replace("'", "''") + "'"
    value = f"json_extract({metadata}, {path})"
    return (
        f"CASE WHEN json_valid({metadata}) THEN CASE json_type({metadata}, {path}) "
        f"WHEN 'text' THEN {value} WHEN 'real' THEN {value} "
        f"WHEN 'integer' THEN CAST({value} AS REAL) WHEN 'true' THEN x'01' "
        "WHEN 'false' THEN x'00' END END"
    )


def json_path(name: str) -> str:
    """Return a dotted path as SQLite writes it. Raises FilterInvalid."""
    if not name:
        raise FilterInvalid("A condition names no field.", field="field")
    if "\0" in name:
        raise FilterInvalid("No field has a NUL character in its name.", field="field")
    return "$." + ".".join(json.dumps(label, ensure_ascii=False) for label in name.split("."))


def canonical_time(text: str) -> str:
    """Write an RFC 3339 time as items' own times are compared: UTC, nine decimals.

    Anything else comes back as it is, and is compared as text.
    """
    if (match := _TIMESTAMP.fullmatch(text)) is None:
        return text
    date, clock, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{offset.upper()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{(fraction or '')[:9]:0<9}Z".rjust(30, "0")


class _Translation:
    def __init__(
        self, params: list[apsw.SQLiteValue | apsw.CArrayBinding], indexed: frozenset[str]
    ) -> None:
        self._params = params
        self._indexed = indexed

    def filter(self, where: Filter) -> str:
        parts = [self._part(part) for part in where.all]
        if where.any:
            parts.append(f"({' OR '.join(self._part(part) for part in where.any)})")
        parts += [f"NOT {self._part(part)}" for part in where.none]
        return f"({' AND '.join(parts) or '1'})"

    def _part(self, part: Condition | Filter) -> str:
        if isinstance(part, Filter):
            return self.filter(part)
        if _leads(part, self._indexed):
            return self._by_key(part)
        field = self._field(part.field)
        operand = part.operand
        match part.test:
            case Test.EQ:
                return self._equal(field, operand)
            case Test.NE:
                return f"(NOT {self._equal(field, operand)})"
            case Test.LT | Test.LTE | Test.GT | Test.GTE:
                return self._ordered(field, _ORDER[part.test], operand)
            case Test.ANY_OF:
                return self._any_of(field, operand)
            case Test.NONE_OF:
                return f"(NOT {self._any_of(field, operand)})"
            case Test.CONTAINS:
                return self._contains(field, operand)
            case Test.STARTS_WITH:
                return self._starts_with(field, operand)
            case Test.EXISTS:
                if not isinstance(operand, bool):
                    raise FilterInvalid("`exists` takes true or false.", field=part.field)
                return f"({field.type} {'!=' if operand else '='} 'null')"

    def _bind(self, value: apsw.SQLiteValue | apsw.CArrayBinding) -> str:
        self._params.append(value)
        return f"?{len(self._params)}"

    def _field(self, name: str) -> _Field:
        if name == "@id":
            return _Field("'text'", "i.id")
        if (column := _TIME_COLUMNS.get(name)) is not None:
            text = (
                f"(strftime('%Y-%m-%dT%H:%M:%S', {column} / 1000000, 'unixepoch')"
                f" || printf('.%06d000Z', {column} % 1000000))"
            )
            return _Field("'text'", text, is_time=True)
        path = self._bind(json_path(name))
        return _Field(
            type=f"ifnull(json_type(i.metadata, {path}), 'null')",
            value=f"json_extract(i.metadata, {path})",
            path=path,
        )

    def _equal(self, field: _Field, operand: object) -> str:
        match operand:
            case None:
                return f"({field.type} = 'null')"
            case bool():
                return f"({field.type} = '{'true' if operand else 'false'}')"
            case int() | float():
                return self._compare(field, "=", _number(operand))
            case str():
                return self._compare(field, "=", _text(field, operand))
        raise FilterInvalid("A field can equal a string, a number, a boolean or null.")

    def _ordered(self, field: _Field, sign: str, operand: object) -> str:
        match operand:
            case int() | float() if not isinstance(operand, bool):
                return self._compare(field, sign, _number(operand))
            case str():
                return self._compare(field, sign, _text(field, operand))
        raise FilterInvalid("Only numbers and strings can be put in order.")

    def _compare(self, field: _Field, sign: str, operand: float | str) -> str:
        value = self._bind(operand)
        if isinstance(operand, str):
            if not field.path:
                return f"({field.value} {sign} {value})"
            return f"({field.type} = 'text' AND {field.value} {sign} {value})"
        return (
            f"({field.type} IN ('integer', 'real') AND CAST({field.value} AS REAL) {sign} {value})"
        )

    def _any_of(self, field: _Field, operand: object) -> str:
        values = _values(operand)
        texts = [_text(field, value) for value in values if isinstance(value, str)]
        numbers = [
            _number(value)
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        rest = {value for value in values if value is None or isinstance(value, bool)}
        parts = [self._equal(field, value) for value in rest]
        if texts:
            # Not as an array of texts, which would end at a NUL.
            listed = self._bind(json.dumps(texts, ensure_ascii=False))
            is_text = f"{field.type} = 'text' AND " if field.path else ""
            parts.append(f"({is_text}{field.value} IN (SELECT value FROM json_each({listed})))")
        if numbers:
            array = self._bind(apsw.carray(np.array(numbers, np.float64)))
            parts.append(
                f"({field.type} IN ('integer', 'real') AND "
                f"CAST({field.value} AS REAL) IN (SELECT value FROM carray({array})))"
            )
        # Nothing is in an empty list; every bound path has to be used.
        return f"({' OR '.join(parts) or field.type + ' IS NULL'})"

    def _contains(self, field: _Field, operand: object) -> str:
        if not field.path:
            return "0"
        element = self._equal(_Field("e.type", "e.atom", path=field.path), operand)
        return (
            f"({field.type} = 'array' AND EXISTS "
            f"(SELECT 1 FROM json_each(i.metadata, {field.path}) AS e WHERE {element}))"
        )

    def _starts_with(self, field: _Field, operand: object) -> str:
        if not isinstance(operand, str):
            raise FilterInvalid("`starts_with` takes a string.")
        if not operand:
            return f"({field.type} = 'text')"
        prefix = operand.encode("utf-8")
        # Of an empty blob, substr makes NULL.
        start = f"ifnull(substr(CAST({field.value} AS BLOB), 1, {len(prefix)}), x'')"
        return f"({field.type} = 'text' AND {start} = {self._bind(prefix)})"

    def _by_key(self, part: Condition) -> str:
        """Test an indexed field by what its index holds: its row is not looked at."""
        key, operand = field_key(part.field, "i.metadata"), part.operand
        match part.test:
            case Test.ANY_OF:
                test = f"{key} IN ({self._keys(_values(operand))})"
            case Test.STARTS_WITH:
                assert isinstance(operand, str)
                behind = _behind(operand)
                end = self._bind(behind) if behind else _AFTER_TEXTS
                test = f"{key} >= {self._bind(operand)} AND {key} < {end}"
            case Test.EQ:
                test = f"{key} = {self._key(operand)}"
            case _:
                test = f"{key} {_ORDER[part.test]} {self._key(operand)}"
                if part.test in (Test.GT, Test.GTE):
                    after = _AFTER_TEXTS if isinstance(operand, str) else "''"
                    test += f" AND {key} < {after}"
                elif isinstance(operand, str):
                    test += f" AND {key} >= ''"
        return f"({key} IS NOT NULL AND {test})"

    def _key(self, operand: object) -> str:
        match operand:
            case bool():
                return f"x'{operand:02d}'"
            case int() | float():
                return self._bind(_number(operand))
            case _:
                return self._bind(str(operand))

    def _keys(self, values: Sequence[object]) -> str:
        """Return a SELECT of all: there may be more of them than parameters."""
        texts = [value for value in values if isinstance(value, str)]
        parts = [
            f"SELECT {self._key(value)}" for value in {v for v in values if isinstance(v, bool)}
        ]
        numbers = [
            _number(value)
            for value in values
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if texts:
            listed = self._bind(json.dumps(texts, ensure_ascii=False))
            parts.append(f"SELECT value FROM json_each({listed})")
        if numbers:
            array = self._bind(apsw.carray(np.array(numbers, np.float64)))
            parts.append(f"SELECT value FROM carray({array})")
        return " UNION ALL ".join(parts)


def _behind(prefix: str) -> str:
    """Return the first text behind all that begin so; "" if there is none."""
    prefix = prefix.rstrip("\U0010ffff")
    if not prefix:
        return ""
    following = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if following == 0xD800 else following)


def _number(operand: float) -> float:
    try:
        number = float(operand)
    except OverflowError:
        number = math.nan
    if math.isnan(number):
        raise FilterInvalid("A number in the filter is not one that can be compared.")
    return number


def _text(field: _Field, operand: str) -> str:
    return canonical_time(operand) if field.is_time else operand


def _values(operand: object) -> Sequence[object]:
    if not isinstance(operand, tuple | list) or not all(
        value is None or isinstance(value, bool | int | float | str) for value in operand
    ):
        raise FilterInvalid("`any_of` and `none_of` take strings, numbers, booleans and null.")
    return operand
