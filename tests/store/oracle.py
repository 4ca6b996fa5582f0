"""An evaluator of filters that knows the rules of lookalike.v1.Condition and no SQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from lookalike.server.domain import Condition, Filter, Item, Test


def kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "list" if isinstance(value, list) else "object"


def equal(a: Any, b: Any) -> bool:
    if kind(a) != kind(b) or kind(a) in ("list", "object"):
        return False
    return float(a) == float(b) if kind(a) == "number" else bool(a == b)


def shown_time(seconds: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(seconds * 1e6))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def lookup(found: Item, field: str) -> Any:
    if field == "@id":
        return found.id
    if field in ("@create_time", "@update_time"):
        return shown_time(found.create_time if "create" in field else found.update_time)
    value: Any = found.metadata
    for label in field.split("."):
        if not isinstance(value, dict) or label not in value:
            return None
        value = value[label]
    return value


def holds(found: Item, condition: Condition) -> bool:
    value, operand = lookup(found, condition.field), condition.operand
    match condition.test:
        case Test.EQ:
            return equal(value, operand)
        case Test.NE:
            return not equal(value, operand)
        case Test.ANY_OF:
            return any(equal(value, o) for o in operand)  # type: ignore[attr-defined]
        case Test.NONE_OF:
            return not any(equal(value, o) for o in operand)  # type: ignore[attr-defined]
        case Test.CONTAINS:
            return isinstance(value, list) and any(equal(v, operand) for v in value)
        case Test.STARTS_WITH:
            return isinstance(value, str) and value.startswith(str(operand))
        case Test.EXISTS:
            return (value is not None) == operand
    if kind(value) != kind(operand) or kind(value) not in ("number", "string"):
        return False
    a: Any = [ord(c) for c in value] if isinstance(value, str) else value
    b: Any = [ord(c) for c in operand] if isinstance(operand, str) else operand
    answers: dict[Test, bool] = {Test.LT: a < b, Test.LTE: a <= b, Test.GT: a > b, Test.GTE: a >= b}
    return answers[condition.test]


def passes(found: Item, where: Condition | Filter) -> bool:
    if isinstance(where, Condition):
        return holds(found, where)
    return (
        all(passes(found, part) for part in where.all)
        and (not where.any or any(passes(found, part) for part in where.any))
        and not any(passes(found, part) for part in where.none)
    )
