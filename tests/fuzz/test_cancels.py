"""Calls given up at random moments: nothing stays in hand, and work for nobody ends soon."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fuzz import cancels, gauges
from fuzz.outside import Outside, server
from lookalike.client import Client

SHORT = 42
TOGETHER = 8
LEFT_S = 10.0
MOST_P99_S = 0.25
"""Of the time from a cancel to the end of its work, on a machine that does nothing else."""
SOME_THREADS = 16
"""And files: so many more calls may meet once than while it warmed up, each with a connection
to the store. What is left by every call that is given up would be more, even in the short run."""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    plant = gauges.PLANT.format(path=str(tmp_path / "gauges"))
    with server(tmp_path, plant=plant) as running:
        cancels.prepare(running.address)
        yield running


def given_up(outside: Outside, folder: Path, count: int) -> list[float]:
    """Give up half of the calls one by one, half together; return how long work went on."""
    seed = int(os.environ.get("PROVE_SEED", random.randrange(10**9)))
    print(f"PROVE_SEED={seed}")
    with gauges.Gauges(folder / "gauges") as inside:
        inside.rest()
        together(outside, f"{seed}/warm", len(cancels.KINDS) * 4)
        inside.await_quiet(LEFT_S)
        threads, files = outside.process.threads, outside.process.files
        took: dict[str, list[float]] = {kind: [] for kind in cancels.KINDS}
        callers = cancels.Callers(outside.address, f"{seed}/alone")
        for i in range(count // 2):
            kind = list(cancels.KINDS)[i % len(cancels.KINDS)]
            callers.give_up(kind)
            try:
                took[kind].append(inside.await_quiet(LEFT_S))
            except AssertionError as error:
                raise AssertionError(f"{kind}, {i}: {error}") from None
        callers.channel.close()
        together(outside, f"{seed}/together", count // 2)
        inside.await_quiet(LEFT_S)
    for kind, times in took.items():
        print(f"{kind}: {np.median(times) * 1e3:.0f}, at most {max(times) * 1e3:.0f} ms")
    print(f"threads {threads}, {outside.process.threads}; files {files}, {outside.process.files}")
    assert outside.process.threads <= threads + SOME_THREADS
    assert outside.process.files <= files + SOME_THREADS
    log = outside.log()
    assert " ERROR " not in log
    assert "Traceback" not in log
    return [time for times in took.values() for time in times]


def together(outside: Outside, seed: str, count: int) -> None:
    def some(name: str) -> None:
        callers = cancels.Callers(outside.address, name)
        for _ in range(count // TOGETHER):
            callers.give_up(callers.rng.choice(list(cancels.KINDS)))
        callers.channel.close()

    threads = [threading.Thread(target=some, args=(f"{seed}/{i}",)) for i in range(TOGETHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_calls_that_are_given_up_leave_nothing(outside: Outside, tmp_path: Path) -> None:
    given_up(outside, tmp_path, SHORT)


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_a_thousand_calls_that_are_given_up(outside: Outside, tmp_path: Path) -> None:
    took = given_up(outside, tmp_path, int(os.environ.get("PROVE_CANCELS", "1000")))
    p50, p99 = np.percentile(took, [50, 99])
    print(f"work goes on for {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, of {len(took)}")
    assert p99 <= MOST_P99_S


def test_a_place_that_is_not_given_back_would_be_seen(tmp_path: Path) -> None:
    plant = gauges.PLANT.format(path=str(tmp_path / "gauges"))
    forgetful = "from lookalike.server.rpc.gates import Gate; Gate.__exit__ = lambda *_: None"
    with (
        server(tmp_path, plant=f"{plant}; {forgetful}") as running,
        gauges.Gauges(tmp_path / "gauges") as inside,
        Client(running.address) as client,
    ):
        client.wait_ready()
        inside.rest()
        list(client.collections())
        with pytest.raises(AssertionError, match="Gate"):
            inside.await_quiet(1.0)
