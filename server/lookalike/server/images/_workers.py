"""Decoding in processes of its own, which a picture may kill.

`Workers.decode` does what `decode` does and gives the same pixels: headers are read
here, by our own parsers, and the libraries run there. See docs/decisions/0010.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Final

from lookalike.backends.errors import Draining, ImageUndecodable, LookalikeError, Unavailable
from lookalike.server.images import header
from lookalike.server.images._decode import (
    Decoded,
    damaged,
    decode_essence,
    larger_than_said,
    too_costly,
    turn,
)
from lookalike.server.images._parts import undecodable
from lookalike.server.images._process import (
    WORKER,
    Allowance,
    DecodingProcess,
    ProcessDied,
    TookTooLong,
    was_killed,
)
from lookalike.server.images._wire import Outcome

_START_S: Final = 30.0
_LOOK_S: Final = 0.1
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_DEATHS: Final = 20
_DEATHS_WITHIN_S: Final = 10.0
"""More deaths than that, and new processes wait: starting one takes 0.4 s of a processor."""
_REMEMBERED: Final = 1024
_REMEMBERED_S: Final = 600.0

_log = logging.getLogger(__name__)


class Workers:
    """At most `count` decoding processes; the first starts now, the others when needed.

    Simple pictures of at most `here_pixels` are decoded by the caller instead: there the
    way to another process and back costs as much as the work. Any thread. `close` once
    nothing is decoded any more.
    """

    def __init__(
        self,
        count: int,
        allowance: Allowance,
        *,
        here_pixels: int = 0,
        module: str = WORKER,
    ) -> None:
        self._count = count
        self._here_pixels = here_pixels
        self._allowance = allowance
        self._module = module
        self._wanted = 1
        self._idle: list[DecodingProcess] = []
        self._busy: set[DecodingProcess] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._told = False
        self._failures = 0
        """Processes in a row that did not come up."""
        self._resume_at = 0.0
        """No process is started before."""
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._culprits = _Culprits()
        self._starter = threading.Thread(target=self._start, name="decoders", daemon=True)
        self._starter.start()

    def decode(self, data: bytes, *, max_pixels: int, side: int = 0) -> Decoded:
        """Do as `images.decode`, in another process.

        Raises what that does; also ImageTooCostly for more time or memory than a picture
        may take, ImageUndecodable for one that ends its process, Unavailable while no
        process can be started, Draining after `close`.
        """
        head = header.read(data, max_pixels)
        if head.simple and head.width * head.height <= self._here_pixels:
            return decode_essence(head, side)
        self._culprits.check(data)
        with turn(head):
            try:
                return self._decode(head, side)
            except _Fatal as fatal:
                self._culprits.add(data, fatal.error)
                raise fatal.error from None

    @property
    def pids(self) -> list[int]:
        """The processes that are there now."""
        with self._changed:
            return [process.pid for process in (*self._idle, *self._busy)]

    def close(self) -> None:
        """End all processes. None is left when it returns."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for process in idle:
            process.retire()
        self._starter.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)

    # ---------------------------------------------------------- one picture

    def _decode(self, head: header.Header, side: int) -> Decoded:
        """Decode in some process; raises _Fatal for a picture that must not be tried again."""
        for last_try in (False, True):
            process = self._take()
            try:
                outcome, image, width, height = process.decode(head, side)
            except TookTooLong:
                self._bury(process, f"a {head.format} took too long")
                raise _Fatal(too_costly(head.format, "time")) from None
            except ProcessDied as death:
                self._bury(process, f"status {death.status} on a {head.format}")
                # Whoever kills by hand, or for want of memory, may not have meant the picture.
                if last_try or not was_killed(death.status):
                    raise _Fatal(_deadly(head.format)) from None
            except BaseException:
                process.end()
                self._bury(process, "the server could not talk to it")
                raise
            else:
                self._give_back(process)
                break
        if image is not None:
            return Decoded(image, width, height, f"image/{head.format.lower()}")
        if outcome is Outcome.LARGER_THAN_SAID:
            raise larger_than_said(width, height)
        raise (
            too_costly(head.format, "memory")
            if outcome is Outcome.NO_MEMORY
            else damaged(head.format)
        )

    def _take(self) -> DecodingProcess:
        """Return a process that waits; have another started where all are busy."""
        with self._changed:
            while not self._closed:
                while self._idle:
                    process = self._idle.pop()
                    if not process.ended:
                        self._busy.add(process)
                        return process
                    self._mourn(process, f"status {process.end()} while it waited")
                wait = self._resume_at - time.monotonic()
                if wait > 0 and not self._busy:
                    raise Unavailable(
                        "The server cannot keep processes that decode pictures; its log says "
                        "more. Try again later.",
                        retry_after_s=wait,
                    )
                if self._wanted == len(self._busy) < self._count:
                    self._wanted += 1
                self._changed.notify_all()
                self._changed.wait(1.0)
            raise Draining("The server is going down; try again when it is back.")

    def _give_back(self, process: DecodingProcess) -> None:
        worn = process.worn
        with self._changed:
            keep = not (worn or self._closed)
            if keep:
                self._busy.discard(process)
                self._idle.append(process)
                self._changed.notify()
        if not keep:
            process.retire()
            with self._changed:
                self._busy.discard(process)
                self._changed.notify_all()

    def _bury(self, process: DecodingProcess, why: str) -> None:
        with self._changed:
            self._busy.discard(process)
            self._mourn(process, why)

    def _mourn(self, process: DecodingProcess, why: str) -> None:
        """Note a death; after many in a short time, starting others has to wait."""
        _log.warning("a decoding process ended pid=%d why=%s", process.pid, why)
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == _DEATHS and now - self._deaths[0] < _DEATHS_WITHIN_S:
            self._resume_at = self._deaths[0] + _DEATHS_WITHIN_S
            _log.error("pictures have ended %d decoding processes; waiting", _DEATHS)
        self._changed.notify_all()

    def _tell(self, in_force: list[str]) -> None:
        """Say in the log, once, what confines the processes that decode."""
        if self._told:
            return
        self._told = True
        level = logging.INFO if "seccomp" in in_force else logging.WARNING
        _log.log(level, "pictures are decoded apart confined_by=%s", ",".join(in_force) or "limits")

    # ------------------------------------------------------ a thread of its own

    def _start(self) -> None:
        """Start processes as they are wanted."""
        while self._await_want():
            process = None
            with suppress(OSError):
                process = DecodingProcess(self._allowance, self._module)
            if process is not None and not self._came_up(process):
                if not self._closed:
                    _log.error("a decoding process did not start said=%r", process.said()[-300:])
                process.end()
                process = None
            with self._changed:
                if self._closed:
                    pass
                elif process is None:
                    pause = min(_FIRST_PAUSE_S * 2**self._failures, _LONGEST_PAUSE_S)
                    self._failures += 1
                    self._resume_at = time.monotonic() + pause
                else:
                    self._failures = 0
                    self._tell(process.in_force)
                    self._idle.append(process)
                    process = None
                self._changed.notify_all()
            if process is not None:
                process.retire()

    def _came_up(self, process: DecodingProcess) -> bool:
        """Wait until a process is ready, or until there is no need for it any more."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until and not (self._closed or process.ended):
            if process.await_ready(_LOOK_S):
                return True
        return False

    def _await_want(self) -> bool:
        with self._changed:
            while not self._closed:
                wait = self._resume_at - time.monotonic()
                if wait <= 0 and len(self._idle) + len(self._busy) < self._wanted:
                    return True
                self._changed.wait(wait if wait > 0 else None)
            return False


class _Fatal(Exception):
    """A picture that ended its process."""

    def __init__(self, error: LookalikeError) -> None:
        super().__init__(error.message)
        self.error = error


class _Culprits:
    """Pictures that ended a process, for ten minutes, so that a retry does not end another."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[float, LookalikeError]] = OrderedDict()
        self._guard = threading.Lock()

    def add(self, data: bytes, error: LookalikeError) -> None:
        with self._guard:
            self._known[_name(data)] = time.monotonic() + _REMEMBERED_S, error
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def check(self, data: bytes) -> None:
        """Raise the error of a picture that is known. Costs nothing while none is."""
        if not self._known:
            return
        with self._guard:
            now = time.monotonic()
            while self._known and next(iter(self._known.values()))[0] < now:
                self._known.popitem(last=False)
            found = self._known.get(_name(data)) if self._known else None
        if found is not None:
            raise copy.copy(found[1])


def _name(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _deadly(kind: str) -> ImageUndecodable:
    return undecodable(f"is a damaged {kind} file: reading it ended the process that tried")
