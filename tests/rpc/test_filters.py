from __future__ import annotations

import math

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from lookalike.backends.errors import FilterInvalid
from lookalike.server.domain import Condition, Filter, Test
from lookalike.server.limits import Limits
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.v1 import types_pb2

LIMITS = Limits()


def read(json: dict[str, object]) -> Filter:
    return read_filter(ParseDict(json, types_pb2.Filter()), LIMITS)


def nested(levels: int) -> dict[str, object]:
    found: dict[str, object] = {"all": [{"field": "a", "eq": 1}]}
    for _ in range(levels - 1):
        found = {"any": [{"group": found}]}
    return found


def test_every_test_is_read_with_its_operand() -> None:
    operands: dict[str, object] = {
        "eq": None,
        "ne": True,
        "lt": 1.5,
        "lte": "b",
        "gt": 0,
        "gte": "",
        "any_of": ["a", 1, None, False],
        "none_of": [],
        "contains": "x",
        "starts_with": "ac",
        "exists": False,
    }
    found = read({"all": [{"field": "a.b", name: value} for name, value in operands.items()]})
    expected = [
        Condition("a.b", Test(name), tuple(value) if isinstance(value, list) else value)
        for name, value in operands.items()
    ]
    assert list(found.all) == expected
    assert len(expected) == len(Test)


def test_the_three_parts_and_groups_are_kept_apart() -> None:
    one = {"field": "@id", "eq": "x"}
    found = read({"all": [one], "any": [{"group": {"none": [one]}}], "none": [one, one]})
    leaf = Condition("@id", Test.EQ, "x")
    assert found == Filter((leaf,), (Filter(none=(leaf,)),), (leaf, leaf))


def test_an_empty_filter_is_false() -> None:
    assert not read({})


@pytest.mark.parametrize(
    ("json", "field"),
    [
        ({"all": [{"field": "a"}]}, "filter.all[0]"),
        ({"all": [{"eq": 1}]}, "filter.all[0].field"),
        ({"none": [{"field": "a", "group": {}}]}, "filter.none[0].field"),
        ({"any": [{"field": "@created", "eq": 1}]}, "filter.any[0].field"),
        ({"all": [{"field": "a", "eq": 1}, {"field": "a", "eq": [1]}]}, "filter.all[1].eq"),
        ({"all": [{"field": "a", "ne": {"b": 1}}]}, "filter.all[0].ne"),
        ({"all": [{"field": "a", "lt": True}]}, "filter.all[0].lt"),
        ({"all": [{"field": "a", "gte": None}]}, "filter.all[0].gte"),
        ({"all": [{"field": "a", "any_of": [1, [2]]}]}, "filter.all[0].any_of[1]"),
        ({"all": [{"field": "a", "contains": {}}]}, "filter.all[0].contains"),
        ({"all": [{"group": {"any": [{"field": "a"}]}}]}, "filter.all[0].group.any[0]"),
        ({"all": [{"field": "x" * 17000, "eq": 1}]}, "filter.all[0].field"),
    ],
)
def test_the_offending_part_is_named(json: dict[str, object], field: str) -> None:
    with pytest.raises(FilterInvalid) as caught:
        read(json)
    assert caught.value.field == field


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_no_operand(value: float) -> None:
    condition = types_pb2.Condition(field="a", lt=Value(number_value=value))
    with pytest.raises(FilterInvalid):
        read_filter(types_pb2.Filter(all=[condition]), LIMITS)


def test_an_operand_without_content_is_refused() -> None:
    with pytest.raises(FilterInvalid):
        read_filter(types_pb2.Filter(all=[types_pb2.Condition(field="a", eq=Value())]), LIMITS)


def test_eight_levels_are_the_most() -> None:
    read(nested(8))
    with pytest.raises(FilterInvalid, match="8 levels"):
        read(nested(9))


def test_256_conditions_in_all_are_the_most() -> None:
    leaf = {"field": "a", "eq": 1}
    group = {"group": {"any": [leaf] * 99}}  # a group is a condition, too
    read({"all": [group, group], "none": [leaf] * 56})
    with pytest.raises(FilterInvalid, match="256 conditions"):
        read({"all": [group, group], "none": [leaf] * 57})


def test_a_thousand_values_are_the_most() -> None:
    read({"all": [{"field": "a", "any_of": ["x"] * 1000}]})
    with pytest.raises(FilterInvalid, match="1000"):
        read({"all": [{"field": "a", "none_of": ["x"] * 1001}]})
