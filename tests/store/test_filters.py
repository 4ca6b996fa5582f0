"""Filters in SQL mean what the rules say, and what a plain evaluator makes of them.

Troubleshooting: a failing case prints the metadata and the filter; evaluate it by
hand with `passes` of the oracle, which follows the comments of lookalike.v1.Condition.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lookalike.backends.errors import FilterInvalid, InvalidArgument
from lookalike.server.domain import Condition, Filter, Test, View
from lookalike.server.store import Store, _tables
from store.making import create, do, item, put
from store.oracle import kind, passes

# -------------------------------------------------------- random cases, many

LABELS = [
    "a",
    "b",
    "c",
    'q"uo"te',
    "back\\slash",
    "é",
    "",
    "$",
    "[0]",
    "@type",
    "\n",
    "\\u0061",
    "%",
]
TEXTS = ["", "a", "A", "ab", "a%", "%", "_", "é", "\uffee", "😀", "a\x00b", "1", "true", '["a"]']
NUMBERS = [0.0, -0.0, 1.0, 1.5, -1.0, 0.1, 1e22, 2.0**53, 5e-324, 1.7976931348623157e308]

texts = st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
numbers = st.sampled_from(NUMBERS) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
labels = st.sampled_from(LABELS)
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(labels, v, max_size=3),
    max_leaves=6,
)
metadata = st.dictionaries(labels, values, max_size=4)
fields = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(bool) | st.sampled_from(
    ["@id", "a", "b", "a.b", "c.0"]
)


def conditions() -> st.SearchStrategy[Condition]:
    lists = st.lists(scalars, max_size=4).map(tuple)
    orders = [Test.LT, Test.LTE, Test.GT, Test.GTE]
    pairs = st.one_of(
        st.tuples(st.sampled_from([Test.EQ, Test.NE, Test.CONTAINS]), scalars),
        st.tuples(st.sampled_from(orders), numbers | texts),
        st.tuples(st.sampled_from([Test.ANY_OF, Test.NONE_OF]), lists),
        st.tuples(st.just(Test.STARTS_WITH), texts),
        st.tuples(st.just(Test.EXISTS), st.booleans()),
    )
    return st.builds(lambda field, pair: Condition(field, pair[0], pair[1]), fields, pairs)


def filters() -> st.SearchStrategy[Filter]:
    def group(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
        parts = st.lists(part, max_size=3).map(tuple)
        return st.builds(Filter, parts, parts, parts)

    return group(st.recursive(conditions(), group, max_leaves=5))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.open(tmp_path_factory.mktemp("filters") / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tables, "OFTEN", math.inf)  # so that it is SQL that answers
        yield opened
    opened.close()


numbering = itertools.count()


def agrees(store: Store, many: list[dict[str, Any]], asked: list[Filter]) -> None:
    number = create(store, f"c{next(numbering)}").number
    put(store, number, [item(f"i{n}", float(n), m) for n, m in enumerate(many)])
    found = store.list(number, Filter(), "", 1000, View.BASIC)
    for where in asked:
        wanted = sorted(f.key for f in found if passes(f, where))
        assert store.select_keys(number, where).tolist() == wanted, (where, many)
        assert store.count(number, where) == len(wanted)


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(many=st.lists(metadata, min_size=1, max_size=4), asked=filters())
def test_sql_agrees_with_the_evaluator(
    shared_store: Store, many: list[dict[str, Any]], asked: Filter
) -> None:
    agrees(shared_store, many, [asked, *(Filter((part,)) for part in asked.all)])


class Dice:
    """Metadata and filters by chance; faster than hypothesis, but it does not shrink."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def scalar(self) -> Any:
        return self.rng.choice([None, True, False, *NUMBERS[:6], *TEXTS])

    def value(self, depth: int) -> Any:
        roll = self.rng.random()
        if depth and roll < 0.15:
            return [self.value(depth - 1) for _ in range(self.rng.randrange(4))]
        return self.metadata(depth - 1) if depth and roll < 0.4 else self.scalar()

    def metadata(self, depth: int) -> dict[str, Any]:
        return {label: self.value(depth) for label in self.rng.sample(LABELS, 4)}

    def condition(self) -> Condition:
        own = ["@id", "@create_time"] if self.rng.random() < 0.1 else []
        path = ".".join(self.rng.choices(LABELS, k=self.rng.choice([1, 1, 2])))
        test = self.rng.choice(list(Test))
        operand: Any = self.scalar()
        match test:
            case Test.ANY_OF | Test.NONE_OF:
                operand = tuple(self.scalar() for _ in range(self.rng.randrange(5)))
            case Test.LT | Test.LTE | Test.GT | Test.GTE:
                operand = self.rng.choice([*NUMBERS, *TEXTS])
            case Test.STARTS_WITH:
                operand = self.rng.choice(TEXTS)
            case Test.EXISTS:
                operand = self.rng.random() < 0.5
        return Condition(self.rng.choice([path or "a", *own]), test, operand)

    def filter(self, depth: int) -> Filter:
        def parts() -> tuple[Condition | Filter, ...]:
            return tuple(
                self.filter(depth - 1) if depth and self.rng.random() < 0.2 else self.condition()
                for _ in range(self.rng.choice([0, 1, 1, 2]))
            )

        return Filter(parts(), parts(), parts())


def test_sql_agrees_on_thousands_of_random_filters(shared_store: Store) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = Dice(seed)
    for _ in range(12):
        many = [dice.metadata(2) for _ in range(40)]
        asked = [dice.filter(2) for _ in range(150)]
        asked += [Filter((dice.condition(),)) for _ in range(150)]
        agrees(shared_store, many, asked)


def test_sql_agrees_on_every_pair_of_values(shared_store: Store) -> None:
    number = create(shared_store, "pairs").number
    samples: list[Any] = [None, True, False, *NUMBERS, *TEXTS, [], {}, [1.0], ["a"], [None], [[]]]
    put(shared_store, number, [item(f"i{n}", 1.0, {"a": v}) for n, v in enumerate(samples)])
    put(shared_store, number, [item("missing", 1.0, {"b": 1.0})])
    found = shared_store.list(number, Filter(), "", 100, View.BASIC)
    checked = 0
    for test, operand in itertools.product(Test, [None, True, False, *NUMBERS, *TEXTS]):
        if test is Test.EXISTS and not isinstance(operand, bool):
            continue
        if test is Test.STARTS_WITH and not isinstance(operand, str):
            continue
        if test in (Test.LT, Test.LTE, Test.GT, Test.GTE) and kind(operand) in ("null", "bool"):
            continue
        several = test in (Test.ANY_OF, Test.NONE_OF)
        where = Filter((Condition("a", test, (operand, "zz") if several else operand),))
        wanted = sorted(f.id for f in found if passes(f, where))
        got = sorted(f.id for f in shared_store.list(number, where, "", 100, View.ID))
        assert got == wanted, where
        checked += len(found)
    assert checked > 5000


# --------------------------------------------------------------- rules by hand


def ids(store: Store, number: int, *conditions: Condition) -> set[str]:
    return {f.id for f in store.list(number, Filter(conditions), "", 1000, View.ID)}


def test_a_missing_field_is_null(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("null", 1.0, {"a": None}), item("none"), item("one", 1.0, {"a": 1.0})])
    unset = {"null", "none"}
    for test, operand, wanted in [
        (Test.EQ, None, unset),
        (Test.NE, None, {"one"}),
        (Test.NE, 2.0, {"null", "none", "one"}),
        (Test.NE, 1.0, unset),
        (Test.NONE_OF, (1.0, 2.0), unset),
        (Test.NONE_OF, (None,), {"one"}),
        (Test.EXISTS, False, unset),
        (Test.EXISTS, True, {"one"}),
        (Test.LT, 5.0, {"one"}),
        (Test.CONTAINS, None, set()),
        (Test.STARTS_WITH, "", set()),
        (Test.ANY_OF, (None, 1.0), {"null", "none", "one"}),
    ]:
        assert ids(store, number, Condition("a", test, operand)) == wanted, (test, operand)


def test_true_is_not_one_and_text_is_not_a_number(store: Store) -> None:
    number = create(store).number
    put(
        store,
        number,
        [item("bool", 1.0, {"a": True}), item("num", 1.0, {"a": 1.0}), item("t", 1.0, {"a": "1"})],
    )
    assert ids(store, number, Condition("a", Test.EQ, True)) == {"bool"}
    assert ids(store, number, Condition("a", Test.EQ, 1.0)) == {"num"}
    assert ids(store, number, Condition("a", Test.EQ, "1")) == {"t"}
    assert ids(store, number, Condition("a", Test.GTE, 0.0)) == {"num"}
    assert ids(store, number, Condition("a", Test.GTE, "")) == {"t"}


def test_own_times_compare_in_time_order(store: Store, clock: Any) -> None:
    number = create(store).number
    for n, seconds in enumerate([0.0, 0.25, 1.0, 3600.0]):
        clock.now = 1_700_000_000 + seconds
        put(store, number, [item(f"i{n}", float(n))])
    at = "2023-11-14T22:13:20"
    for test, operand, wanted in [
        (Test.EQ, f"{at}Z", {"i0"}),
        (Test.EQ, f"{at}.250Z", {"i1"}),
        (Test.EQ, "2023-11-14T23:13:20.25+01:00", {"i1"}),
        (Test.LT, f"{at}.25Z", {"i0"}),
        (Test.LTE, f"{at}Z", {"i0"}),
        (Test.GT, f"{at}Z", {"i1", "i2", "i3"}),
        (Test.GT, f"{at}.250001Z", {"i2", "i3"}),
        (Test.STARTS_WITH, "2023-11-14T23", {"i3"}),
        (Test.GTE, "2023-11", {"i0", "i1", "i2", "i3"}),
        (Test.ANY_OF, (f"{at}Z", "2023-11-14T23:13:20Z"), {"i0", "i3"}),
        (Test.EQ, 1_700_000_000.0, set()),
    ]:
        assert ids(store, number, Condition("@create_time", test, operand)) == wanted, operand
        assert ids(store, number, Condition("@update_time", test, operand)) == wanted, operand


def test_text_that_looks_like_sql_or_wildcards_is_only_text(store: Store) -> None:
    number = create(store).number
    nasty = ["' OR 1=1 --", '"; DROP TABLE items; --', "%", "_", "?1", ":a", "a*", "\\"]
    put(store, number, [item(f"i{n}", 1.0, {text: text}) for n, text in enumerate(nasty)])
    for n, text in enumerate(nasty):
        assert ids(store, number, Condition(text, Test.EQ, text)) == {f"i{n}"}
        assert ids(store, number, Condition(text, Test.STARTS_WITH, text)) == {f"i{n}"}
        assert ids(store, number, Condition("@id", Test.EQ, text)) == set()
    assert ids(store, number, Condition("%", Test.STARTS_WITH, "_")) == set()


def test_the_largest_filter_works(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0, {"a": 1.0, "t": ["x"]}), item("b", 1.0, {"a": 2.0})])
    one_of: Any = tuple(float(n) for n in range(500)) + tuple(f"s{n}" for n in range(500))
    parts: list[Any] = [Condition("a", Test.ANY_OF, one_of) for _ in range(64)]
    parts += [Condition(f"f{n}", Test.NE, "x") for n in range(64)]
    parts += [Condition("t", Test.CONTAINS, "x") for _ in range(64)]
    parts += [Condition("@create_time", Test.GT, "2000") for _ in range(64)]
    where = Filter(tuple(parts))
    for _ in range(7):
        where = Filter((where,))
    assert [f.id for f in store.list(number, where, "", 10, View.ID)] == ["a"]
    assert store.select_keys(number, where).tolist() == [1]


@pytest.mark.parametrize(
    ("test", "operand"),
    [
        (Test.LT, True),
        (Test.LT, None),
        (Test.EQ, [1.0]),
        (Test.EQ, float("nan")),
        (Test.GT, float("nan")),
        (Test.EQ, 10**400),
        (Test.ANY_OF, "abc"),
        (Test.ANY_OF, ([],)),
        (Test.STARTS_WITH, 1.0),
        (Test.EXISTS, "yes"),
        (Test.CONTAINS, {}),
    ],
)
def test_what_no_filter_can_mean_is_refused(store: Store, test: Test, operand: object) -> None:
    number = create(store).number
    with pytest.raises(FilterInvalid):
        store.count(number, Filter((Condition("a", test, operand),)))


def test_a_field_with_a_nul_is_refused_here_and_there(store: Store) -> None:
    number = create(store).number
    with pytest.raises(FilterInvalid):
        store.count(number, Filter((Condition("a\0", Test.EXISTS, True),)))
    results = put(
        store, number, [item("a", 1.0, {"x": [{"a\0": 1.0}]}), item("b", 1.0, {"x": "\0"})]
    )
    assert isinstance(results[0].error, InvalidArgument)
    assert ids(store, number, Condition("x", Test.EQ, "\0")) == {"b"}


def test_a_condition_without_a_field_is_refused(store: Store) -> None:
    with pytest.raises(FilterInvalid):
        store.count(1, Filter((Condition("", Test.EQ, 1.0),)))


def test_delete_where_deletes_what_select_keys_finds(store: Store) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    number = create(store).number
    put(store, number, [item(f"i{n}", float(n), {"p": float(rng.random())}) for n in range(100)])
    where = Filter((Condition("p", Test.LT, 0.5),))
    chosen = store.select_keys(number, where)
    assert do(store, lambda t: t.delete_where(number, where)) == len(chosen)
    assert not set(store.keys(number).tolist()) & set(chosen.tolist())
    assert store.count(number, Filter()) == 100 - len(chosen)
    assert store.count(number, where) == 0


def test_a_field_name_never_reaches_the_sql_text(tmp_path: Path, store: Store) -> None:
    from lookalike.server.store._filters import to_sql

    params: list[Any] = []
    sql = to_sql(Filter((Condition("secret.field", Test.EQ, "value"),)), params)
    assert "secret" not in sql
    assert "value" not in sql
    assert params == ['$."secret"."field"', "value"]
