"""Dividing one piece of work among a few threads that end with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from lookalike.backends.types import Hits, Vectors

T = TypeVar("T")

MOST_THREADS = 4
"""One search does not take more; others run beside it."""

LEAST_QUERIES = 32
"""A graph search takes about 0.1 ms, so that these take 60 times what a thread costs."""


def cores(most: int = MOST_THREADS) -> int:
    """Return how many threads may work at once here."""
    return max(1, min(most, len(os.sched_getaffinity(0))))


def in_parts(queries: Vectors, search: Callable[[Vectors], Hits]) -> Hits:
    """Search for many queries on several threads, each at least `LEAST_QUERIES` of them."""
    most = len(queries) // LEAST_QUERIES
    threads = most if most < 2 else min(cores(), most)
    if threads < 2:
        return search(queries)
    parts = divided(len(queries), threads, lambda start, stop: search(queries[start:stop]))
    return Hits(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.scores for part in parts]),
        exact=all(part.exact for part in parts),
    )


def divided(count: int, threads: int, work: Callable[[int, int], T]) -> list[T]:
    """Call `work(start, stop)` for consecutive parts of range(count), one a thread.

    The first part runs on the caller's thread. Starting another takes about 50 us. Raises
    what a part raised, after all have ended.
    """
    threads = max(1, min(threads, count))
    if threads == 1:
        return [work(0, count)]
    bounds = [count * i // threads for i in range(threads + 1)]
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            results[i] = work(bounds[i], bounds[i + 1])
        except BaseException as error:  # handed to the caller
            errors.append(error)

    others = [threading.Thread(target=run, args=(i,), name="index-part") for i in range(1, threads)]
    for thread in others:
        thread.start()
    run(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
    return [results[i] for i in range(threads)]
