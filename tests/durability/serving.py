"""Real server processes that are killed, and the next one that stands by meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, Self

from durability.launch import DIED, LOADED
from durability.violation import Violation
from lookalike.client.local_server import READY_LINE

START_S = 60.0
CONSTANTS = {
    # The log comes home every few commits, so that kills find it doing that.
    "lookalike.server.store._writer.CHECKPOINT_PAGES": 60,
    "lookalike.server.store._writer.TRUNCATE_PAGES": 240,
}
CONFIG = """
[engine]
options = { delta_limit = 24 }
[log]
level = "warning"
"""
"""A few dozen vectors make a segment: there is always one being built, merged or written."""


@dataclass(frozen=True)
class Orders:
    """What a server process is told to be."""

    data: Path
    crash: str = ""
    """"name:n": die when the crash point is reached for the n-th time."""
    plants: Sequence[str] = ()
    constants: Mapping[str, object] = field(default_factory=lambda: CONSTANTS)
    config: str = CONFIG


class ServerProcess:
    """A server that may die at any moment. One owner."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            # What the server's own main sets before it imports anything.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "durability.launch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        )
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._tail: deque[str] = deque(maxlen=40)
        self.died_at = ""
        """The crash point at which it died."""
        self._readers = [
            _reader(self._process.stdout, self._lines.put),
            _reader(self._process.stderr, self._note),
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        """The end of what it wrote to standard error."""
        return "\n".join(self._tail)

    def order(self, orders: Orders) -> None:
        """Wait until it is loaded, then say what it is to be; it begins at once."""
        self._line(LOADED)
        config = orders.data.parent / "lookalike.toml"
        config.write_text(orders.config)
        line = {
            "args": [
                *("serve", "--config", str(config), "--data", str(orders.data)),
                *("--listen", "127.0.0.1:0", "--embedder", "builtin"),
            ],
            "crash": orders.crash,
            "plants": list(orders.plants),
            "constants": dict(orders.constants),
        }
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead already, and says why
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()

    def ready(self) -> str:
        """Wait until it is ready; return its address, or "" if it died first."""
        line = self._line("lookalike ")
        return match["address"] if (match := READY_LINE.match(line)) else ""

    def _line(self, start: str) -> str:
        """Return the next line that starts so; "" if it ends first."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise Violation("a server starts again", f"not ready after {START_S} s") from None
            if line is None:
                self.wait()
                return ""
            if line.startswith(start):
                return line

    def kill(self) -> None:
        """Send SIGKILL; no matter whether it lives."""
        self._process.send_signal(signal.SIGKILL)
        self.wait()

    def terminate(self) -> None:
        """Send SIGTERM and wait for its end, of whatever kind."""
        self._process.terminate()
        self.wait()

    def wait(self, timeout_s: float | None = 60.0) -> bool:
        """Wait for its end; return whether it came in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        for reader in self._readers:
            reader.join()
        return True

    @property
    def was_killed(self) -> bool:
        """Whether it ended by SIGKILL, its own or ours."""
        return self._process.returncode == -signal.SIGKILL

    @property
    def was_stopped(self) -> bool:
        """Whether it ended in order, after SIGTERM."""
        return self._process.returncode == 0

    def close(self) -> None:
        """Make sure that nothing of it is left."""
        self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _note(self, line: str | None) -> None:
        if line is None:
            return
        if line.startswith(DIED):
            self.died_at = line.removeprefix(DIED).strip()
        self._tail.append(line.rstrip())


class Stable:
    """Keeps one server process loaded and waiting. One owner; a context manager."""

    def __init__(self) -> None:
        self._next = ServerProcess()
        self._out: list[ServerProcess] = []

    def start(self, orders: Orders) -> ServerProcess:
        """Hand out a process that has its orders."""
        server, self._next = self._next, ServerProcess()
        for old in self._out:
            old.close()
        self._out = [server]
        server.order(orders)
        return server

    def close(self) -> None:
        """Make sure that no process is left."""
        for server in (*self._out, self._next):
            server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _reader(stream: IO[str] | None, take: Callable[[str | None], None]) -> threading.Thread:
    assert stream is not None

    def read() -> None:
        for line in stream:
            take(line)
        take(None)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
