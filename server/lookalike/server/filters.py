"""Conditions on items: nouns of the domain, in a file of their own. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Test(StrEnum):
    """The tests of `lookalike.v1.Condition`, by the names they have there."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LTE = "lte"
    GT = "gt"
    GTE = "gte"
    ANY_OF = "any_of"
    NONE_OF = "none_of"
    CONTAINS = "contains"
    STARTS_WITH = "starts_with"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One test of one field; equal to others that mean the same: true is not 1. The wire layer has checked depth, count and operand kind.

    `field` is a dotted path or "@id", "@create_time", "@update_time" (RFC 3339
    strings). `operand`: a JSON scalar or null for EQ to GTE (LT..GTE: number or
    string) and CONTAINS, a tuple of scalars for ANY_OF and NONE_OF, a string for
    STARTS_WITH, a bool for EXISTS.
    """

    field: str
    test: Test
    operand: object

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Condition):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        values = self.operand if isinstance(self.operand, tuple) else (self.operand,)
        flags = tuple(isinstance(value, bool) for value in values)
        return self.field, self.test, self.operand, flags


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `all`, at least one of `any` (if there are any), none of `none`."""

    all: tuple[Condition | Filter, ...] = ()
    any: tuple[Condition | Filter, ...] = ()
    none: tuple[Condition | Filter, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.all or self.any or self.none)
