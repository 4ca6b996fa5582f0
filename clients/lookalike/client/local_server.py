"""A private server for the duration of a `with`: its own process, a port of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import IO, Self

from lookalike.client.errors import ServerUnavailable

READY_LINE = re.compile(r"^lookalike \S+ ready on (?P<address>\S+:\d+)\b")
START_TIMEOUT_S = 60.0
STOP_GRACE_S = 35.0
"""The server itself takes up to 30 s to finish what is under way."""
_TAIL_LINES = 20


class LocalServer:
    """A server on a free port of this machine, with its data in `data`.

        with LocalServer(folder, "--embedder", "builtin") as server:
            with Client(server.address) as client: ...

    Entering waits until it is ready; leaving stops it (SIGTERM, then SIGKILL). What it
    writes to stderr is kept for the message if it fails. One thread only.
    """

    def __init__(
        self, data: Path, *args: str, command: Sequence[str] = (), start_timeout_s: float = 0.0
    ) -> None:
        self._command = [
            *(command or (sys.executable, "-m", "lookalike.server", "serve")),
            "--data",
            str(data),
            "--listen",
            "127.0.0.1:0",
            *args,
        ]
        self._start_timeout_s = start_timeout_s or START_TIMEOUT_S
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.address = ""
        """"127.0.0.1:PORT" once it is ready."""

    @property
    def pid(self) -> int:
        """The server's process; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            ServerUnavailable: it ended, or took longer than 60 s; with the end of what it
                wrote to stderr.
        """
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._readers = [
            _reader("stdout", self._process.stdout, self._lines.put),
            _reader("stderr", self._process.stderr, self._keep),
        ]
        try:
            self.address = self._await_ready()
        except BaseException:
            self.stop(grace_s=2.0)
            raise

    def stop(self, grace_s: float = STOP_GRACE_S) -> None:
        """Stop it: SIGTERM, and SIGKILL after the grace. Does nothing if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join(5.0)  # a child that it left behind may hold the pipe
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def _keep(self, line: str | None) -> None:
        if line is not None:
            self._tail.append(line.rstrip())

    def _await_ready(self) -> str:
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise self._failure(
                    f"The private server was not ready after {self._start_timeout_s:g} s"
                ) from None
            if line is None:
                raise self._failure("The private server ended before it was ready")
            match = READY_LINE.match(line)
            if match is not None:
                return match["address"]

    def _failure(self, what: str) -> ServerUnavailable:
        time.sleep(0.05)  # what it wrote last may still be on its way through the pipe
        tail = "\n".join(self._tail).strip()
        said = f"; it said:\n{tail}" if tail else " and said nothing"
        return ServerUnavailable(f"{what}{said}")


def _reader(
    name: str, stream: IO[str] | None, take: Callable[[str | None], None]
) -> threading.Thread:
    """Start a thread that hands over each line, then None; a full pipe would stop the server."""
    assert stream is not None

    def read() -> None:
        for line in stream:
            take(line)
        take(None)

    thread = threading.Thread(target=read, name=f"lookalike-server-{name}", daemon=True)
    thread.start()
    return thread
