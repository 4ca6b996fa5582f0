"""Calls that come while others run go together."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from lookalike.server.gathering import MOST, Gathering


class Work:
    """Answers each number with its double, notes who was together, and waits when told to."""

    def __init__(self, lanes: int) -> None:
        self.together: list[list[int]] = []
        self.go_on = threading.Event()
        self.started = threading.Semaphore(0)
        self.gathering = Gathering(self.run, lanes)

    def run(self, numbers: Sequence[int]) -> list[int]:
        self.together.append(list(numbers))
        self.started.release()
        assert self.go_on.wait(10)
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]


def on_threads(calls: Sequence[Callable[[], object]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def ask(work: Work, key: str, number: int, found: dict[int, object]) -> Callable[[], None]:
    def call() -> None:
        try:
            found[number] = work.gathering.call(key, number)
        except ValueError as error:
            found[number] = error

    return call


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def waiting(work: Work, key: str) -> int:
    line = work.gathering._lines.get(key)
    return len(line.waiting) if line else 0


def test_a_lone_call_waits_for_nobody() -> None:
    work = Work(lanes=1)
    work.go_on.set()
    assert [work.gathering.call("k", n) for n in range(3)] == [0, 2, 4]
    assert work.together == [[0], [1], [2]]
    assert not work.gathering._lines


def test_those_who_come_meanwhile_go_together_and_each_has_its_own_answer() -> None:
    work, found = Work(lanes=2), dict[int, object]()
    first = on_threads([ask(work, "k", n, found) for n in (0, 1)])
    for _ in first:
        assert work.started.acquire(timeout=10)  # as many as there are lanes run at once
    others = on_threads([ask(work, "k", n, found) for n in range(2, 9)])
    wait_for(lambda: waiting(work, "k") == 7)
    work.go_on.set()
    for thread in first + others:
        thread.join(10)
    assert found == {n: 2 * n for n in range(9)}
    assert sorted(map(len, work.together)) == [1, 1, 7]
    assert not work.gathering._lines


def test_other_keys_are_not_waited_for() -> None:
    work, found = Work(lanes=1), dict[int, object]()
    threads = on_threads([ask(work, f"k{n}", n, found) for n in range(4)])
    for _ in threads:
        assert work.started.acquire(timeout=10)
    work.go_on.set()
    for thread in threads:
        thread.join(10)
    assert sorted(work.together) == [[0], [1], [2], [3]]


def test_an_error_is_that_of_those_who_were_together_and_the_next_go_on() -> None:
    work, found = Work(lanes=1), dict[int, object]()
    first = on_threads([ask(work, "k", 13, found)])
    assert work.started.acquire(timeout=10)
    others = on_threads([ask(work, "k", n, found) for n in (1, 2)])
    wait_for(lambda: waiting(work, "k") == 2)
    work.go_on.set()
    for thread in first + others:
        thread.join(10)
    assert isinstance(found.pop(13), ValueError)
    assert found == {1: 2, 2: 4}
    with pytest.raises(ValueError, match="13"):
        work.gathering.call("k", 13)


def test_no_more_than_the_most_go_together() -> None:
    work, found = Work(lanes=1), dict[int, object]()
    first = on_threads([ask(work, "k", 1000, found)])
    assert work.started.acquire(timeout=10)
    others = on_threads([ask(work, "k", n, found) for n in range(100, 100 + MOST + 5)])
    wait_for(lambda: waiting(work, "k") == MOST + 5)
    work.go_on.set()
    for thread in first + others:
        thread.join(10)
    assert [len(numbers) for numbers in work.together] == [1, MOST, 5]
    assert len(found) == MOST + 6


def test_no_call_is_lost_among_many_threads() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    work = Work(lanes=2)
    work.go_on.set()
    keys = [
        [(f"k{rng.randrange(2)}", rng.randrange(14, 10**6)) for _ in range(200)] for _ in "abcdef"
    ]
    wrong: list[int] = []

    def call(mine: list[tuple[str, int]]) -> None:
        wrong.extend(n for key, n in mine if work.gathering.call(key, n) != 2 * n)

    threads = on_threads([lambda mine=mine: call(mine) for mine in keys])  # type: ignore[misc]
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not wrong
    assert sum(map(len, work.together)) == 1200
    assert not work.gathering._lines
