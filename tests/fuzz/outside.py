"""A real server as it is seen from outside: its memory, threads, files, log, good answers."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from lookalike.client import Client, NewItem
from lookalike.client.errors import LookalikeError, Overloaded, ServerUnavailable
from lookalike.client.local_server import LocalServer
from made_pictures import jpeg

MIB = 2**20
MODULE = "lookalike.server"
_PLANTED = """
import sys
sys.path[:] = {path!r}
{plant}
from lookalike.server.__main__ import main
sys.argv = ["lookalike-server", *sys.argv[1:]]
main()
"""
COLLECTION = "kept-aside"
"""Of the control client; nobody hostile knows its name."""
COUNT = 8
PATIENCE_S = 5.0


class Process:
    """What the kernel says of a process. Any thread."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._folder = Path(f"/proc/{pid}")

    @property
    def alive(self) -> bool:
        try:
            return "\nState:\tZ" not in (self._folder / "status").read_text()
        except OSError:
            return False

    @property
    def rss(self) -> int:
        """Bytes resident."""
        return int((self._folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def peak(self) -> int:
        """Most bytes that were ever resident."""
        line = next(
            line
            for line in (self._folder / "status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time, user and system."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def threads(self) -> int:
        return len(os.listdir(self._folder / "task"))

    @property
    def files(self) -> int:
        """Open descriptors."""
        return len(os.listdir(self._folder / "fd"))

    @property
    def children(self) -> list[int]:
        found = []
        for task in self._folder.glob("task/*/children"):
            try:
                found += [int(word) for word in task.read_text().split()]
            except OSError:  # a thread that has just ended
                continue
        return found


class Outside:
    """A server, and what can be known of it without asking it."""

    def __init__(self, address: str, pid: int, log: Path) -> None:
        self.address = address
        self.process = Process(pid)
        self._log = log

    @property
    def folder_bytes(self) -> int:
        """Bytes of its data."""
        total = 0
        for folder, _, names in os.walk(self._log.with_name("data")):
            for name in names:
                with suppress(OSError):
                    total += (Path(folder) / name).stat().st_blocks * 512
        return total

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextmanager
def server(
    folder: Path, *args: str, settings: Mapping[str, str] | None = None, plant: str = ""
) -> Iterator[Outside]:
    """Run a server with its log in a file; it must live to the end of the block.

    `settings` are variables of its environment, `plant` is Python that it runs first.
    """
    log = folder / "log"
    command = ["sh", "-c", 'log=$1; shift; exec "$@" 2>>"$log"', "sh", str(log), sys.executable]
    start = ["-c", _PLANTED.format(path=sys.path, plant=plant)] if plant else ["-m", MODULE]
    patch = pytest.MonkeyPatch()
    for name, value in (settings or {}).items():
        patch.setenv(name, value)
    try:
        with LocalServer(folder / "data", *args, command=[*command, *start, "serve"]) as started:
            yield Outside(started.address, started.pid, log)
            assert Process(started.pid).alive, log.read_text()[-2000:]
    except ServerUnavailable as error:
        error.add_note(log.read_text()[-2000:])
        raise
    finally:
        patch.undo()


class Control:
    """An honest client that asks again and again, on a thread of its own, and keeps what was wrong.

    Its collection has pictures and vectors of its own; whatever is done to the server, it
    must find each of them, as it was.
    """

    def __init__(self, address: str, pause_s: float = 0.05) -> None:
        self.client = Client(address)
        self.wrong: list[str] = []
        self.refused = 0
        self.times: list[float] = []
        """Seconds of each round."""
        self._pause_s = pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control")
        self._pictures = {f"kept-{i}": jpeg(100 + i) for i in range(COUNT)}

    def prepare(self) -> None:
        self.client.create_collection(COLLECTION, exist_ok=True)
        items = [
            NewItem(id=name, image=data, metadata={"n": i})
            for i, (name, data) in enumerate(self._pictures.items())
        ]
        self.client.upsert(items, collection=COLLECTION)
        self._kept = {name: self._state(name) for name in self._pictures}

    def __enter__(self) -> Self:
        self.prepare()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            self.check_all()
        self.client.close()

    def check_all(self) -> None:
        """Look at every item."""
        for name in self._pictures:
            self._judge(f"item {name}", partial(self._is_as_it_was, name))
            self._judge(f"search {name}", partial(self._finds, name))
        self._judge("count", lambda: self.client.count(collection=COLLECTION) == COUNT)

    def _state(self, name: str) -> object:
        item = self.client.get(name, collection=COLLECTION, view="full")
        assert item.vector is not None
        return item.metadata, item.vector.tobytes(), item.image, item.update_time

    def _is_as_it_was(self, name: str) -> bool:
        return self._state(name) == self._kept[name]

    def _finds(self, name: str) -> bool:
        hits = self.client.search(image=self._pictures[name], collection=COLLECTION, k=1)
        return hits[0].id == name and hits[0].score > 0.999

    def _judge(self, what: str, right: Callable[[], bool]) -> None:
        """Keep what is wrong. A server that is busy may say so, but not for long."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                if not right():
                    self.wrong.append(f"{what}: another answer")
            except Overloaded as error:
                if time.monotonic() < end:
                    self.refused += 1
                    time.sleep(error.retry_after_s or 0.1)
                    continue
                self.wrong.append(f"{what}: {error!r}")
            except LookalikeError as error:
                self.wrong.append(f"{what}: {error!r}")
            return

    def _run(self) -> None:
        turn = 0
        while not self._over.wait(self._pause_s):
            name = list(self._pictures)[turn % COUNT]
            began = time.perf_counter()
            self._judge(f"search {name}", partial(self._finds, name))
            self.times.append(time.perf_counter() - began)
            self._judge(f"item {name}", partial(self._is_as_it_was, name))
            self._judge("count", lambda: self.client.count(collection=COLLECTION) == COUNT)
            turn += 1
