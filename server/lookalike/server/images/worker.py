"""The process that decodes: `python -m lookalike.server.images.worker`, by the server alone.

It shares no memory with the server but one file of pixels, starts without its
environment, and gives up what it does not need before the first picture. It ends
when its socket does, so none outlives the server, however that ended; a picture that
hangs it is ended by the kernel's own clocks if nobody else does.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1
import mmap
import os
import resource
import signal
import socket
import sys

import numpy as np
from PIL import AvifImagePlugin, ImageCms

from lookalike.backends.errors import ImageTooCostly, ImageTooLarge, LookalikeError
from lookalike.backends.types import RgbImage
from lookalike.server.images import _confine, _wire
from lookalike.server.images._decode import decode_essence
from lookalike.server.images._wire import Outcome
from lookalike.server.images.header import Header

_NEEDED_LATER = (ImageCms, encodings.ascii, encodings.latin_1)
"""Imported while files can still be read; the library imports them when a picture asks."""
_KEPT_BYTES = 4 * 2**20
"""Of the shared memory, mapped for good: what most pictures need."""
_LIFE_CPU_S = 3600
_SLACK_S = 2
"""The server's own clock comes first."""


def main(arguments: list[str]) -> None:
    """Decode what the server sends until it goes."""
    control, shared, memory, cpu_ms, wall_ms = map(int, arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which drains first
        signal.signal(number, signal.SIG_IGN)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process for each core
    room = _Room(shared)
    in_force = _confine.confine(memory)
    with socket.socket(fileno=control) as server:
        server.send(_wire.write_ready(in_force))
        while packet := server.recv(_wire.MAX_PACKET):
            head, side = _wire.read_job(packet, room.read(_wire.job_size(packet)))
            patience = _wire.patience(head)
            _set_clocks(cpu_ms / 1e3 * patience, wall_ms / 1e3 * patience)
            reply = _answer(head, side, room)
            signal.setitimer(signal.ITIMER_REAL, 0)
            server.send(reply)


class _Room:
    """The shared memory. Only mapped: the process may not write files, however small."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._kept = mmap.mmap(file, _KEPT_BYTES)

    def read(self, size: int) -> bytes:
        return os.pread(self._file, size, 0)

    def pixels(self, shape: tuple[int, int, int]) -> RgbImage:
        size = shape[0] * shape[1] * shape[2]
        mapped = self._kept if size <= _KEPT_BYTES else mmap.mmap(self._file, size)
        return np.frombuffer(mapped, np.uint8, size).reshape(shape)


def _answer(head: Header, side: int, room: _Room) -> bytes:
    try:
        picture = decode_essence(head, side, room.pixels)
    except ImageTooLarge as error:
        width, height = int(error.metadata["width"]), int(error.metadata["height"])
        return _wire.write_reply(Outcome.LARGER_THAN_SAID, width, height)
    except ImageTooCostly:
        return _wire.write_reply(Outcome.NO_MEMORY)
    except LookalikeError:
        return _wire.write_reply(Outcome.DAMAGED)
    rows, columns, _ = picture.image.shape
    return _wire.write_reply(Outcome.DECODED, picture.width, picture.height, rows, columns)


def _set_clocks(cpu_s: float, wall_s: float) -> None:
    """Let the kernel end this process if the server does not."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    soft = int(used + cpu_s) + 1 + _SLACK_S
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, _LIFE_CPU_S), _LIFE_CPU_S))
    signal.setitimer(signal.ITIMER_REAL, wall_s + _SLACK_S)


if __name__ == "__main__":
    main(sys.argv[1:])
