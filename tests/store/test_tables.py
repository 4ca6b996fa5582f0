"""Filters answered from memory mean what SQL means, at every moment.

Troubleshooting: `by_sql` asks the same store without its tables; where the two differ, the
message has the filter, and the seed on top repeats the run.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lookalike.backends.errors import FilterInvalid, ItemNotFound, LookalikeError
from lookalike.backends.types import Keys
from lookalike.server.domain import Condition, Filter, Test
from lookalike.server.store import Store, _tables
from lookalike.server.store._column import Unanswerable
from lookalike.server.store._read_only import ReadOnlyStore
from lookalike.server.store._selection import Selection
from lookalike.server.store._table import Table
from lookalike.server.store._tables import Tables
from store.making import create, deleting, do, item, new_digest, put
from store.test_filters import LABELS, NUMBERS, TEXTS, Dice, filters, metadata


class NoTables(Tables):
    """Leaves all to SQL."""

    def keys(self, number: int, where: Filter) -> Keys | None:
        return None

    def asked(self, number: int, where: Filter, found: int, led: bool) -> None:
        pass


def by_sql(store: Store, number: int, where: Filter) -> list[int]:
    plain = Selection(store._read, store.damaged, NoTables(store.moment))
    keys: list[int] = plain.keys(number, where).tolist()
    return keys


def told(store: Store, number: int, where: Filter) -> Keys | None:
    """Return what the tables say, which must not have been given up."""
    return store._tables.keys(number, where)


def learn(store: Store, number: int, fields: Sequence[str]) -> None:
    """Have fields read into memory."""
    where = Filter(all=tuple(Condition(field, Test.EXISTS, True) for field in fields))
    for _ in range(3):
        store.select_keys(number, where)
        store._tables.wait()
    assert told(store, number, where) is not None


def one(field: str, test: Test, operand: object) -> Filter:
    return Filter(all=(Condition(field, test, operand),))


def fields(where: Condition | Filter) -> set[str]:
    if isinstance(where, Condition):
        return {where.field}
    parts = (*where.all, *where.any, *where.none)
    return set().union(*(fields(part) for part in parts))


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store.open(tmp_path_factory.mktemp("tables") / "data")
    yield opened
    opened.close()


numbering = itertools.count()


def agrees(store: Store, number: int, where: Filter) -> bool:
    """Compare with SQL; tell whether the tables had an answer."""
    found = told(store, number, where)
    try:
        wanted = by_sql(store, number, where)
    except FilterInvalid:
        assert found is None, f"SQL refuses {where}"
        return False
    if found is not None:
        assert found.tolist() == wanted, where
    assert store.select_keys(number, where).tolist() == wanted, where
    assert store.count(number, where) == len(wanted), where
    return found is not None


class Changing:
    """A collection that is written to by chance."""

    def __init__(self, store: Store, rng: random.Random, documents: Iterator[Any]) -> None:
        self.store, self.rng, self.documents = store, rng, documents
        self.number = create(store, f"c{next(numbering)}").number
        self.ids = [f"i{n}" for n in range(24)]
        self.value = itertools.count(1)
        put(
            store,
            self.number,
            [item(i, float(next(self.value)), next(documents)) for i in self.ids],
        )
        self.write(4)

    def write(self, steps: int = 1) -> None:
        for _ in range(steps):
            rng, some = self.rng, self.rng.choice(self.ids)
            match rng.randrange(6):
                case 0 | 1:  # new vectors, so new keys
                    ids = rng.sample(self.ids, rng.randrange(1, 5))
                    made = [item(i, float(next(self.value)), next(self.documents)) for i in ids]
                    put(self.store, self.number, made)
                case 2:  # the same vector, so the same key
                    put(self.store, self.number, [item(some, 0.5, next(self.documents))])
                    put(self.store, self.number, [item(some, 0.5, next(self.documents))])
                case 3:
                    do(self.store, deleting(self.number, *rng.sample(self.ids, 2)))
                case 4:
                    self.patch(some)
                case 5:
                    self.delete_where(one("a", Test.EQ, rng.choice(TEXTS)))

    def delete_where(self, where: Filter) -> None:
        do(self.store, lambda t: t.delete_where(self.number, where))

    def patch(self, item_id: str) -> None:
        patch, replace = next(self.documents), self.rng.random() < 0.5
        with contextlib.suppress(ItemNotFound):
            do(
                self.store,
                lambda t: t.update_metadata(self.number, item_id, patch, new_digest, replace),
            )


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(
    documents=st.lists(metadata, min_size=4, max_size=12),
    asked=st.lists(filters(), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_tables_agree_with_sql_while_items_change(
    shared_store: Store, documents: list[Any], asked: list[Filter], seed: int
) -> None:
    scene = Changing(shared_store, random.Random(seed), itertools.cycle(documents))
    wanted = sorted(set().union(*(fields(w) for w in asked)) - {"@id"})[:16]
    learn(shared_store, scene.number, wanted or ["a"])
    for _ in range(4):
        for where in [*asked, *(Filter((part,)) for w in asked for part in w.all)]:
            agrees(shared_store, scene.number, where)
        scene.write()


def test_tables_agree_with_sql_on_thousands_of_filters(shared_store: Store) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    dice = Dice(seed)
    answered = asked = 0
    for _ in range(6):
        scene = Changing(shared_store, dice.rng, iter(lambda: dice.metadata(2), None))
        paths = [".".join(pair) for pair in itertools.product(["a", "b", ""], ["a", "é"])]
        chosen = [label for label in LABELS if label][:9] + paths
        learn(shared_store, scene.number, [p for p in chosen if p][:16])
        for _ in range(150):
            where = dice.filter(2) if dice.rng.random() < 0.3 else Filter((dice.condition(),))
            asked += 1
            answered += agrees(shared_store, scene.number, where)
            if dice.rng.random() < 0.3:
                scene.write()
    print(f"{answered} of {asked} were answered by tables")
    assert answered > 0.25 * asked


def test_tables_agree_with_sql_on_every_pair_of_values(shared_store: Store) -> None:
    number = create(shared_store, "pairs").number
    samples: list[Any] = [None, True, False, *NUMBERS, *TEXTS, 1, 2**60, 10**30, [], {}]
    samples += [[1.0], ["a"], [None], [[]], [True], [1, "1"], [{"a": 1}]]
    put(shared_store, number, [item(f"i{n}", n + 1.0, {"a": v}) for n, v in enumerate(samples)])
    put(shared_store, number, [item("missing", 0.5, {"b": 1.0})])
    learn(shared_store, number, ["a"])
    scalars = [
        None,
        True,
        False,
        *NUMBERS,
        *TEXTS,
        1,
        2**60,
        10**30,
        10**400,
        float("nan"),
        "\ud800",
    ]
    answered = 0
    for test, operand in itertools.product(Test, scalars):
        for given_ in (operand, (operand, 1.0), (), ("a", None, True)):
            try:
                answered += agrees(shared_store, number, one("a", test, given_))
            except (UnicodeEncodeError, LookalikeError):
                if "\ud800" not in (given_ if isinstance(given_, tuple) else (given_,)):
                    raise
    assert answered > 300


def test_times_are_compared_as_sql_does(shared_store: Store, tmp_path: Path) -> None:
    now = [1_700_000_000.123456]
    store = Store.open(tmp_path / "data", clock=lambda: now[0])
    try:
        number = create(store).number
        for n in range(6):
            put(store, number, [item(f"i{n}", n + 1.0, {"a": 1.0})])
            now[0] += 0.000001 if n % 2 else 1.0
        do(store, lambda t: t.update_metadata(number, "i0", {"a": 2.0}, new_digest, False))
        learn(store, number, ["a"])
        base = "2023-11-14T22:13:2"
        texts = [f"{base}{s}.{f}Z" for s in range(5) for f in ("123456", "1234565", "123457000")]
        texts += ["2023-11-14T23:13:21.123456+01:00", "2023", "", "~", "0001-01-01T00:00:00Z"]
        texts += ["9999-12-31T23:59:59.9999999Z", f"{base}0.123456abcZ"]
        answered = 0
        for field, test in itertools.product(("@create_time", "@update_time"), Test):
            for text in texts:
                operand: object = (text,) if test in (Test.ANY_OF, Test.NONE_OF) else text
                if test is not Test.EXISTS:
                    answered += agrees(store, number, one(field, test, operand))
        assert answered >= 2 * 4 * 16
        do(store, lambda t: t.update_metadata(number, "i3", {"a": 3.0}, new_digest, False))
        assert sum(agrees(store, number, one("@update_time", Test.GTE, t)) for t in texts) >= 16
    finally:
        store.close()


def test_the_second_filter_that_reads_everything_is_the_last(store: Store) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n}", n + 1.0, {"a": float(n % 3)}) for n in range(30)])
    where = one("a", Test.EQ, 1.0)
    assert told(store, number, where) is None
    store.select_keys(number, where)
    store._tables.wait()
    assert told(store, number, where) is None
    store.select_keys(number, where)
    store._tables.wait()
    assert told(store, number, where) is not None
    assert store.select_keys(number, where) is store.select_keys(number, where)
    assert told(store, number, one("b", Test.EQ, 1.0)) is None


def test_an_answer_cannot_be_written_to(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("i", 1.0, {"a": 1.0})])
    learn(store, number, ["a"])
    with pytest.raises(ValueError, match="read-only"):
        store.select_keys(number, one("a", Test.EQ, 1.0))[0] = 7


def test_true_is_not_one(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("one", 1.0, {"a": 1.0}), item("true", 2.0, {"a": True})])
    learn(store, number, ["a"])
    for operand in (1.0, True, 1, True):
        assert len(store.select_keys(number, one("a", Test.EQ, operand))) == 1
    numbers = store.select_keys(number, one("a", Test.ANY_OF, (1.0, 0.0))).tolist()
    flags = store.select_keys(number, one("a", Test.ANY_OF, (True, False))).tolist()
    assert numbers != flags
    assert one("a", Test.EQ, True) != one("a", Test.EQ, 1.0)
    assert one("a", Test.EQ, 1) == one("a", Test.EQ, 1.0)
    assert hash(one("a", Test.EQ, 1)) == hash(one("a", Test.EQ, 1.0))


def test_operations_that_are_undone_are_not_told(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("i", 1.0, {"a": 1.0})])
    learn(store, number, ["a"])

    def fail(t: Any) -> None:
        t.put(number, [item("i", 1.0, {"a": 2.0}), item("j", 3.0, {"a": 1.0})], "upsert")
        t.delete(number, ["i"])
        raise ValueError("undo")

    with pytest.raises(ValueError, match="undo"):
        do(store, fail)
    assert agrees(store, number, one("a", Test.EQ, 1.0))
    assert len(store.select_keys(number, one("a", Test.EQ, 1.0))) == 1


def test_new_vectors_for_all_items_are_noticed(store: Store) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n}", n + 1.0, {"a": 1.0}) for n in range(5)])
    learn(store, number, ["a"])
    keys = store.keys(number)
    vectors = np.ones((5, 3), np.float32)
    do(store, lambda t: t.replace_vectors(number, keys, vectors, "new"))
    where = one("a", Test.EQ, 1.0)
    assert store.select_keys(number, where).tolist() == by_sql(store, number, where)
    assert not set(store.select_keys(number, where)) & set(keys.tolist())


def test_deleted_collections_are_forgotten(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("i", 1.0, {"a": 1.0})])
    learn(store, number, ["a"])
    do(store, lambda t: t.delete_collection(number))
    assert store.select_keys(number, one("a", Test.EQ, 1.0)).tolist() == []
    assert told(store, number, one("a", Test.EQ, 1.0)) is None


def test_damaged_items_are_left_out(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("i", 1.0, {"a": 1.0}), item("j", 2.0, {"a": 1.0})])
    learn(store, number, ["a"])
    first, second = store.select_keys(number, one("a", Test.EQ, 1.0)).tolist()
    store.damaged.note(number, {first: ("i",)})
    assert store.select_keys(number, one("a", Test.EQ, 1.0)).tolist() == [second]


def test_a_table_that_lags_far_behind_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = create(store).number
    put(store, number, [item("i", 1.0, {"a": 1.0})])
    learn(store, number, ["a"])
    monkeypatch.setattr(_tables, "MOST_BEHIND", 10)
    put(store, number, [item(f"j{n}", n + 5.0, {"a": 1.0}) for n in range(11)])
    assert told(store, number, one("a", Test.EQ, 1.0)) is None
    assert len(store.select_keys(number, one("a", Test.EQ, 1.0))) == 12


def test_fields_too_large_for_memory_stay_with_sql(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tables, "MOST_BYTES", 20_000)
    number = create(store).number
    put(store, number, [item(f"i{n}", n + 1.0, {"a": "x" * 500 + str(n)}) for n in range(60)])
    for _ in range(4):
        assert len(store.select_keys(number, one("a", Test.EXISTS, True))) == 60
        store._tables.wait()
        assert told(store, number, one("a", Test.EXISTS, True)) is None


def test_only_so_many_answers_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n}", n + 1.0, {"a": 1.0}) for n in range(10)])
    learn(store, number, ["a"])
    monkeypatch.setattr(_tables, "MOST_ANSWER_BYTES", 160)
    for n in range(50):
        assert len(store.select_keys(number, one("a", Test.LT, n + 2.0))) == 10
    kept = store._tables._kept[number]
    assert len(kept._answers) == 2
    assert kept._answer_bytes == 160


def test_an_unknown_field_is_left_to_sql() -> None:
    table = Table(["a"])
    with pytest.raises(Unanswerable):
        table.keys(one("b", Test.EQ, 1.0))


def test_a_store_that_is_not_written_learns_too(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    number = create(store).number
    put(store, number, [item(f"i{n}", n + 1.0, {"a": float(n % 2)}) for n in range(10)])
    store.close()
    unchanging = ReadOnlyStore.open_unchanged(tmp_path / "data")
    try:
        learn(unchanging, number, ["a"])
        assert agrees(unchanging, number, one("a", Test.EQ, 1.0))
    finally:
        unchanging.close()


def test_searches_see_every_write_that_was_acknowledged(store: Store) -> None:
    """Writers ask after each acknowledgement, while tables are learned and given up."""
    number = create(store).number
    put(store, number, [item(f"old{n}", n + 1.0, {"a": -1.0}) for n in range(200)])
    ends = time.monotonic() + 2.0
    failures: list[str] = []
    rounds = itertools.count()

    def write(me: int) -> None:
        for turn in itertools.count():
            if time.monotonic() > ends or failures:
                return
            next(rounds)
            mark = float(me * 1_000_000 + turn)
            value = float(me * 1_000_000 + turn * 2 + 1000)
            put(store, number, [item(f"w{me}", value, {"a": mark}), item("x", value, {"a": 0.0})])
            if len(store.select_keys(number, one("a", Test.EQ, mark))) != 1:
                failures.append(f"writer {me} does not see write {turn}")
            patch = {"a": mark + 0.5}
            do(store, lambda t: t.update_metadata(number, f"w{me}", patch, new_digest, False))  # noqa: B023
            if len(store.select_keys(number, one("a", Test.EQ, mark + 0.5))) != 1:
                failures.append(f"writer {me} does not see update {turn}")
            if len(store.select_keys(number, one("a", Test.EQ, mark))) != 0:
                failures.append(f"writer {me} sees what it replaced in {turn}")
            if turn % 7 == 0:
                store._tables._kept.pop(number, None)  # learned anew meanwhile

    threads = [threading.Thread(target=write, args=(me,)) for me in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{next(rounds)} rounds")
    assert not failures, failures[0]
    store._tables.wait()
    agrees(store, number, one("a", Test.GTE, 0.0))
