"""What signals ask of the server: to stop, to read its files again, or nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

_ONE_WISH_S = 0.2
"""Signals closer together are one: timeout(1), and wrappers that pass on what the whole
process group gets, send each twice."""
_HARMLESS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""They would end a process that does not say otherwise, and ask nothing of this one.
SIGPIPE is ignored by the interpreter."""


class Signals:
    """SIGTERM and SIGINT: the first asks the server to stop, the second ends the process.

    SIGHUP calls `reload`, on a thread of its own. The kernel may give a signal to any
    thread, and Python's handlers run only once the main thread takes a step, which it does
    not while it waits for the server's end. So the interpreter writes each signal to a pipe
    at once, and a thread of its own reads it. Made by the main thread, once.
    """

    def __init__(self) -> None:
        self.reload: Callable[[], None] = lambda: None
        self._asked = threading.Event()
        self._asked_at = 0.0
        self._read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *_HARMLESS):
            signal.signal(number, _noted)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait to be asked to stop; return whether it was so in time."""
        return self._asked.wait(timeout_s)

    def ask(self) -> None:
        """Ask to stop, as SIGTERM does. Any thread."""
        if not self._asked.is_set():
            self._asked_at = time.monotonic()
            self._asked.set()

    def _listen(self) -> None:
        while True:
            for number in os.read(self._read_end, 16):
                if number == signal.SIGHUP:
                    threading.Thread(target=self.reload, name="reload", daemon=True).start()
                elif number not in (signal.SIGTERM, signal.SIGINT):
                    continue
                elif not self._asked.is_set():
                    self.ask()
                elif time.monotonic() - self._asked_at > _ONE_WISH_S:
                    os._exit(128 + number)


def _noted(number: int, frame: FrameType | None) -> None:
    """Take the place of the default, which would end the process."""
