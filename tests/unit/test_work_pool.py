"""Who waits for an answer always finds a thread; what nobody wants yet is not prepared."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import pytest

from lookalike.backends.errors import Overloaded
from lookalike.server.work_pool import WorkPool

PATIENCE_S = 20.0


class Gate:
    """Work that lasts until the test says so."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.running = threading.Semaphore(0)

    def __call__(self) -> None:
        self.running.release()
        assert self.open.wait(PATIENCE_S)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_bulk_work_leaves_one_thread_to_those_who_wait(gate: Gate) -> None:
    pool = WorkPool(3, max_waiting=8, name="test")
    bulk = [pool.submit(gate, bulk=True) for _ in range(6)]
    for _ in range(2):
        assert gate.running.acquire(timeout=PATIENCE_S)
    assert not gate.running.acquire(timeout=0.05)
    assert pool.submit(lambda: 42).result(PATIENCE_S) == 42
    gate.open.set()
    for one in bulk:
        one.result(PATIENCE_S)
    pool.close()


def test_one_thread_alone_does_both_kinds() -> None:
    pool = WorkPool(1, max_waiting=8, name="test")
    assert pool.submit(lambda: 1, bulk=True).result(PATIENCE_S) == 1
    assert pool.submit(lambda: 2).result(PATIENCE_S) == 2
    pool.close()


def test_bulk_work_pauses_while_it_is_not_wanted_and_goes_on_by_itself() -> None:
    full = threading.Event()
    full.set()
    pool = WorkPool(2, max_waiting=8, name="test", hold=full.is_set)
    bulk = [pool.submit(lambda i=i: i, bulk=True) for i in range(4)]  # type: ignore[misc]
    assert pool.submit(lambda: 42).result(PATIENCE_S) == 42
    assert not any(one.done() for one in bulk)
    full.clear()
    assert [one.result(PATIENCE_S) for one in bulk] == [0, 1, 2, 3]
    pool.close()


def test_a_pool_that_pauses_can_be_closed() -> None:
    pool = WorkPool(2, max_waiting=8, name="test", hold=lambda: True)
    waiting = pool.submit(lambda: 1, bulk=True)
    pool.close()
    assert waiting.exception(PATIENCE_S) is not None


def test_work_that_fails_gives_its_place_back() -> None:
    pool = WorkPool(2, max_waiting=8, name="test")
    for _ in range(5):
        assert isinstance(
            pool.submit(lambda: 1 / 0, bulk=True).exception(PATIENCE_S), ZeroDivisionError
        )
    assert pool.submit(lambda: 1, bulk=True).result(PATIENCE_S) == 1
    pool.close()


def test_who_waited_too_long_is_refused_when_its_turn_comes_and_bulk_work_is_not(
    gate: Gate,
) -> None:
    patience_s = math.inf
    pool = WorkPool(2, max_waiting=8, name="test", patience_s=lambda: patience_s)
    running = [pool.submit(gate) for _ in range(2)]
    for _ in running:
        assert gate.running.acquire(timeout=PATIENCE_S)
    ran: list[str] = []
    late = [pool.submit(lambda: ran.append("late")) for _ in range(3)]
    bulk = pool.submit(lambda: ran.append("bulk"), bulk=True)
    time.sleep(0.02)
    patience_s = 0.01
    gate.open.set()
    for one in late:
        with pytest.raises(Overloaded, match="waited for") as caught:
            one.result(PATIENCE_S)
        assert caught.value.retry_after_s
    bulk.result(PATIENCE_S)
    patience_s = math.inf
    assert pool.submit(lambda: 42).result(PATIENCE_S) == 42
    assert ran == ["bulk"]
    pool.close()
