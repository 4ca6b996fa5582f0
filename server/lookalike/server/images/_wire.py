"""What is said between the server and a decoding process; both sides run this version.

A job and a reply are one packet each. The file's bytes go in, and the pixels come
back, through one piece of shared memory, the first overwritten by the second.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from lookalike.server.images.header import Header

_READY: Final = b"ready"
MAX_PACKET: Final = 64
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_JOB: Final = struct.Struct("<7Q")
_REPLY: Final = struct.Struct("<5Q")
_MOST: Final = 2**63 - 1
"""A header says whatever it likes of what nobody has checked, such as its bits."""


_PATIENT_PIXELS: Final = 40_000_000


class Outcome(IntEnum):
    """What became of a picture."""

    DECODED = 0
    DAMAGED = 1
    LARGER_THAN_SAID = 2
    NO_MEMORY = 3


def write_ready(in_force: Sequence[str]) -> bytes:
    """Return the first packet of a process: what confines it, by short names."""
    return b" ".join([_READY, *(name.encode() for name in in_force)])[:MAX_PACKET]


def read_ready(packet: bytes) -> list[str] | None:
    """Return what confines a process; None if the packet is not its first."""
    ready, *names = packet.split(b" ")
    return [name.decode("ascii", "replace") for name in names] if ready == _READY else None


def write_job(head: Header, side: int) -> bytes:
    """Return the packet for a picture whose `head.essence` lies in the shared memory."""
    return _JOB.pack(
        _FORMATS.index(head.format),
        min(head.bits, _MOST),
        head.orientation,
        head.width,
        head.height,
        min(side, _MOST),
        len(head.essence),
    )


def job_size(packet: bytes) -> int:
    """Return how many bytes of the shared memory are the file's."""
    return int(_JOB.unpack(packet)[-1])


def read_job(packet: bytes, essence: bytes) -> tuple[Header, int]:
    """Return the header, as far as decoding needs it, and `side`."""
    kind, bits, orientation, width, height, side, _ = _JOB.unpack(packet)
    head = Header(_FORMATS[kind], width, height, essence, 0.0, orientation, bits=bits)
    return head, side


def write_reply(
    outcome: Outcome, width: int = 0, height: int = 0, rows: int = 0, columns: int = 0
) -> bytes:
    """Return the packet; width and height of the whole picture, then those of its pixels."""
    return _REPLY.pack(outcome, width, height, rows, columns)


def read_reply(packet: bytes) -> tuple[Outcome, int, int, int, int]:
    """Return what `write_reply` got. Raises ValueError for what it never writes."""
    try:
        outcome, width, height, rows, columns = _REPLY.unpack(packet)
    except struct.error as error:
        raise ValueError("not a reply") from error
    return Outcome(outcome), width, height, rows, columns


def patience(head: Header) -> float:
    """Return by what the time that a picture may take is multiplied, 1 or more."""
    return max(1.0, head.width * head.height / _PATIENT_PIXELS)
