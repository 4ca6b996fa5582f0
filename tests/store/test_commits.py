"""Many operations share a commit; none is acknowledged before it is on the disk.

Troubleshooting: `WatchedVFS.events` holds every write and sync in order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.backends.errors import CollectionExists, ItemNotFound, Unavailable
from lookalike.backends.types import Changes
from lookalike.server.domain import Condition, Filter, Test, View, WriteMode
from lookalike.server.store import Store, Transaction
from store.making import DIM, create, deleting, do, item, new_digest, put, putting
from store.watched_vfs import WatchedVFS, watched


@pytest.fixture
def vfs() -> Iterator[WatchedVFS]:
    with watched() as made:
        yield made


@pytest.fixture
def slow_store(tmp_path: Path, vfs: WatchedVFS) -> Iterator[Store]:
    opened = Store.open(tmp_path / "data", vfs=vfs.vfs_name)
    yield opened
    opened.close()


class Heard:
    """A listener that keeps what it heard."""

    def __init__(self, store: Store) -> None:
        self.calls: list[tuple[int, Mapping[int, Changes]]] = []
        store.listener = lambda seq, changes: self.calls.append((seq, changes))


class Gate:
    """Holds the writer thread in an operation, so that what follows shares a commit."""

    def __init__(self, store: Store) -> None:
        self._go = threading.Event()
        entered = threading.Event()

        def wait(_: Transaction) -> None:
            entered.set()
            assert self._go.wait(30)

        self._future = store.write(wait)
        assert entered.wait(30)

    def open(self) -> None:
        self._go.set()
        self._future.result(30)


def in_one_commit(store: Store, *ops: Callable[[Transaction], Any]) -> list[Future[Any]]:
    """Run operations in one commit and wait for all."""
    gate = Gate(store)
    futures = [store.write(op) for op in ops]
    gate.open()
    for future in futures:
        future.exception(30)
    return futures


# --------------------------------------------------------------- durability


def test_no_ack_before_the_sync_of_its_commit(slow_store: Store, vfs: WatchedVFS) -> None:
    number = create(slow_store).number
    told = {"acks": 0, "commits": 0}
    early: list[str] = []
    heard_at = [0]

    def listen(_seq: int, _changes: Mapping[int, Changes]) -> None:
        told["commits"] += 1
        if vfs.count("synced", "wal") <= heard_at[-1]:
            early.append("listener")
        heard_at.append(vfs.count("synced", "wal"))

    slow_store.listener = listen

    def write(n: int) -> None:
        ran_at: list[int] = []

        def op(t: Transaction) -> None:
            t.put(number, [item(f"i{n}", n)], WriteMode.UPSERT)
            ran_at.append(vfs.count("synced", "wal"))

        def acked(_: Future[None]) -> None:  # on the writer thread, the moment it is resolved
            told["acks"] += 1
            if vfs.count("synced", "wal") <= ran_at[0]:
                early.append(f"ack of {n}")

        future = slow_store.write(op)
        future.add_done_callback(acked)
        future.result(30)

    for n in range(20):
        write(n)
    threads = [threading.Thread(target=write, args=(n,)) for n in range(20, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told["acks"] == 60
    assert told["commits"] >= 21
    assert not early


def test_concurrent_writes_share_commits(slow_store: Store, vfs: WatchedVFS) -> None:
    number = create(slow_store).number
    heard = Heard(slow_store)
    before = vfs.count("sync", "wal")
    gate = Gate(slow_store)
    futures = [slow_store.write(putting(number, item(f"i{n}", n))) for n in range(300)]
    gate.open()
    for future in futures:
        future.result(30)
    assert vfs.count("sync", "wal") - before <= 30
    assert len(heard.calls) <= 30
    added = np.concatenate([changes[number].added for _, changes in heard.calls])
    assert len(added) == 300


def test_reading_operations_cost_no_sync(slow_store: Store, vfs: WatchedVFS) -> None:
    number = create(slow_store).number
    put(slow_store, number, [item("a")])
    before, seq = vfs.count("sync", "wal"), slow_store.seq()
    put(slow_store, number, [item("a")])
    assert do(slow_store, lambda t: t.delete(number, ["gone"])) == 0
    assert (vfs.count("sync", "wal"), slow_store.seq()) == (before, seq)


def test_a_bounded_number_of_operations_makes_a_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.store._writer.MAX_GROUP_OPS", 10)
    number = create(store).number
    heard = Heard(store)
    puts = [putting(number, item(f"i{n}", n)) for n in range(40)]
    in_one_commit(store, *puts)
    assert 4 <= len(heard.calls) <= 6


def test_a_bounded_number_of_bytes_makes_a_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.store._writer.MAX_GROUP_BYTES", 5000)
    number = create(store).number
    heard = Heard(store)
    big = [item(f"i{n}", float(n), original=bytes(2000)) for n in range(9)]
    puts = [putting(number, i) for i in big]
    in_one_commit(store, *puts)
    assert len(heard.calls) == 3


# --------------------------------------------------------------- operations


def test_an_operation_that_raises_is_undone_alone(store: Store) -> None:
    number = create(store).number
    heard = Heard(store)

    def fails(t: Transaction) -> None:
        t.put(number, [item("bad", 9.0)], WriteMode.UPSERT)
        t.create_collection(store.collections()[0].config, "")  # exists

    first, bad, last = in_one_commit(
        store,
        lambda t: t.put(number, [item("a", 1.0)], WriteMode.UPSERT),
        fails,
        lambda t: t.put(number, [item("b", 2.0)], WriteMode.UPSERT),
    )
    assert isinstance(bad.exception(), CollectionExists)
    assert first.exception() is None
    assert last.exception() is None
    assert [f.id for f in store.list(number, Filter(), "", 9, View.ID)] == ["a", "b"]
    [(_, changes)] = heard.calls
    assert changes[number].added.tolist() == store.keys(number).tolist()
    np.testing.assert_array_equal(changes[number].vectors[:, 0], [1.0, 2.0])


def test_operations_see_those_before_them(store: Store) -> None:
    number = create(store).number
    results = in_one_commit(
        store,
        lambda t: t.put(number, [item("a", 1.0)], WriteMode.UPSERT),
        lambda t: t.update_metadata(number, "a", {"x": 1.0}, new_digest, False).metadata,
        lambda t: t.delete(number, ["a"]),
        lambda t: t.update_metadata(number, "a", {"x": 2.0}, new_digest, False),
    )
    assert results[1].result() == {"x": 1.0}
    assert results[2].result() == 1
    assert isinstance(results[3].exception(), ItemNotFound)


def test_a_cancelled_operation_is_not_run(store: Store) -> None:
    number = create(store).number
    gate = Gate(store)
    futures = [store.write(putting(number, item(f"i{n}", n))) for n in range(3)]
    assert futures[1].cancel()
    gate.open()
    futures[2].result(30)
    assert [f.id for f in store.list(number, Filter(), "", 9, View.ID)] == ["i0", "i2"]


def test_close_finishes_what_is_queued_and_refuses_the_rest(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    number = create(store).number
    gate = Gate(store)
    futures = [store.write(putting(number, item(f"i{n}", n))) for n in range(50)]
    threading.Timer(0.05, gate.open).start()
    store.close()
    assert all(future.exception(0) is None for future in futures)
    with pytest.raises(Unavailable):
        do(store, lambda t: t.delete(number, ["a"]))
    with pytest.raises(Unavailable):
        store.keys(number)
    store.close()
    again = Store.open(tmp_path / "data")
    assert again.count(number, Filter()) == 50
    again.close()
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["lock", "mark", "store.db"]


# ------------------------------------------------------------------ changes


def test_changes_are_typed_and_rising(store: Store) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n}", n) for n in range(5)])
    heard = Heard(store)
    put(store, number, [item("i3", 33), item("i1", 11), item("new", 7), item("i2", 2, {"m": 1})])
    [(seq, changes)] = heard.calls
    assert seq == store.seq()
    found = changes[number]
    assert found.seq == seq
    assert found.removed.tolist() == [2, 4]
    assert found.added.tolist() == [6, 7, 8]
    np.testing.assert_array_equal(found.vectors[:, 0], [33, 11, 7])
    assert found.removed.dtype == found.added.dtype == np.int64
    assert found.vectors.dtype == np.float32
    do(store, lambda t: t.delete(number, ["new"]))
    gone = heard.calls[-1][1][number]
    assert (gone.removed.tolist(), gone.vectors.shape) == ([8], (0, DIM))


def test_what_came_and_went_in_one_commit_is_in_neither_list(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("old", 1.0)])
    heard = Heard(store)
    in_one_commit(
        store,
        lambda t: t.put(number, [item("a", 1.0), item("old", 2.0)], WriteMode.UPSERT),
        lambda t: t.put(number, [item("a", 2.0), item("old", 3.0)], WriteMode.UPSERT),
        lambda t: t.put(number, [item("b", 5.0)], WriteMode.UPSERT),
        lambda t: t.delete_where(number, Filter((Condition("@id", Test.EQ, "a"),))),
    )
    [(_, changes)] = heard.calls
    assert changes[number].removed.tolist() == [1]
    assert changes[number].added.tolist() == store.keys(number).tolist()
    np.testing.assert_array_equal(changes[number].vectors[:, 0], [3.0, 5.0])


def test_metadata_alone_changes_no_vectors_but_the_seq(store: Store) -> None:
    number = create(store).number
    put(store, number, [item("a", 1.0)])
    heard, seq = Heard(store), store.seq()
    do(store, lambda t: t.update_metadata(number, "a", {"x": 1.0}, new_digest, False))
    assert heard.calls == [(seq + 1, {})]


def test_a_collection_that_is_deleted_has_no_changes(store: Store) -> None:
    one, two = create(store, "one").number, create(store, "two").number
    put(store, one, [item("a")])
    heard = Heard(store)
    in_one_commit(
        store,
        lambda t: t.put(one, [item("b")], WriteMode.UPSERT),
        lambda t: t.put(two, [item("c")], WriteMode.UPSERT),
        lambda t: t.delete_collection(one),
    )
    [(_, changes)] = heard.calls
    assert list(changes) == [two]


def test_applying_all_changes_gives_what_is_stored(store: Store) -> None:
    numbers = [create(store, "one").number, create(store, "two").number]
    held: dict[int, dict[int, float]] = {number: {} for number in numbers}

    def listen(_: int, changes: Mapping[int, Changes]) -> None:
        for number, change in changes.items():
            for key in change.removed.tolist():
                del held[number][key]
            for key, row in zip(change.added.tolist(), change.vectors, strict=True):
                assert key not in held[number]
                held[number][key] = float(row[0])

    store.listener = listen
    rng = np.random.default_rng(7)
    futures: list[Future[Any]] = []
    for _ in range(400):
        number, n, v = int(rng.choice(numbers)), int(rng.integers(30)), int(rng.integers(4))
        if rng.random() < 0.3:
            futures.append(store.write(deleting(number, f"i{n}")))
        else:
            one = item(f"i{n}", v)
            futures.append(store.write(putting(number, one)))
    for future in futures:
        future.result(30)
    for number in numbers:
        keys = store.keys(number)
        assert sorted(held[number]) == keys.tolist()
        wanted = [held[number][key] for key in keys.tolist()]
        np.testing.assert_array_equal(store.vectors(number, keys)[:, 0], wanted)


def test_the_listener_hears_before_the_futures_are_done(store: Store) -> None:
    number = create(store).number
    order: list[str] = []

    def listen(seq: int, changes: Mapping[int, Changes]) -> None:
        assert store.seq() == seq  # durable and readable
        assert store.keys(number).tolist() == changes[number].added.tolist()
        order.append("heard")

    store.listener = listen
    future = store.write(lambda t: t.put(number, [item("a")], WriteMode.UPSERT))
    future.add_done_callback(lambda _: order.append("done"))
    future.result(30)
    do(store, lambda t: t.delete(number, ["none"]))
    assert order == ["heard", "done"]


def test_a_listener_that_raises_loses_no_ack_and_is_logged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    number = create(store).number

    def listen(_seq: int, _changes: Mapping[int, Changes]) -> None:
        raise RuntimeError("engine down")

    store.listener = listen
    with caplog.at_level(logging.ERROR):
        put(store, number, [item("a")])
    assert "engine down" in caplog.text
    assert store.get(number, "a", View.ID) is not None


# ----------------------------------------------------------------- the log


def test_the_log_stays_bounded_while_many_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.store._writer.CHECKPOINT_PAGES", 25)
    monkeypatch.setattr("lookalike.server.store._writer.TRUNCATE_PAGES", 100)
    store = Store.open(tmp_path / "data")
    number = create(store).number
    stop = threading.Event()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                keys = store.keys(number)
                store.fetch(keys.tolist()[-20:], View.FULL)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    largest = 0
    for n in range(60):
        put(store, number, [item(f"i{n}-{m}", n, original=bytes(4000)) for m in range(10)])
        largest = max(largest, (tmp_path / "data" / "store.db-wal").stat().st_size)
    stop.set()
    for thread in threads:
        thread.join()
    store.close()
    assert not faults
    assert largest < 4 * 100 * 8192
