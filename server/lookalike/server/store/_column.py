"""One metadata field of all items of a collection as arrays, and tests of it.

A test means here what it means in SQL, see `_filters`; operands that SQL may refuse are
left to it. One thread at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Mask
from lookalike.server.domain import Test

NULL, FALSE, TRUE, NUMBER, TEXT, LIST, OBJECT = range(7)
KINDS: Final[Mapping[str | None, int]] = {
    None: NULL,
    "null": NULL,
    "false": FALSE,
    "true": TRUE,
    "integer": NUMBER,
    "real": NUMBER,
    "text": TEXT,
    "array": LIST,
    "object": OBJECT,
}
"""Kinds of values by the names that json_type has for them."""

FIRST_ROOM: Final = 256
MOST_ANSWERS: Final = 64
"""Answers about texts that are kept, by test and operand."""

Scalar: TypeAlias = str | float | bool | None
_A = TypeVar("_A", bound=np.generic)


class Unanswerable(Exception):
    """Only SQL can tell."""


class Column:
    """One field of every row: its kind, and its value if it is a number, a text or a list."""

    def __init__(self, field: str) -> None:
        self.labels = field.split(".")
        self._kinds = np.zeros(FIRST_ROOM, np.uint8)
        self._numbers: NDArray[np.float64] | None = None
        self._codes: NDArray[np.int32] | None = None
        self._code_of: dict[tuple[int, str], int] = {}
        self._values: list[tuple[int, str]] = []
        self._text_bytes = 0
        self._answers: dict[object, Mask] = {}

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes; 200 for each distinct text beyond its characters."""
        arrays = (self._kinds, self._numbers, self._codes)
        held = sum(array.nbytes for array in arrays if array is not None)
        answers = sum(answer.nbytes for answer in self._answers.values())
        return held + answers + self._text_bytes + 200 * len(self._values)

    def cell(self, document: object) -> tuple[int, object]:
        """Return kind and value of the field in metadata."""
        value = document
        for label in self.labels:
            if not isinstance(value, dict) or label not in value:
                return NULL, None
            value = value[label]
        match value:
            case None:
                return NULL, None
            case bool():
                return (TRUE if value else FALSE), None
            case int() | float():
                return NUMBER, _double(value)
            case str():
                return TEXT, value
            case list():
                return LIST, json.dumps(value, ensure_ascii=False)
        return OBJECT, None

    def put(self, places: NDArray[np.int64], kinds: Sequence[int], values: Sequence[Any]) -> None:
        """Write cells; `places` may lie behind all that are there."""
        kind = np.array(kinds, np.uint8)
        room = int(places.max(initial=-1)) + 1
        self._kinds = with_room(self._kinds, room)
        self._kinds[places] = kind
        if (chosen := np.flatnonzero(kind == NUMBER)).size or self._numbers is not None:
            if self._numbers is None:
                self._numbers = np.full(len(self._kinds), np.nan)
            self._numbers = with_room(self._numbers, room)
            self._numbers[places] = np.nan
            self._numbers[places[chosen]] = [float(values[i]) for i in chosen.tolist()]
        chosen = np.flatnonzero((kind == TEXT) | (kind == LIST))
        if chosen.size or self._codes is not None:
            if self._codes is None:
                self._codes = np.full(len(self._kinds), -1, np.int32)
            self._codes = with_room(self._codes, room)
            self._codes[places] = -1
            self._codes[places[chosen]] = [self._code(kinds[i], values[i]) for i in chosen.tolist()]

    def _code(self, kind: int, text: str) -> int:
        if (code := self._code_of.get((kind, text))) is None:
            code = self._code_of[kind, text] = len(self._values)
            self._values.append((kind, text))
            self._text_bytes += len(text.encode())
        return code

    def keep(self, chosen: Mask) -> None:
        """Forget all rows but the chosen ones, which are the first len(chosen)."""
        count = len(chosen)
        self._kinds = self._kinds[:count][chosen]
        if self._numbers is not None:
            self._numbers = self._numbers[:count][chosen]
        if self._codes is not None:
            self._codes = self._codes[:count][chosen]

    # ------------------------------------------------------------------ tests

    def passes(self, test: Test, operand: object, count: int) -> Mask:
        """Return which of the first `count` rows pass. Raises Unanswerable."""
        match test:
            case Test.EQ:
                return self._equal(scalar(operand), count)
            case Test.NE:
                return ~self._equal(scalar(operand), count)
            case Test.LT | Test.LTE | Test.GT | Test.GTE:
                return self._ordered(test, scalar(operand), count)
            case Test.ANY_OF:
                return self._any_of(_scalars(operand), count)
            case Test.NONE_OF:
                return ~self._any_of(_scalars(operand), count)
            case Test.CONTAINS:
                wanted = scalar(operand)
                return self._of_values(
                    test,
                    wanted,
                    count,
                    LIST,
                    lambda v: any(_same(e, wanted) for e in json.loads(v)),
                )
            case Test.STARTS_WITH:
                prefix = scalar(operand)
                if not isinstance(prefix, str):
                    raise Unanswerable
                return self._of_values(test, prefix, count, TEXT, lambda v: v.startswith(prefix))
            case Test.EXISTS:
                if not isinstance(operand, bool):
                    raise Unanswerable
                kinds = self._kinds[:count]
                return ~_is(kinds, NULL) if operand else _is(kinds, NULL)

    def _equal(self, operand: Scalar, count: int) -> Mask:
        match operand:
            case None:
                return _is(self._kinds[:count], NULL)
            case bool():
                return _is(self._kinds[:count], TRUE if operand else FALSE)
            case str():
                code = self._code_of.get((TEXT, operand))
                if code is None or self._codes is None:
                    return np.zeros(count, np.bool_)
                return _is(self._codes[:count], code)
        if self._numbers is None:
            return np.zeros(count, np.bool_)
        return _is(self._numbers[:count], operand)

    def _ordered(self, test: Test, operand: Scalar, count: int) -> Mask:
        if isinstance(operand, str):
            text: str = operand
            tests: dict[Test, Callable[[str], bool]] = {
                Test.LT: lambda v: v < text,
                Test.LTE: lambda v: v <= text,
                Test.GT: lambda v: v > text,
                Test.GTE: lambda v: v >= text,
            }
            return self._of_values(test, text, count, TEXT, tests[test])
        if operand is None or isinstance(operand, bool):
            raise Unanswerable
        if self._numbers is None:
            return np.zeros(count, np.bool_)
        return COMPARE[test](self._numbers[:count], operand)

    def _any_of(self, operands: Sequence[Scalar], count: int) -> Mask:
        found = np.zeros(count, np.bool_)
        codes, numbers = [], []
        for operand in operands:
            if isinstance(operand, str):
                if (code := self._code_of.get((TEXT, operand))) is not None:
                    codes.append(code)
            elif operand is None or isinstance(operand, bool):
                found |= self._equal(operand, count)
            else:
                numbers.append(operand)
        if codes and self._codes is not None:
            among = np.zeros(len(self._values) + 1, np.bool_)
            among[codes] = True
            found |= among[self._codes[:count]]
        if numbers and self._numbers is not None:
            found |= np.isin(self._numbers[:count], np.array(numbers))
        return found

    def _of_values(
        self, test: Test, operand: Scalar, count: int, kind: int, says: Callable[[str], bool]
    ) -> Mask:
        """Ask each distinct value of a kind once; rows pass as their values do."""
        if self._codes is None:
            return np.zeros(count, np.bool_)
        asked = (test, type(operand), operand)
        known = self._answers.get(asked, np.zeros(1, np.bool_))
        if len(known) <= len(self._values):
            new = [k == kind and says(v) for k, v in self._values[len(known) - 1 :]]
            # The last one is for rows without a code.
            known = np.concatenate([known[:-1], np.array([*new, False], np.bool_)])
            if len(self._answers) >= MOST_ANSWERS:
                self._answers.clear()
            self._answers[asked] = known
        return known[self._codes[:count]]


COMPARE: Final[Mapping[Test, Callable[[Any, Any], Mask]]] = {
    Test.LT: np.less,
    Test.LTE: np.less_equal,
    Test.GT: np.greater,
    Test.GTE: np.greater_equal,
}


def scalar(operand: object) -> Scalar:
    """Return an operand as it is compared; raises Unanswerable for what SQL may refuse."""
    if operand is None or isinstance(operand, bool):
        return operand
    try:
        if isinstance(operand, str):
            operand.encode()
            return operand
        if isinstance(operand, int | float) and not math.isnan(number := float(operand)):
            return number
    except (UnicodeEncodeError, OverflowError):
        pass
    raise Unanswerable


def _scalars(operand: object) -> list[Scalar]:
    if not isinstance(operand, tuple | list):
        raise Unanswerable
    return [scalar(value) for value in operand]


def _is(values: NDArray[Any], wanted: float) -> Mask:
    mask: Mask = values == wanted
    return mask


def _same(value: object, wanted: Scalar) -> bool:
    """Tell whether an element of a list equals a scalar: of one kind, numbers as doubles."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, float):
        return float(value) == wanted
    return type(value) is type(wanted) and value == wanted


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of very many digits
        return math.inf if value > 0 else -math.inf


def with_room(array: NDArray[_A], room: int) -> NDArray[_A]:
    """Return an array that is longer if need be, with zeros behind."""
    if room <= len(array):
        return array
    grown = np.zeros(max(room, len(array) + len(array) // 2, FIRST_ROOM), array.dtype)
    grown[: len(array)] = array
    return grown
