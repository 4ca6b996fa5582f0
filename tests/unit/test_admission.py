"""Who is let in, how long who is not has to wait, and what is dropped when nobody wants it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

import pytest

from lookalike.backends.errors import Cancelled, DeadlineExceeded, Overloaded
from lookalike.server.admission import Admission
from lookalike.server.deadlines import Until, is_over, outcome
from lookalike.server.gathering import Gathering
from lookalike.server.work_pool import WorkPool

PATIENCE_S = 20.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def served(admission: Admission, clock: Clock, call_s: float, count: int) -> None:
    """Answer calls one every `call_s` seconds, with more coming than are let in."""
    waiting: list[tuple[float, bool]] = []
    for _ in range(count):
        with suppress(Overloaded):
            while True:
                waiting.append(admission.enter())
        clock.now += call_s
        admission.leave(waiting.pop(0))
    for entered in waiting:
        admission.leave(entered, answered=False)


def fill(admission: Admission) -> None:
    while admission.count < admission.limit:
        admission.enter()


@pytest.mark.parametrize(("call_s", "limit"), [(0.001, 20), (0.002, 10), (0.0001, 64), (0.1, 2)])
def test_as_many_are_let_in_as_are_answered_in_the_time_to_wait(call_s: float, limit: int) -> None:
    clock = Clock()
    admission = Admission(64, "searches", wait_s=0.02, clock=clock)
    served(admission, clock, call_s, 400)
    assert abs(admission.limit - limit) <= 1
    assert admission.per_s == pytest.approx(1 / call_s, rel=0.05)
    assert admission.count == 0


def test_calls_that_take_long_by_themselves_may_wait_twice_as_long() -> None:
    clock = Clock()
    admission = Admission(64, "searches", wait_s=0.02, clock=clock)
    for _ in range(5):
        entered = admission.enter()
        clock.now += 0.4
        admission.leave(entered)
    served(admission, clock, 0.05, 400)  # eight at the same time, 20 a second
    assert 15 <= admission.limit <= 17


def test_the_limit_follows_a_server_that_becomes_slow_and_fast_again() -> None:
    clock = Clock()
    admission = Admission(64, "searches", wait_s=0.02, clock=clock)
    limits = []
    for call_s in (0.001, 0.004, 0.001):
        served(admission, clock, call_s, 3000)
        limits.append(admission.limit)
    assert abs(limits[0] - 20) <= 1
    assert abs(limits[1] - 5) <= 1
    assert abs(limits[2] - 20) <= 1


def test_callers_who_wait_for_their_answers_are_never_refused() -> None:
    clock = Clock()
    admission = Admission(64, "searches", wait_s=0.02, clock=clock)
    waiting = [admission.enter() for _ in range(60)]
    for _ in range(2000):
        clock.now += 0.01
        admission.leave(waiting.pop(0))
        waiting.append(admission.enter())
    assert admission.limit == 64
    assert admission.patience_s == math.inf
    for _ in range(4):
        waiting.append(admission.enter())
    with pytest.raises(Overloaded):
        admission.enter()
    assert admission.limit == 2, "now there are more than can be answered"
    assert admission.patience_s == pytest.approx(0.04), "and who came in before may wait so long"
    for entered in waiting:
        admission.leave(entered)
    clock.now += 1.5
    assert admission.limit == 64, "and now there are not"


@pytest.mark.parametrize("call_s", [0.001, 0.004])
def test_who_is_refused_is_told_when_those_before_it_are_done(call_s: float) -> None:
    clock = Clock()
    admission = Admission(64, "searches", wait_s=0.02, clock=clock)
    served(admission, clock, call_s, 400)
    fill(admission)
    delays = []
    for _ in range(50):
        with pytest.raises(Overloaded) as caught:
            admission.enter()
        assert caught.value.retry_after_s is not None
        delays.append(caught.value.retry_after_s)
    until_done = admission.count * call_s
    assert until_done * 0.9 <= min(delays) < max(delays) <= until_done * 2.2
    assert len(set(delays)) > 5, "who was refused together does not come back together"
    assert all(round(delay * 1e3, 6) == int(delay * 1e3 + 0.5) for delay in delays)


def test_what_cannot_be_done_in_the_time_left_is_refused_at_once() -> None:
    clock = Clock()
    clock.now = time.monotonic()
    admission = Admission(64, "searches", wait_s=0.02, clock=clock)
    served(admission, clock, 0.001, 400)
    for _ in range(15):
        admission.enter()
    assert admission.count < admission.limit
    with pytest.raises(Overloaded, match="longer than the 5 ms left"):
        admission.enter(clock.now + 0.005)
    admission.enter(clock.now + 0.5)
    left = Until(clock.now + 10)
    left.leave()
    with pytest.raises(Cancelled):
        admission.enter(left)
    with pytest.raises(DeadlineExceeded):
        admission.enter(time.monotonic() - 1)


def test_a_deadline_comes_at_once_when_the_caller_leaves() -> None:
    until = Until(time.monotonic() + 60)
    left = []
    until.when_left(lambda: left.append(1))
    assert not is_over(until)
    until.leave()
    assert is_over(until)
    until.when_left(lambda: left.append(2))
    assert left == [1, 2]
    assert is_over(time.monotonic() - 1)
    assert not is_over(None)


def test_who_waits_is_free_when_the_caller_leaves_or_time_runs_out() -> None:
    never: Future[int] = Future()
    until = Until(time.monotonic() + 60)
    threading.Timer(0.05, until.leave).start()
    with pytest.raises(Cancelled):
        outcome(never, until)
    assert never.cancelled(), "what has not begun never does"
    late: Future[int] = Future()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        outcome(late, began + 0.05)
    assert time.monotonic() - began < PATIENCE_S
    assert late.cancelled()
    done: Future[int] = Future()
    done.set_result(7)
    assert outcome(done, Until(time.monotonic() + 60)) == 7


def test_a_search_that_nobody_waits_for_never_meets_the_index() -> None:
    ran: list[Sequence[str]] = []
    is_running, may_end = threading.Event(), threading.Event()

    def run(queries: Sequence[str]) -> list[str]:
        ran.append(list(queries))
        is_running.set()
        assert may_end.wait(PATIENCE_S)
        return list(queries)

    gathering: Gathering[str, str] = Gathering(run, 1)
    results: dict[str, object] = {}

    def ask(name: str, deadline: float | None) -> None:
        try:
            results[name] = gathering.call("k", name, deadline)
        except (Cancelled, DeadlineExceeded) as error:
            results[name] = type(error)

    gone = Until(time.monotonic() + 60)
    asked = {"first": None, "gone": gone, "late": time.monotonic() + 0.01, "stays": None}
    threads = [threading.Thread(target=ask, args=pair) for pair in asked.items()]
    threads[0].start()
    assert is_running.wait(PATIENCE_S)
    for thread in threads[1:]:
        thread.start()
    line = gathering._lines["k"]
    end = time.monotonic() + PATIENCE_S
    while len(line.waiting) < 3 and "late" not in results and time.monotonic() < end:
        time.sleep(0.005)
    gone.leave()
    time.sleep(0.02)
    may_end.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == {
        "first": "first",
        "gone": Cancelled,
        "late": DeadlineExceeded,
        "stays": "stays",
    }
    assert ran == [["first"], ["stays"]]
    with pytest.raises(Cancelled):
        gathering.call("k", "gone before", gone)
    assert len(ran) == 2


def test_pictures_wait_in_bounded_bytes_and_none_is_read_for_nobody() -> None:
    may_end, done = threading.Event(), []
    pool = WorkPool(1, max_waiting=100, max_bytes=1000, name="test")
    began = threading.Event()

    def busy() -> None:
        began.set()
        may_end.wait(PATIENCE_S)

    try:
        running = pool.submit(busy)
        assert began.wait(PATIENCE_S)
        whole = pool.submit(lambda: done.append("whole"), size=5000)  # alone, it may
        with pytest.raises(Overloaded) as caught:
            pool.submit(lambda: done.append("more"), size=1)
        assert caught.value.retry_after_s
        until = Until(time.monotonic() + 60)
        pool.submit(lambda: done.append("bulk"), bulk=True, size=10**9)  # bounded elsewhere
        until.leave()
        may_end.set()
        running.result(PATIENCE_S)
        whole.result(PATIENCE_S)
        left = pool.submit(lambda: done.append("nobody"), deadline=until, size=900)
        with pytest.raises(Cancelled):
            left.result(PATIENCE_S)
        began.clear()
        may_end.clear()
        pool.submit(busy)
        assert began.wait(PATIENCE_S)
        waiting = [pool.submit(lambda: 3, size=500) for _ in range(2)]  # bytes were given back
        with pytest.raises(Overloaded):
            pool.submit(lambda: 3, size=500)
        may_end.set()
        assert [future.result(PATIENCE_S) for future in waiting] == [3, 3]
    finally:
        may_end.set()
        pool.close()
    assert "nobody" not in done
    assert "whole" in done


def test_a_picture_that_would_be_read_too_late_is_refused_at_once() -> None:
    pool = WorkPool(1, max_waiting=100, name="test")
    may_end = threading.Event()
    try:
        for _ in range(3):
            pool.submit(lambda: time.sleep(0.1)).result(PATIENCE_S)  # so it knows how long
        pool.submit(lambda: may_end.wait(PATIENCE_S))
        for _ in range(10):
            pool.submit(lambda: None)
        began = time.monotonic()
        with pytest.raises(Overloaded) as caught:
            pool.submit(lambda: None, deadline=time.monotonic() + 0.05)
        assert time.monotonic() - began < PATIENCE_S / 2
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 0.2, "ten before it, each about 0.1 s"
        pool.submit(lambda: None, deadline=time.monotonic() + 60)
    finally:
        may_end.set()
        pool.close()
