"""Threads for calls: as many as are needed, never more than there may be."""

from __future__ import annotations

import threading
import time

import pytest

from lookalike.server.rpc.threads import Threads


def _until_idle(threads: Threads) -> None:
    end = time.monotonic() + 10
    while threads.count and time.monotonic() < end:
        time.sleep(0.001)
    assert not threads.count


def test_all_calls_run_on_no_more_threads_than_there_may_be() -> None:
    threads, seen, lock = Threads(3, "t"), set[str](), threading.Lock()
    ran: list[int] = []

    def call(number: int) -> None:
        with lock:
            seen.add(threading.current_thread().name)
            ran.append(number)

    done: list[int] = []
    for number in range(100):
        threads.submit(call, number).add_done_callback(lambda _, n=number: done.append(n))
    _until_idle(threads)
    threads.shutdown()
    assert sorted(ran) == sorted(done) == list(range(100))
    assert seen <= {"t_0", "t_1", "t_2"}


def test_calls_run_side_by_side_and_count_until_they_are_done() -> None:
    threads, together = Threads(3, "t"), threading.Barrier(4)
    for _ in range(3):
        threads.submit(together.wait, 10)
    assert threads.count == 3
    together.wait(10)
    _until_idle(threads)
    threads.shutdown()


def test_what_is_done_calls_back_at_once() -> None:
    threads, called = Threads(1, "t"), threading.Event()
    handed = threads.submit(int)
    _until_idle(threads)
    handed.add_done_callback(lambda _: called.set())
    assert called.wait(10)
    threads.shutdown()


def test_a_call_that_fails_takes_no_thread_with_it(caplog: pytest.LogCaptureFixture) -> None:
    threads, ran = Threads(1, "t"), threading.Event()
    threads.submit(int, "no number")
    threads.submit(ran.set)
    assert ran.wait(10)
    _until_idle(threads)
    threads.shutdown()
    assert "outside its handler" in caplog.text


def test_threads_end_when_they_are_let_go() -> None:
    threads, ended = Threads(2, "t"), threading.Event()
    threads.submit(ended.wait, 10)
    [thread] = threads._started
    threads.shutdown(wait=False)
    ended.set()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="shut down"):
        threads.submit(int)
    assert not threads._started
