"""Pictures that are none, while others search and upload: each is dealt with soon and in little
memory, and the others hardly notice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest

import hostile_zoo
from fuzz.outside import MIB, Control, Outside, Process, server
from lookalike.client import Client, NewItem
from lookalike.client.errors import LookalikeError
from made_pictures import jpeg
from shared_data import shared

MOST_S = 2.0
MOST_MEMORY = 512 * MIB
MOST_RATIO = 1.5
TURN_S = 4.0
"""Others are measured for so long without bad pictures, then for so long with them."""
SEARCHERS = 2
FEW = 60

Files = list[tuple[str, bytes]]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with server(tmp_path) as running:
        yield running


class Others:
    """Clients that search, and one that uploads, all the time."""

    def __init__(self, address: str) -> None:
        self.wrong: list[str] = []
        self.times: dict[bool, list[float]] = {False: [], True: []}
        """Seconds of each search, by whether there were bad pictures."""
        self.beside = False
        self._address = address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._search, args=(i,)) for i in range(SEARCHERS)]
        self._threads.append(threading.Thread(target=self._upload))

    def __enter__(self) -> Self:
        with Client(self._address) as client:
            client.upsert([NewItem(id=f"good-{i}", image=jpeg(i)) for i in range(SEARCHERS)])
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _search(self, i: int) -> None:
        data = jpeg(i)
        with Client(self._address) as client:
            while not self._over.wait(0.01):
                beside, began = self.beside, time.perf_counter()
                try:
                    hits = client.search(image=data, k=1)
                    if hits[0].id != f"good-{i}":
                        self.wrong.append(f"found {hits[0].id}")
                except LookalikeError as error:
                    self.wrong.append(repr(error))
                self.times[beside].append(time.perf_counter() - began)

    def _upload(self) -> None:
        pictures = [jpeg(300 + i) for i in range(20)]
        with Client(self._address) as client:
            while not self._over.wait(0.2):
                report = client.upload(
                    (NewItem(id=f"up-{i}", image=data) for i, data in enumerate(pictures)),
                    collection="default",
                )
                self.wrong += [repr(failure) for failure in report.failures]


def sent(outside: Outside, files: Files, turn_s: float) -> tuple[Others, list[str], int]:
    """Send all files in turns; return what others saw, slow ones, the most memory of a process."""
    slow, most = [], 0
    queue = list(files)
    with (
        Client(outside.address) as client,
        Control(outside.address),
        Others(outside.address) as others,
    ):
        while queue:
            others.beside = False
            time.sleep(turn_s)
            others.beside, end = True, time.monotonic() + turn_s
            while queue and time.monotonic() < end:
                name, data = queue.pop()
                began = time.perf_counter()
                client.upsert([NewItem(id=name, image=data)])
                took = time.perf_counter() - began
                if took > MOST_S:
                    slow.append(f"{name}: {took:.2f} s")
                for pid in outside.process.children:
                    try:
                        most = max(most, Process(pid).peak)
                    except (OSError, StopIteration):
                        continue
    assert others.wrong == []
    return others, slow, max(most, outside.process.peak)


def zoo() -> Files:
    return [(case.name, case.data) for case in hostile_zoo.cases()]


def test_bad_pictures_harm_nobody(outside: Outside) -> None:
    every = zoo()
    others, slow, most = sent(outside, every[:: len(every) // FEW], 0.5)
    assert len(slow) <= 2, slow  # nobody knows what else this machine does
    assert most <= MOST_MEMORY
    assert all(others.times.values())


def judged(outside: Outside, files: Files) -> None:
    others, slow, most = sent(outside, files, TURN_S)
    without, beside = (np.percentile(others.times[b], [50, 99]) * 1e3 for b in (False, True))
    print(
        f"{len(files)} files, {most / MIB:.0f} MiB; searches {without[0]:.1f} ms, p99 "
        f"{without[1]:.1f} ms of {len(others.times[False])}; beside them {beside[0]:.1f} ms, p99 "
        f"{beside[1]:.1f} ms of {len(others.times[True])}"
    )
    assert slow == []
    assert most <= MOST_MEMORY
    assert beside[1] <= MOST_RATIO * without[1]


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_the_zoo_beside_others(outside: Outside) -> None:
    judged(outside, zoo() * int(os.environ.get("PROVE_ZOO", "2")))


@pytest.mark.prove
@pytest.mark.shared
@pytest.mark.timeout(0)
def test_collected_bad_pictures_beside_others(outside: Outside) -> None:
    files = sorted(path for path in shared("data/bad").iterdir() if path.is_file())
    judged(outside, [(path.name, path.read_bytes()) for path in files])
