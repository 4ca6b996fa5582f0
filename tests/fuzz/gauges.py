"""What a server is doing: read in its process, told over a socket to the test that planted it.

`PLANT` is what the server runs first; `Gauges` asks from outside.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

PLANT = "from fuzz import gauges; gauges.serve({path!r})"
ROOM = "lookalike.server."
MODULES = ("rpc.interceptors", "rpc.gates", "rpc.upload", "rpc.search_streams", "rpc.chunks",
           "rpc.ledger", "rpc.threads", "rpc.health", "admission", "ingest", "work_pool", "embed_queue",
           "gathering", "images._workers")  # fmt: skip
READ: Mapping[str, Callable[[Any], int]] = MappingProxyType(
    {
        "Slots": lambda one: one._used,
        "Gate": lambda one: one._count,
        "Admission": lambda one: one.count,
        "Threads": lambda one: one.count,
        "Uploads": lambda one: one.count,
        "SearchStreams": lambda one: one._count,
        "Ledger": lambda one: len(one._entries),
        "ByteBudget": lambda one: -one._free,  # less what it is at rest
        "WorkPool": lambda one: len(one._interactive) + len(one._bulk),
        "Ingest": lambda one: one.under_way,
        "EmbedQueue": lambda one: one.stats.waiting,
        "Gathering": lambda one: len(one._lines),
        "Workers": lambda one: len(one._busy),
        "Health": lambda one: len(one._watchers),
    }
)
"""By the name of a class: how much one of them has in hand."""


def serve(path: str) -> None:
    """Keep a list of what is made, and tell of it. In the server's process."""
    made: dict[str, weakref.WeakSet[Any]] = {}
    for name in MODULES:
        try:
            module = importlib.import_module(ROOM + name)
        except ImportError:
            continue
        for kind in READ:
            found = getattr(module, kind, None)
            if isinstance(found, type) and found.__module__ == module.__name__:
                made[kind] = weakref.WeakSet()
                _register(found, made[kind])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    threading.Thread(target=_answer, args=(listener, made), daemon=True).start()


def _register(kind: Any, made: weakref.WeakSet[Any]) -> None:
    begin = kind.__init__

    def made_one(self: Any, *args: Any, **kwargs: Any) -> None:
        made.add(self)
        begin(self, *args, **kwargs)

    kind.__init__ = made_one


def _answer(listener: socket.socket, made: dict[str, weakref.WeakSet[Any]]) -> None:
    while True:
        peer, _ = listener.accept()
        with peer, peer.makefile("rw") as lines:
            while lines.readline():
                print(json.dumps(_look(made)), file=lines, flush=True)


def _look(made: dict[str, weakref.WeakSet[Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, some in made.items():
        found[name] = 0
        for one in list(some):
            try:
                found[name] += READ[name](one)
            except AttributeError:  # on its way through its __init__
                found[name] += 1
    workers = [pid for one in list(made.get("Workers", ())) for pid in one.pids]
    found["cpu_s"] = time.process_time() - time.thread_time() + sum(map(_cpu_s, workers))
    return found


def _cpu_s(pid: int) -> float:
    """Return the processor time of a process, to the nanosecond (clock_getcpuclockid)."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


class Gauges:
    """Asks a server what it has in hand. One thread."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.fspath(path))
        self._lines = self._socket.makefile("rw")
        self._rest: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._socket.close()

    def rest(self) -> None:
        """Take what is read now for a server at rest."""
        self._rest = self.look()

    def look(self) -> dict[str, float]:
        """Return what is under way, by kind, and `cpu_s`, its processor time in seconds."""
        print("?", file=self._lines, flush=True)
        return dict(json.loads(self._lines.readline()))

    def in_hand(self, found: Mapping[str, float]) -> dict[str, float]:
        """Return what is more than at rest."""
        return {
            name: count - self._rest.get(name, 0)
            for name, count in found.items()
            if name != "cpu_s" and count > self._rest.get(name, 0)
        }

    def await_quiet(self, within_s: float, window_s: float = 0.03, busy: float = 0.4) -> float:
        """Wait until nothing is in hand and the processor idle for a while; return since when.

        In seconds from now. Raises AssertionError with what is left after `within_s`.
        """
        began = time.monotonic()
        since, spent = 0.0, self.look()["cpu_s"]
        while True:
            time.sleep(window_s)
            found, now = self.look(), time.monotonic() - began
            left = self.in_hand(found)
            share = (found["cpu_s"] - spent) / (now - since)
            if not left and share < busy:
                return since
            assert now < within_s, f"after {now:.1f} s there is left: {left}, {share:.0%} busy"
            since, spent = now, found["cpu_s"]
