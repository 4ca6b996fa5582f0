"""What comes while a write is under way is written together, and fails alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from lookalike.server.gathered_writes import GatheredWrites


class Store:
    """Ends writes when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[list[int], Future[list[int]]]] = []
        self.wrote: list[int] = []
        self.failed: dict[int, BaseException] = {}
        self.refuse: set[int] = set()
        self.writes = GatheredWrites[int, list[int]](
            self.write, wrote=self.on_wrote, failed=self.on_failed, size=self.size
        )

    def write(self, things: Sequence[int]) -> Future[list[int]]:
        if self.refuse & set(things):
            raise ValueError("no")
        self.begun.append((list(things), Future()))
        return self.begun[-1][1]

    def size(self, thing: int) -> int:
        return thing * 2**20 if thing < 100 else 1

    def on_wrote(self, things: Sequence[int], result: list[int]) -> None:
        assert list(things) == result
        self.wrote += things

    def on_failed(self, things: Sequence[int], error: BaseException) -> None:
        self.failed |= dict.fromkeys(things, error)

    def end(self, number: int = -1, error: BaseException | None = None) -> None:
        things, writing = self.begun[number]
        if error is None:
            writing.set_result(things)
        else:
            writing.set_exception(error)


@pytest.fixture
def store() -> Store:
    return Store()


def test_one_alone_is_written_at_once(store: Store) -> None:
    store.writes.add("a", 100)
    assert [things for things, _ in store.begun] == [[100]]
    store.end()
    assert store.wrote == [100]


def test_what_comes_meanwhile_is_one_write_in_its_order(store: Store) -> None:
    for thing in range(100, 110):
        store.writes.add("a", thing)
    store.end()
    assert [things for things, _ in store.begun] == [[100], list(range(101, 110))]
    store.end()
    assert store.wrote == list(range(100, 110))
    store.writes.add("a", 200)
    assert store.begun[-1][0] == [200]


def test_targets_do_not_wait_for_each_other(store: Store) -> None:
    store.writes.add("a", 100)
    store.writes.add("b", 101)
    assert [things for things, _ in store.begun] == [[100], [101]]


def test_a_write_is_bounded_by_count_and_by_bytes(store: Store) -> None:
    for thing in range(100, 300):
        store.writes.add("a", thing)
    store.end(0)
    assert len(store.begun[1][0]) == 64
    store.writes.add("b", 100)
    for thing in (10, 10, 50, 1, 1):  # megabytes
        store.writes.add("b", thing)
    for _ in range(4):
        store.end()
    assert [things for things, _ in store.begun[2:]] == [[100], [10], [10], [50], [1, 1]]


def test_of_several_that_fail_together_only_those_fail_that_are_at_fault(store: Store) -> None:
    for thing in range(100, 105):
        store.writes.add("a", thing)
    store.refuse = {103}
    store.end(0)
    assert sorted(store.failed) == [103]
    for number in range(1, len(store.begun)):
        store.end(number)
    assert store.wrote == [100, 101, 102, 104]


def test_after_a_failure_the_next_are_written(store: Store) -> None:
    store.writes.add("a", 100)
    store.writes.add("a", 101)
    store.end(0, OSError("full"))
    assert list(store.failed) == [100]
    store.end()
    assert store.wrote == [101]
    store.writes.add("a", 102)
    assert store.begun[-1][0] == [102]


def test_everything_is_told_once_from_many_threads() -> None:
    store = Store()
    pool = ThreadPoolExecutor(2)
    told: list[int] = []
    lock = threading.Lock()

    def note(things: Sequence[int], result: list[int]) -> None:
        with lock:
            told.extend(things)

    writes = GatheredWrites[int, list[int]](
        lambda things: pool.submit(lambda: list(things)),
        wrote=note,
        failed=store.on_failed,
        size=lambda thing: 1,
    )

    def add(first: int) -> None:
        for thing in range(first, 4000, 4):
            writes.add(thing % 3, thing)

    adders = [threading.Thread(target=add, args=(k,)) for k in range(4)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    done = threading.Event()
    for _ in range(2000):
        with lock:
            if len(told) == 4000:
                break
        done.wait(0.01)
    assert sorted(told) == list(range(4000))
    assert not store.failed
    pool.shutdown()
