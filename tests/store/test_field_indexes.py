"""Indexes over metadata fields: used where they help, gone when they are not needed.

Troubleshooting: `plan` prints what SQLite says it does; "USING INDEX items_of_..." is
an index over a field.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from lookalike.server.domain import CollectionConfig, Condition, Filter, Test, View, WriteMode
from lookalike.server.store import Store, _tables
from lookalike.server.store._filters import of_collection, to_sql
from store.making import DIM, create, deleting, do, item, put

FIELDS = ("colour", "n", "a.b", 'it\'s "odd"', "ok")


def create_indexed(store: Store, name: str, fields: Sequence[str] = FIELDS) -> int:
    config = CollectionConfig(name, dimension=DIM, indexed_fields=tuple(fields))
    return do(store, lambda t: t.create_collection(config, "space")).number


def plan(store: Store, number: int, where: Filter) -> str:
    """Return what SQLite would do to find the items that pass."""
    params: list[Any] = []
    passes = to_sql(where, params, FIELDS)
    db = apsw.Connection(str(store.directory / "store.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        rows = db.execute(
            "EXPLAIN QUERY PLAN SELECT group_concat(i.key, ',') FROM items AS i "
            f"WHERE {of_collection(number, where, FIELDS)} AND {passes}",
            params,
        ).fetchall()
    finally:
        db.close()
    return "\n".join(str(row[3]) for row in rows)


def index_names(store: Store) -> list[str]:
    db = apsw.Connection(str(store.directory / "store.db"), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        sql = "SELECT name FROM sqlite_schema WHERE name LIKE 'items_of_%' ORDER BY name"
        return [str(name) for (name,) in db.execute(sql)]
    finally:
        db.close()


def one(field: str, test: Test, operand: object) -> Filter:
    return Filter(all=(Condition(field, test, operand),))


@pytest.mark.parametrize(
    "where",
    [
        one("colour", Test.EQ, "red"),
        one("n", Test.EQ, 5.0),
        one("n", Test.GT, 5.0),
        one("n", Test.LTE, 5.0),
        one("ok", Test.EQ, True),
        one("colour", Test.ANY_OF, ("red", "blue")),
        one("n", Test.ANY_OF, (1.0, 2.0)),
        one("colour", Test.STARTS_WITH, "re"),
        one("a.b", Test.EQ, "x"),
        one('it\'s "odd"', Test.EQ, "x"),
        Filter(any=(Condition("colour", Test.EQ, "red"),)),
        Filter(
            all=(Condition("other", Test.EQ, "x"), Condition("colour", Test.EQ, "red")),
            none=(Condition("n", Test.EQ, 1.0),),
        ),
    ],
    ids=lambda where: " ".join(f"{c.field}-{c.test}" for c in (*where.all, *where.any)),
)
def test_filters_on_indexed_fields_use_the_index(store: Store, where: Filter) -> None:
    number = create_indexed(store, "indexed")
    found = plan(store, number, where)
    print(found)
    assert "INDEX items_of_" in found
    assert "SCAN i" not in found
    assert "items_by_collection" not in found


def test_other_fields_and_other_collections_do_not_use_it(store: Store) -> None:
    number, other = create_indexed(store, "indexed"), create(store).number
    assert "items_of_" not in plan(store, number, one("other", Test.EQ, "x"))
    assert "items_of_" not in plan(store, number, Filter())
    assert "items_of_" not in plan(store, number, one("n", Test.NE, 1.0))
    either = Filter(any=(Condition("colour", Test.EQ, "red"), Condition("n", Test.EQ, 1.0)))
    assert "items_of_" not in plan(store, number, either)
    found = plan(store, other, one("colour", Test.EQ, "red"))
    assert "items_of_" not in found


def test_the_indexes_leave_with_their_collection(store: Store) -> None:
    number, other = create_indexed(store, "one"), create_indexed(store, "two", ["colour"])
    assert len(index_names(store)) == len(FIELDS) + 1
    do(store, lambda t: t.delete_collection(number))
    assert index_names(store) == [f"items_of_{other}_by_field_0"]


def test_a_collection_that_is_not_made_leaves_no_index(store: Store) -> None:
    def fail(t: Any) -> None:
        t.create_collection(CollectionConfig("x", dimension=DIM, indexed_fields=FIELDS), "space")
        raise ValueError("undo")

    with pytest.raises(ValueError, match="undo"):
        do(store, fail)
    assert index_names(store) == []


def test_the_fields_are_remembered(tmp_path: Path) -> None:
    first = Store.open(tmp_path / "data")
    create_indexed(first, "indexed")
    first.close()
    second = Store.open(tmp_path / "data")
    try:
        [record] = second.collections()
        assert record.config.indexed_fields == FIELDS
        assert len(index_names(second)) == len(FIELDS)
    finally:
        second.close()


POOL: list[Any] = [
    *(True, False, None, 0.0, 1.0, -1.5, 2.0**60, 1, "", "a", "ab", "abc", "b", "1", "true"),
    *("ü", "a\0b", "a\uffff", "a\U0010ffff", ["a"], [], {"a": 1.0}),
]
PREFIXES = ["", "a", "ab", "a\0", "\U0010ffff", "a\U0010ffff", "\ud7ff", "ü"]


def random_condition(rng: random.Random) -> Condition:
    field, test = rng.choice(["f", "o.f"]), rng.choice(list(Test))
    scalars = [value for value in POOL if not isinstance(value, list | dict)]
    operand: object = rng.choice(scalars)
    if test in (Test.ANY_OF, Test.NONE_OF):
        operand = tuple(rng.choice(scalars) for _ in range(rng.randrange(4)))
    elif test in (Test.LT, Test.LTE, Test.GT, Test.GTE):
        operand = rng.choice([v for v in scalars if isinstance(v, str | float) and v is not True])
    elif test is Test.STARTS_WITH:
        operand = rng.choice(PREFIXES)
    elif test is Test.EXISTS:
        operand = rng.random() < 0.5
    return Condition(field, test, operand)


def test_an_index_never_changes_an_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tables, "OFTEN", math.inf)  # so that it is SQL that answers
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    indexed, plain = create_indexed(store, "indexed", ["f", "o.f"]), create(store).number
    items = [
        item(f"i{i:03}", i + 1.0, {"f": rng.choice(POOL), "o": {"f": rng.choice(POOL)}})
        for i in range(150)
    ]
    for number in (indexed, plain):
        put(store, number, items)
        # Moved, changed and deleted rows are in the index as they are now.
        put(store, number, [item(f"i{i:03}", i + 1.0, {"f": "moved"}) for i in range(20)])
        put(store, number, [item(f"i{i:03}", i + 500.0, {"f": "new"}) for i in range(20, 30)])
        do(store, deleting(number, *(f"i{i:03}" for i in range(30, 50))))
    for _ in range(400):
        where = Filter(
            all=tuple(random_condition(rng) for _ in range(rng.randrange(3))),
            any=tuple(random_condition(rng) for _ in range(rng.choice([0, 0, 1, 2]))),
            none=tuple(random_condition(rng) for _ in range(rng.choice([0, 0, 1]))),
        )
        expected = [found.id for found in store.list(plain, where, "", 1000, View.ID)]
        assert [i.id for i in store.list(indexed, where, "", 1000, View.ID)] == expected, where
        assert store.count(indexed, where) == len(expected), where
        keys = store.select_keys(indexed, where)
        assert sorted(i.id for i in store.fetch(keys.tolist(), View.ID).values()) == expected, where
        assert (keys[1:] > keys[:-1]).all()


def test_damaged_metadata_does_not_keep_its_item_from_being_replaced(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    number = create_indexed(store, "indexed", ["colour"])
    put(store, number, [item("it", 1.0, {"colour": "red"}), item("two", 2.0, {"colour": "red"})])
    store.close()
    db = apsw.Connection(str(tmp_path / "data" / "store.db"))
    broken = json.dumps({"colour": "red"})[:-3]
    name = f"items_of_{number}_by_field_0"
    [sql] = [row[0] for row in db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,))]
    db.execute("UPDATE items SET metadata = ? WHERE id = 'it'", (broken,))
    assert "json_valid" in sql
    db.close()
    store = Store.open(tmp_path / "data")
    try:
        put(store, number, [item("it", 3.0, {"colour": "blue"})], WriteMode.UPSERT)
        assert store.count(number, one("colour", Test.EQ, "red")) == 1
        assert store.count(number, one("colour", Test.EQ, "blue")) == 1
    finally:
        store.close()
