"""Counts of metadata values: what is counted, how often, in which order."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from lookalike.backends.errors import FilterInvalid
from lookalike.server.domain import Condition, Filter, Json, Test
from lookalike.server.facets import fields_of
from lookalike.server.store import Store
from store.making import create, item, put

EVERYTHING = Filter()


def stored(store: Store, *metadata: Json) -> int:
    """Store an item for each metadata; return the collection's number."""
    number = create(store).number
    put(store, number, [item(f"i{i:05}", i + 1.0, one) for i, one in enumerate(metadata)])
    return number


def test_the_most_frequent_value_comes_first_and_equal_counts_go_by_value(store: Store) -> None:
    number = stored(store, *({"c": c} for c in ("z", "red", "a", "red", "b")))
    values, items = store.count_values(number, EVERYTHING, "c", 20)
    assert values == [("red", 2), ("a", 1), ("b", 1), ("z", 1)]
    assert items == 5


def test_booleans_numbers_and_texts_are_kept_apart(store: Store) -> None:
    number = stored(store, *({"c": c} for c in (True, 1.0, 1, "1", False, 0.0, "true", 2.5)))
    values, _ = store.count_values(number, EVERYTHING, "c", 20)
    assert values == [
        (1.0, 2),
        (False, 1),
        (True, 1),
        (0.0, 1),
        (2.5, 1),
        ("1", 1),
        ("true", 1),
    ]
    assert [type(value) for value, _ in values] == [float, bool, bool, float, float, str, str]


def test_elements_of_lists_count_one_by_one_and_once_for_an_item(store: Store) -> None:
    number = stored(
        store, {"t": ["a", "b", "a"]}, {"t": ["b"]}, {"t": "b"}, {"t": []}, {"t": [None, ["b"]]}
    )
    assert store.count_values(number, EVERYTHING, "t", 20) == ([("b", 3), ("a", 1)], 5)


def test_a_dotted_path_reaches_into_objects_which_are_no_values_themselves(store: Store) -> None:
    number = stored(store, {"a": {"b": "x"}}, {"a": {"b": None}}, {"a": "x"}, {"other": 1.0})
    assert store.count_values(number, EVERYTHING, "a.b", 20) == ([("x", 1)], 1)
    assert store.count_values(number, EVERYTHING, "a", 20) == ([("x", 1)], 3)
    assert store.count_values(number, EVERYTHING, "nothing", 20) == ([], 0)


def test_only_items_that_pass_are_counted(store: Store) -> None:
    number = stored(store, {"c": "red", "n": 1.0}, {"c": "red", "n": 2.0}, {"c": "blue", "n": 3.0})
    small = Filter(all=(Condition("n", Test.LT, 2.5),), none=(Condition("n", Test.EQ, 1.0),))
    assert store.count_values(number, small, "c", 20) == ([("red", 1)], 1)


def test_other_collections_are_not_counted(store: Store) -> None:
    number = stored(store, {"c": "red"})
    other = create(store, "other").number
    put(store, other, [item("x", 1.0, {"c": "blue"})])
    assert store.count_values(number, EVERYTHING, "c", 20) == ([("red", 1)], 1)


def test_the_limit_keeps_the_most_frequent(store: Store) -> None:
    number = stored(store, *({"c": f"v{i % 7}"} for i in range(30)))
    values, items = store.count_values(number, EVERYTHING, "c", 2)
    assert values == [("v0", 5), ("v1", 5)]
    assert items == 30


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "naïve", "$", "[0]", "a b", "%", ");--"])
def test_strange_names_are_names(store: Store, name: str) -> None:
    number = stored(store, {name: "x"})
    assert store.count_values(number, EVERYTHING, name, 20) == ([("x", 1)], 1)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_names_that_no_field_has_are_refused(store: Store, name: str) -> None:
    number = stored(store, {"c": "x"})
    with pytest.raises(FilterInvalid):
        store.count_values(number, EVERYTHING, name, 20)


def test_counts_are_those_of_a_plain_count(store: Store) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pool: list[Any] = [True, False, None, 0.0, 1.0, -1.5, "", "a", "A", "ü", "a\0b", {"x": 1.0}]
    made = [
        {"f": rng.choice([rng.choice(pool), [rng.choice(pool) for _ in range(rng.randrange(4))]])}
        for _ in range(200)
    ]
    number = stored(store, *made)
    expected: Counter[tuple[str, Any]] = Counter()
    for one in made:
        value = one["f"]
        elements = value if isinstance(value, list) else [value]
        expected.update(
            {(type(e).__name__, e) for e in elements if isinstance(e, bool | float | str)}
        )
    values, items = store.count_values(number, EVERYTHING, "f", 1000)
    assert {(type(v).__name__, v): n for v, n in values} == dict(expected)
    assert items == sum(one["f"] is not None for one in made)
    assert [n for _, n in values] == sorted((n for _, n in values), reverse=True)


# ------------------------------------------------------- which fields to count


def test_fields_with_few_values_are_found_and_those_of_most_items_come_first() -> None:
    metadata: list[dict[str, object]] = [
        {"name": f"file{i}", "kind": f"k{i % 3}", "size": {"w": float(i % 2)}} for i in range(50)
    ]
    metadata[0]["rare"] = True
    assert fields_of(metadata) == ["kind", "size.w", "rare"]


def test_fields_that_no_path_names_are_not_offered() -> None:
    assert (
        fields_of([{"a.b": 1.0, "": 1.0, "@id": "x", "o": {"": 1.0, "x.y": 2.0}, "n": None}]) == []
    )


def test_at_most_sixteen_fields_are_offered() -> None:
    assert len(fields_of([{f"f{i:02}": "x" for i in range(40)}])) == 16
