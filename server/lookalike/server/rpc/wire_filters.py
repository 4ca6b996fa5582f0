"""Filters from the wire: every rule of `lookalike.v1.Filter` is checked here."""

from __future__ import annotations

from lookalike.backends.errors import FilterInvalid, InvalidArgument
from lookalike.server.domain import Condition, Filter, Test
from lookalike.server.limits import Limits
from lookalike.server.rpc.wire import read_scalar
from lookalike.v1 import types_pb2

OWN_FIELDS = ("@id", "@create_time", "@update_time")
_ORDERED = frozenset({Test.LT, Test.LTE, Test.GT, Test.GTE})


def read_filter(message: types_pb2.Filter, limits: Limits, at: str = "filter") -> Filter:
    """Return a filter. Raises FilterInvalid with the path of the offending part."""
    return _Reader(limits).filter(message, at, 1)


class _Reader:
    """Reads one filter; counts its conditions over all levels."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._count = 0

    def filter(self, message: types_pb2.Filter, at: str, depth: int) -> Filter:
        if depth > self._limits.max_filter_depth:
            raise FilterInvalid(
                f"The filter has more than {self._limits.max_filter_depth} levels.",
                field=at,
                limit=self._limits.max_filter_depth,
            )
        return Filter(
            *(
                tuple(
                    self.condition(condition, f"{at}.{part}[{i}]", depth)
                    for i, condition in enumerate(getattr(message, part))
                )
                for part in ("all", "any", "none")
            )
        )

    def condition(self, message: types_pb2.Condition, at: str, depth: int) -> Condition | Filter:
        self._count += 1
        if self._count > self._limits.max_filter_conditions:
            raise FilterInvalid(
                f"The filter has more than {self._limits.max_filter_conditions} conditions.",
                field=at,
                limit=self._limits.max_filter_conditions,
            )
        test = message.WhichOneof("test")
        if test is None:
            raise FilterInvalid(
                f"The condition has no test; set one of {', '.join(Test)} or group.", field=at
            )
        if test == "group":
            if message.field:
                raise FilterInvalid("A group has no field.", field=f"{at}.field")
            return self.filter(message.group, f"{at}.group", depth + 1)
        self._check_field(message.field, f"{at}.field")
        try:
            operand = self._operand(message, Test(test), f"{at}.{test}")
        except FilterInvalid:
            raise
        except InvalidArgument as error:
            raise FilterInvalid(error.message, field=error.field) from error
        return Condition(message.field, Test(test), operand)

    def _check_field(self, name: str, at: str) -> None:
        if not name:
            raise FilterInvalid("The condition has no field.", field=at)
        if len(name.encode()) > self._limits.max_metadata_bytes:
            raise FilterInvalid("The field's name is longer than any metadata can be.", field=at)
        if name.startswith("@") and name not in OWN_FIELDS:
            raise FilterInvalid(
                f"An item has no field {name[:80]!r} of its own; it has {', '.join(OWN_FIELDS)}.",
                field=at,
            )

    def _operand(self, message: types_pb2.Condition, test: Test, at: str) -> object:
        value = getattr(message, test)
        match test:
            case Test.STARTS_WITH | Test.EXISTS:
                return value
            case Test.ANY_OF | Test.NONE_OF:
                self._check_values(len(value.values), at)
                return tuple(
                    read_scalar(entry, f"{at}[{i}]") for i, entry in enumerate(value.values)
                )
        operand = read_scalar(value, at)
        if test in _ORDERED and (operand is None or isinstance(operand, bool)):
            raise FilterInvalid(f"{test} compares with a number or a string.", field=at)
        return operand

    def _check_values(self, count: int, at: str) -> None:
        if count > self._limits.max_filter_values:
            raise FilterInvalid(
                f"{at} has {count} values; {self._limits.max_filter_values} is the most.",
                field=at,
                limit=self._limits.max_filter_values,
            )
