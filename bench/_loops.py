"""Closed-loop callers on threads, and what a loop measured. Needs nothing but Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """What a loop measured; times in milliseconds."""

    per_s: float
    p50: float
    p99: float

    @classmethod
    def of(cls, times: list[float], seconds: float, each: int = 1) -> Figures:
        times.sort()
        n = len(times)
        if not n:
            return cls(0.0, float("nan"), float("nan"))
        return cls(n * each / seconds, times[n // 2] * 1e3, times[min(n - 1, int(n * 0.99))] * 1e3)


def threads(
    make: Callable[[], Callable[[int], object]], clients: int, seconds: float, each: int = 1
) -> Figures:
    """Have `clients` threads of this process call what `make` made for each of them."""
    times: list[list[float]] = [[] for _ in range(clients)]
    begin = threading.Barrier(clients + 1)

    def caller(number: int) -> None:
        ask = make()
        ask(number)
        begin.wait()
        end = time.perf_counter() + seconds
        i = number * 97
        while (now := time.perf_counter()) < end:
            ask(i)
            times[number].append(time.perf_counter() - now)
            i += 1

    workers = [threading.Thread(target=caller, args=(n,)) for n in range(clients)]
    for worker in workers:
        worker.start()
    begin.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    return Figures.of([t for one in times for t in one], time.perf_counter() - started, each)
