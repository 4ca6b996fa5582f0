"""One decoding process, as the server sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from lookalike.backends.types import RgbImage
from lookalike.server.images import _wire
from lookalike.server.images._wire import Outcome
from lookalike.server.images.header import Header

WORKER: Final = "lookalike.server.images.worker"
_KEPT_BYTES: Final = 16 * 2**20
"""Of the shared memory, kept from one picture to the next."""
_SAID_BYTES: Final = 4096
_GLANCE_S: Final = 0.02
_END_S: Final = 2.0


class ProcessDied(Exception):
    """It ended with a picture in its hands; `status` is as `subprocess` has it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class TookTooLong(Exception):
    """It was ended because a picture took more time than it may."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one picture may cost, and how long a process lives."""

    cpu_s: float = 2.0
    """Processor time of one picture, so that a busy machine makes none costly; in proportion
    more for one of over 40 megapixels (the slowest honest ones take 25 ms a megapixel)."""
    wall_s: float = 10.0
    """Whatever it does meanwhile, likewise."""
    memory_bytes: int = 2**30
    """Of address space, beyond what the process has when it starts."""
    pictures: int = 1000
    """Then the process is replaced: whatever a library leaks has an end."""
    resident_bytes: int = 384 * 2**20
    """Between pictures; with more the process is replaced, too."""


class DecodingProcess:
    """A child that decodes one picture at a time. One thread at a time."""

    def __init__(self, allowance: Allowance, module: str = WORKER) -> None:
        """Start it, without waiting. Raises OSError."""
        self._allowance = allowance
        self.pictures = 0
        self.in_force: list[str] = []
        """What confines it beyond limits on resources, once it is ready."""
        with contextlib.ExitStack() as undo:
            self._shared = os.memfd_create("pixels", os.MFD_CLOEXEC)
            undo.callback(os.close, self._shared)
            os.ftruncate(self._shared, _KEPT_BYTES)
            self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self._control.close)
            self._words, words = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self._words)
            with control, os.fdopen(words, "wb") as stderr:
                self._process = _spawn(
                    module, stderr.fileno(), [control.fileno(), self._shared], allowance
                )
            undo.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def await_ready(self, timeout_s: float) -> bool:
        """Wait until it can decode; False if it ended or took longer."""
        self._control.settimeout(timeout_s)
        try:
            in_force = _wire.read_ready(self._control.recv(_wire.MAX_PACKET))
        except OSError:
            return False
        if in_force is None:
            return False
        self.in_force = in_force
        return True

    def decode(self, head: Header, side: int) -> tuple[Outcome, RgbImage | None, int, int]:
        """Return what became of a picture: its pixels if they were decoded, its whole size.

        Raises ProcessDied and TookTooLong; the process is of no more use then.
        """
        self.pictures += 1
        most = 3 * head.width * head.height
        self._resize(max(_KEPT_BYTES, most, len(head.essence)))
        os.pwrite(self._shared, head.essence, 0)
        try:
            self._control.send(_wire.write_job(head, side))
            reply = self._await_reply(_wire.patience(head))
        except OSError as error:
            raise ProcessDied(self.end()) from error
        try:
            outcome, width, height, rows, columns = _wire.read_reply(reply)
        except ValueError as error:  # an empty one: it has closed its end
            raise ProcessDied(self.end()) from error
        image = None
        if outcome is Outcome.DECODED:
            image = self._pixels(rows, columns, most)
        self._resize(_KEPT_BYTES)
        return outcome, image, width, height

    @property
    def worn(self) -> bool:
        """True when it has lived long enough, or has grown too large."""
        if self.pictures >= self._allowance.pictures:
            return True
        return self.pictures % 16 == 0 and self._resident() > self._allowance.resident_bytes

    def said(self) -> str:
        """Return the beginning of what it wrote to stderr since the last time; never waits."""
        words = b""
        with contextlib.suppress(OSError):
            words = os.read(self._words, _SAID_BYTES)
            while os.read(self._words, 2**16):
                pass
        return "".join(c if c.isprintable() else " " for c in words.decode("ascii", "replace"))

    def end(self) -> int:
        """End it now; return its status as `subprocess` has it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GLANCE_S)  # one that is ending anyway says why
        self._process.kill()
        status = self._process.wait()
        self._close()
        return status

    def retire(self) -> None:
        """Let it go: it ends when its socket does."""
        self._control.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        self._control.close()
        os.close(self._shared)
        os.close(self._words)

    def _resize(self, size: int) -> None:
        if os.fstat(self._shared).st_size != size:
            os.ftruncate(self._shared, size)

    def _pixels(self, rows: int, columns: int, most: int) -> RgbImage:
        """Copy the pixels out; what the process says of them is not taken on trust."""
        if not 0 < rows * columns * 3 <= most:
            raise ProcessDied(self.end())
        image = np.empty((rows, columns, 3), np.uint8)
        if os.preadv(self._shared, [image.data.cast("B")], 0) != image.nbytes:
            raise ProcessDied(self.end())
        return image

    def _await_reply(self, patience: float) -> bytes:
        cpu_s, wall_s = self._allowance.cpu_s * patience, self._allowance.wall_s * patience
        began, used_before = time.monotonic(), self._cpu_s()
        wait = cpu_s
        while True:
            self._control.settimeout(wait)
            try:
                return self._control.recv(_wire.MAX_PACKET)
            except TimeoutError:
                pass
            elapsed, used = time.monotonic() - began, self._cpu_s() - used_before
            if used >= cpu_s or elapsed >= wall_s:
                self._process.kill()
                self.end()
                raise TookTooLong
            wait = max(_GLANCE_S, min(cpu_s - used, wall_s - elapsed))

    def _cpu_s(self) -> float:
        """Return the processor time it has used: clock_getcpuclockid(3) on Linux."""
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:  # it has ended
            return 0.0

    def _resident(self) -> int:
        try:
            with open(f"/proc/{self.pid}/statm", encoding="ascii") as memory:
                return int(memory.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0


def _spawn(
    module: str, stderr: int, kept: list[int], allowance: Allowance
) -> subprocess.Popen[bytes]:
    """Start Python with nothing of ours but the two descriptors: no fork without exec."""
    control, shared = kept
    numbers = [
        control,
        shared,
        allowance.memory_bytes,
        round(allowance.cpu_s * 1e3),
        round(allowance.wall_s * 1e3),
    ]
    # -P, -s, -S: neither the present folder nor site-packages are looked at again
    command = [sys.executable, "-P", "-s", "-S", "-m", module, *map(str, numbers)]
    where = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        pass_fds=kept,
        cwd="/",
        env={
            "PYTHONPATH": where,
            "PYTHONDONTWRITEBYTECODE": "1",
            # Memory is kept from one picture to the next: asking the kernel for it anew
            # were 700 page faults, 2 ms, for a picture of 640 x 480.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": str(16 * 2**20),
            "MALLOC_TRIM_THRESHOLD_": str(32 * 2**20),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        },
        start_new_session=True,  # Ctrl-C in the server's terminal is for the server
    )


def was_killed(status: int) -> bool:
    """Say whether somebody else ended it, as the kernel does where memory is short."""
    return status == -signal.SIGKILL
