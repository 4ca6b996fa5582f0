from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import example, given
from hypothesis import strategies as st

from lookalike.client import F, filters
from lookalike.client._filter_text import parse
from lookalike.client.errors import FilterInvalid
from lookalike.client.filters import All, Not, Test, Where, compile_filter


def message(where: Where | str | None) -> Any:
    return MessageToDict(compile_filter(where), preserving_proto_field_name=True)


SAME = [
    (F.price < 100, "price<100", {"field": "price", "lt": 100.0}),
    (F.price <= 100, "price <= 100", {"field": "price", "lte": 100.0}),
    (F.price > -1.5, "price > -1.5", {"field": "price", "gt": -1.5}),
    (F["size.width"] >= 3, "size.width>=3", {"field": "size.width", "gte": 3.0}),
    (F.brand == "acme", 'brand = "acme"', {"field": "brand", "eq": "acme"}),
    (F.brand == "acme", "brand == 'acme'", {"field": "brand", "eq": "acme"}),
    (F.brand != "acme", "brand != 'acme'", {"field": "brand", "ne": "acme"}),
    (F.brand != "acme", "brand <> 'acme'", {"field": "brand", "ne": "acme"}),
    (F.x == None, "x = null", {"field": "x", "eq": None}),
    (F.x == True, "x = TRUE", {"field": "x", "eq": True}),
    (F.b.in_(["a", "b"]), 'b in ("a","b")', {"field": "b", "any_of": ["a", "b"]}),
    (F.b.not_in([1]), "b NOT IN (1)", {"field": "b", "none_of": [1.0]}),
    (F.tags.contains("red"), 'tags contains "red"', {"field": "tags", "contains": "red"}),
    (F.name.startswith("a"), 'name starts with "a"', {"field": "name", "starts_with": "a"}),
    (F["size.width"].exists(), "exists size.width", {"field": "size.width", "exists": True}),
    (F.x.exists(False), "not exists x", {"field": "x", "exists": False}),
    (F["@id"] == "7", '@id = "7"', {"field": "@id", "eq": "7"}),
    (F["odd key"] == 1, "`odd key` = 1", {"field": "odd key", "eq": 1.0}),
    (F["in"] == 1, "`in` = 1", {"field": "in", "eq": 1.0}),
    (F.größe == 1, "größe = 1", {"field": "größe", "eq": 1.0}),
]


@pytest.mark.parametrize(("where", "text", "condition"), SAME)
def test_code_and_text_compile_to_the_same_condition(
    where: Where, text: str, condition: Any
) -> None:
    assert message(where) == message(text) == {"all": [condition]}


def test_the_three_lists_of_a_filter_are_used_before_nesting() -> None:
    where = (F.a == 1) & ((F.b == 2) | (F.c == 3)) & ~(F.d == 4) & ~((F.e == 5) | (F.f == 6))
    assert message(where) == {
        "all": [{"field": "a", "eq": 1.0}],
        "any": [{"field": "b", "eq": 2.0}, {"field": "c", "eq": 3.0}],
        "none": [
            {"field": "d", "eq": 4.0},
            {"field": "e", "eq": 5.0},
            {"field": "f", "eq": 6.0},
        ],
    }


def test_two_alternatives_do_not_run_into_one() -> None:
    where = ((F.a == 1) | (F.b == 2)) & ((F.c == 3) | (F.d == 4))
    assert message(where) == {
        "any": [{"field": "a", "eq": 1.0}, {"field": "b", "eq": 2.0}],
        "all": [{"group": {"any": [{"field": "c", "eq": 3.0}, {"field": "d", "eq": 4.0}]}}],
    }


def test_the_text_of_the_documentation_compiles() -> None:
    text = 'price<100 and brand="acme" or not (tags contains "red")'
    assert message(text) == {
        "any": [
            {"group": {"all": [{"field": "price", "lt": 100.0}, {"field": "brand", "eq": "acme"}]}},
            {"group": {"none": [{"field": "tags", "contains": "red"}]}},
        ]
    }


def test_a_chain_of_one_operator_is_not_nested() -> None:
    assert len(compile_filter(" and ".join(["a=1"] * 50)).all) == 50
    assert len(compile_filter(" or ".join(["a=1"] * 50)).any) == 50


def test_none_lets_everything_through() -> None:
    assert message(None) == {}


NAMES = st.one_of(
    st.sampled_from(["price", "size.width", "a-b", "@id", "not", "größe", "x.0"]),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8"), max_size=10),
)
TESTS = st.one_of(
    st.builds(
        Test, NAMES, st.sampled_from(["eq", "ne", "lt", "lte", "gt", "gte", "contains"]), SCALARS
    ),
    st.builds(
        Test,
        NAMES,
        st.sampled_from(["any_of", "none_of"]),
        st.lists(SCALARS, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(Test, NAMES, st.just("starts_with"), st.text(st.characters(codec="utf-8"))),
    st.builds(Test, NAMES, st.just("exists"), st.booleans()),
)
WHERES = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: All(tuple(p))),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: filters.Any(tuple(p))),
        inner.map(lambda p: ~p),
    ),
    max_leaves=8,
)


@given(WHERES)
@example(where=F.price == -0.0)
def test_the_text_of_a_condition_reads_back_as_the_same_condition(where: Where) -> None:
    assert parse(str(where)) == where
    assert compile_filter(str(where)) == compile_filter(where)


FIELDS = ["a", "b", "c"]
BITS = st.recursive(
    st.sampled_from(FIELDS).map(lambda name: Test(name, "eq", True)),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        inner.map(lambda p: ~p),
    ),
    max_leaves=8,
)


def holds(where: Where, item: dict[str, bool]) -> bool:
    match where:
        case Test(name, _, _):
            return item[name]
        case All(parts):
            return all(holds(p, item) for p in parts)
        case filters.Any(parts):
            return any(holds(p, item) for p in parts)
        case Not(part):
            return not holds(part, item)
    raise AssertionError


def passes(filter_: Any, item: dict[str, bool]) -> bool:
    def one(c: Any) -> bool:
        return passes(c.group, item) if c.HasField("group") else item[c.field]

    some = any(map(one, filter_.any)) if filter_.any else True
    return all(map(one, filter_.all)) and some and not any(map(one, filter_.none))


@given(BITS, st.fixed_dictionaries({name: st.booleans() for name in FIELDS}))
def test_what_is_compiled_means_what_was_written(where: Where, item: dict[str, bool]) -> None:
    assert passes(compile_filter(where), item) == holds(where, item)


@given(st.text(alphabet="ab=<>!()\"'`\\ ,.1-andortifexsc\n", max_size=30))
def test_any_text_is_read_or_refused_with_a_caret(text: str) -> None:
    try:
        where = parse(text)
    except FilterInvalid as error:
        shown = error.message.splitlines()
        assert len(shown) == 3
        assert shown[2].strip() == "^"
        assert len(shown[2]) - 1 <= len(shown[1]) + 2
    else:
        assert parse(str(where)) == where


@pytest.mark.parametrize(
    ("text", "says", "column"),
    [
        ("", "Expected a field here", 0),
        ("price", "After the field 'price'", 5),
        ("price <", "Expected a value after '<'", 7),
        ("price < and", "Text needs quotes", 8),
        ("brand = acme", 'Text needs quotes: "acme"', 8),
        ('brand = "acme', "This quote is never closed", 8),
        ("a = 1 b = 2", 'Expected "and", "or" or the end', 6),
        ("(a = 1", 'Expected ")"', 6),
        ("a in 1", 'Expected "("', 5),
        ("a in (1", 'Expected "," or ")"', 7),
        ("a starts with 1", "Only a text can be the start", 14),
        ("not = 1", "Expected a field here", 4),
        ("and = 1", "needs backticks", 0),
        ("a = 1 ; b", "Not understood", 6),
        (r'a = "\q"', "may follow a backslash", 4),
        ("a = 12abc", "Not understood", 4),
    ],
)
def test_a_bad_text_says_what_is_wrong_and_where(text: str, says: str, column: int) -> None:
    with pytest.raises(FilterInvalid) as caught:
        parse(text)
    what, shown, caret = caught.value.message.splitlines()
    assert says in what
    assert shown == "  " + text
    assert caret.index("^") == column + 2


def test_a_long_text_is_shown_around_the_place() -> None:
    with pytest.raises(FilterInvalid) as caught:
        parse(" and ".join(["price < 100"] * 40) + " and oops")
    assert max(map(len, caught.value.message.splitlines())) < 120


def test_deep_nesting_is_refused_without_a_crash() -> None:
    with pytest.raises(FilterInvalid, match="levels"):
        parse("(" * 100_000)
    with pytest.raises(FilterInvalid, match="levels"):
        parse("not " * 100_000 + "a = 1")


def test_python_operators_that_cannot_work_say_what_does() -> None:
    with pytest.raises(TypeError, match=r"&, \| and ~"):
        bool(F.a == 1)
    with pytest.raises(TypeError, match=r"&, \| and ~"):
        _ = 1 < F.a < 3


def test_numpy_numbers_and_times_are_operands() -> None:
    when = datetime(2024, 1, 2, tzinfo=UTC)
    assert message(F.a == np.float32(1.5)) == {"all": [{"field": "a", "eq": 1.5}]}
    assert message(F.a < when) == {"all": [{"field": "a", "lt": "2024-01-02T00:00:00Z"}]}


@pytest.mark.parametrize("operand", [[1], {"a": 1}, object(), float("nan"), 2**60])
def test_operands_that_cannot_be_compared_are_refused(operand: object) -> None:
    with pytest.raises(FilterInvalid):
        compile_filter(F.a == operand)


def test_what_is_no_condition_is_refused() -> None:
    with pytest.raises(FilterInvalid, match="made with F"):
        compile_filter(3)  # type: ignore[arg-type]
