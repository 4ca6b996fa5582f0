"""What to look for, as it is typed: `"a red shoe" + 2:shoe.jpg - like:boots`."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from lookalike.client.cli._exit import UsageError

if TYPE_CHECKING:
    from lookalike.client import Part

_WEIGHTED = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(.*)", re.DOTALL)
_PATH_LIKE = ("/", "./", "../")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Operand:
    """One thing to look for."""

    kind: Literal["picture", "text", "like"]
    value: str
    """A path or "-", words, or an id."""
    weight: float = 1.0
    """Below 0 for what is to be avoided."""


def is_there(name: str) -> bool:
    """Whether a name is that of a file or a pipe; folders are none."""
    return os.path.exists(name) and not os.path.isdir(name)


def parse_query(
    words: Sequence[str], *, is_file: Callable[[str], bool] = is_there
) -> list[Operand]:
    """Read the arguments of a search: things to look for, with + and - between them.

    A thing is a file, "-" for a picture on stdin, `like:ID`, or words; what has the
    suffix of a picture, or begins like a path, is never words. A number and a colon
    before it is its weight. `text:` before words that could be read otherwise.

    Raises:
        UsageError: they cannot be read so; the message says what could be meant.
    """
    operands: list[Operand] = []
    for at, word in enumerate(words):
        if at % 2 == 0:
            sign = -1.0 if at and words[at - 1] == "-" else 1.0
            operand = _operand(word, is_file, is_alone=len(words) == 1)
            operands.append(replace(operand, weight=sign * operand.weight))
        elif word not in ("+", "-"):
            raise UsageError(
                f"put + or - between {words[at - 1]!r} and {word!r}, or quotes around both"
            )
    if not operands:
        raise UsageError("say what to look for: a picture, words, or like:ID")
    if len(words) % 2 == 0:
        raise UsageError(f"something to look for must follow the last {words[-1]}")
    if sum(one.kind == "picture" and one.value == STDIN for one in operands) > 1:
        raise UsageError("only one picture can come on stdin")
    return operands


def _operand(word: str, is_file: Callable[[str], bool], is_alone: bool) -> Operand:
    plain = _unweighted(word, is_file)
    weighted = None if is_file(word) else _WEIGHTED.fullmatch(word)
    if weighted is None:
        return plain
    operand, weight = _unweighted(weighted[2], is_file), float(weighted[1])
    if is_alone and operand.kind == plain.kind == "text":
        return plain  # "3:10 to Yuma": one thing alone needs no weight
    if not (weight and math.isfinite(weight)):
        raise UsageError(f"the weight of {word!r} must be above 0: 2:shoe.jpg, 0.5:red")
    return replace(operand, weight=weight)


def _unweighted(word: str, is_file: Callable[[str], bool]) -> Operand:
    if word == STDIN or is_file(word):
        return Operand("picture", word)
    for prefix, kind in (("like:", "like"), ("text:", "text")):
        if word.startswith(prefix):
            if not word[len(prefix) :].strip():
                raise UsageError(f"something must follow {prefix}")
            return Operand(kind, word[len(prefix) :])  # type: ignore[arg-type]
    if not word.strip() or word == "+":
        raise UsageError("say what to look for: a picture, words, or like:ID")
    return Operand("picture" if _must_be_file(word) else "text", word)


def _must_be_file(word: str) -> bool:
    """Whether a name that is not there is still that of a file, and not words."""
    from lookalike.client._files import SUFFIXES

    return word.startswith(_PATH_LIKE) or PurePath(word).suffix.lower() in SUFFIXES


def query_of(operands: Sequence[Operand]) -> dict[str, Any]:
    """Return what `Client.search` takes for the operands; pictures are read.

    Raises:
        FileUnreadable: with the field "picture", so that the cure can be named.
    """
    if len(operands) > 1:
        return {"parts": [_part(operand) for operand in operands]}
    (operand,) = operands
    match operand.kind:
        case "picture":
            return {"image": read_picture(operand.value)}
        case "like":
            return {"like": operand.value}
        case "text":
            return {"text": operand.value}


def _part(operand: Operand) -> Part:
    from lookalike.client import Part

    return Part(**query_of([operand]), weight=operand.weight)


def read_picture(name: str) -> bytes:
    """Return the bytes of a picture: a file, or what comes on stdin."""
    if name == STDIN:
        return sys.stdin.buffer.read()
    from pathlib import Path

    from lookalike.client._pictures import read_file
    from lookalike.client.errors import FileUnreadable

    try:
        return read_file(Path(name))
    except FileUnreadable as error:
        error.field = "picture"
        raise


def title_of(operands: Sequence[Operand]) -> str:
    """Return the search in words: like cat.jpg, or “a red shoe” + 2 x shoe.jpg."""
    if len(operands) == 1:
        (one,) = operands
        return _quoted(one) if one.kind == "text" else f"like {one.value}"
    shown = ""
    for operand in operands:
        sign = " - " if operand.weight < 0 else " + " if shown else ""
        times = f"{abs(operand.weight):g} x " if abs(operand.weight) != 1 else ""
        shown += f"{sign}{times}{_quoted(operand)}"
    return shown


def _quoted(operand: Operand) -> str:
    return f"“{operand.value}”" if operand.kind == "text" else operand.value


def read_region(text: str) -> tuple[float, float, float, float] | None:
    """Read `--region L,T,W,H`; None if it was not given."""
    if not text:
        return None
    try:
        left, top, width, height = map(float, text.split(","))
    except ValueError:
        raise UsageError(
            f"--region is left,top,width,height in fractions of the picture, as in "
            f"0.1,0.2,0.5,0.5; not {text!r}"
        ) from None
    return left, top, width, height
