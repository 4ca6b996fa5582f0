"""The text form of conditions, read by recursive descent.

    or    := and ("or" and)*
    and   := unary ("and" unary)*
    unary := "not" unary | "(" or ")" | test
    test  := "exists" field
           | field ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
           | field ["not"] "in" "(" value ("," value)* ")"
           | field "contains" value | field "starts" "with" string
    field := name | "`" any text "`"            value := string | number | true | false | null

Words are read in upper and lower case alike. Strings are in " or ', with JSON's escapes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn, cast

from lookalike.client.errors import FilterInvalid
from lookalike.client.filters import (
    KEYWORDS,
    PLAIN_NAME,
    All,
    Any,
    Not,
    Operator,
    Test,
    Where,
)

MAX_DEPTH = 32
"""Parentheses and nots; the server takes 8 levels after simplification."""

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<quoted>`(?:[^`\\]|\\.)*`)
      | (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<word>"""
    + PLAIN_NAME.pattern
    + r""")
      | (?P<symbol><=|>=|!=|<>|==|[=<>(),])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPERATORS: dict[str, Operator] = {
    "=": "eq",
    "==": "eq",
    "!=": "ne",
    "<>": "ne",
    "<": "lt",
    "<=": "lte",
    ">": "gt",
    ">=": "gte",
}
_CONSTANTS: dict[str, object] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


def parse(text: str) -> Where:
    """Read a condition.

    Raises:
        FilterInvalid: the message shows the text with a caret under the place.
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._scan()
        self._next = 0
        self._depth = 0

    def parse(self) -> Where:
        where = self._or()
        token = self._peek()
        if token.kind != "end":
            self._fail(token.at, 'Expected "and", "or" or the end here')
        return where

    # ------------------------------------------------------------ grammar

    def _or(self) -> Where:
        parts = [self._and()]
        while self._take_word("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _and(self) -> Where:
        parts = [self._unary()]
        while self._take_word("and"):
            parts.append(self._unary())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _unary(self) -> Where:
        start = self._peek()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(start.at, f"More than {MAX_DEPTH} levels of parentheses and nots")
        try:
            return self._unary_inside()
        finally:
            self._depth -= 1

    def _unary_inside(self) -> Where:
        if self._take_word("not"):
            after = self._peek()
            part = self._unary()
            if after.is_word("exists") and isinstance(part, Test):
                return Test(part.field, "exists", False)
            return Not(part)
        if self._take_symbol("("):
            where = self._or()
            if not self._take_symbol(")"):
                self._fail(self._peek().at, 'Expected ")", "and" or "or" here')
            return where
        return self._test()

    def _test(self) -> Where:
        if self._take_word("exists"):
            return Test(self._field(), "exists", True)
        field = self._field()
        token = self._advance()
        if token.kind == "symbol" and token.text in _OPERATORS:
            return Test(field, _OPERATORS[token.text], self._value(token.text))
        if token.is_word("contains"):
            return Test(field, "contains", self._value("contains"))
        if token.is_word("starts") and self._take_word("with"):
            value = self._peek()
            prefix = self._value("starts with")
            if not isinstance(prefix, str):
                self._fail(value.at, "Only a text can be the start of a text; put it in quotes")
            return Test(field, "starts_with", prefix)
        if token.is_word("in"):
            return Test(field, "any_of", self._values())
        if token.is_word("not") and self._take_word("in"):
            return Test(field, "none_of", self._values())
        self._fail(
            token.at,
            f"After the field {field!r}, expected =, !=, <, <=, >, >=, in, not in, contains "
            "or starts with",
        )

    def _field(self) -> str:
        token = self._advance()
        if token.kind == "quoted":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
        if token.kind == "word" and token.text.lower() not in KEYWORDS:
            return token.text
        if token.kind == "word":
            self._fail(token.at, f"Expected a field here; one named {token.text} needs backticks")
        if token.kind == "string":
            self._fail(token.at, "Expected a field here; odd field names go in `backticks`")
        self._fail(token.at, "Expected a field here")

    def _values(self) -> tuple[object, ...]:
        if not self._take_symbol("("):
            self._fail(self._peek().at, 'Expected "(" and a list of values here')
        values = [self._value("(")]
        while self._take_symbol(","):
            values.append(self._value(","))
        if not self._take_symbol(")"):
            self._fail(self._peek().at, 'Expected "," or ")" here')
        return tuple(values)

    def _value(self, after: str) -> object:
        token = self._advance()
        match token.kind:
            case "string":
                return self._unescape(token)
            case "number":
                return _number(token.text)
            case "word" if token.text.lower() in _CONSTANTS:
                return _CONSTANTS[token.text.lower()]
            case "word":
                self._fail(
                    token.at,
                    f'Text needs quotes: "{token.text}" (and the whole condition single quotes, '
                    "so that the shell leaves them)",
                )
            case _:
                self._fail(token.at, f"Expected a value after {after!r}")

    # ------------------------------------------------------------- tokens

    def _scan(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self._text):
            match = _TOKEN.match(self._text, at)
            if match is None:
                what = (
                    "This quote is never closed" if self._text[at] in "\"'`" else "Not understood"
                )
                self._fail(at, what)
            if match.lastgroup != "space":
                tokens.append(_Token(cast(str, match.lastgroup), match.group(), at))
            at = match.end()
        tokens.append(_Token("end", "", len(self._text)))
        return tokens

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _advance(self) -> _Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _take_word(self, word: str) -> bool:
        taken = self._peek().is_word(word)
        self._next += taken
        return taken

    def _take_symbol(self, symbol: str) -> bool:
        token = self._peek()
        taken = token.kind == "symbol" and token.text == symbol
        self._next += taken
        return taken

    def _unescape(self, token: _Token) -> str:
        body, quote = token.text[1:-1], token.text[0]
        if "\\" not in body:
            return body
        if quote == "'":
            body = re.sub(r"\\.|\"", _requoted, body, flags=re.DOTALL)
        try:
            return cast(str, json.loads(f'"{body}"', strict=False))
        except ValueError:
            self._fail(token.at, r"Only \" \\ \/ \b \f \n \r \t \uXXXX may follow a backslash")

    def _fail(self, at: int, what: str) -> NoReturn:
        line = re.sub(r"\s", " ", self._text)
        start = max(0, at - 60)
        shown = line[start : start + 100]
        raise FilterInvalid(f"{what}.\n  {shown}\n  {' ' * (at - start)}^", field="filter")


def _number(text: str) -> float | int:
    return int(text) if re.fullmatch(r"[-+]?\d{1,20}", text) else float(text)


def _requoted(match: re.Match[str]) -> str:
    """What a piece of a '...' string is inside "..."."""
    return {"\\'": "'", '"': '\\"'}.get(match.group(), match.group())
