"""WebP (RFC 9649): keeps the canvas, the pixels of the first frame and their alpha."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from lookalike.server.images._parts import Header, exif_orientation, undecodable

_MAX_CHUNKS = 4096
_ANIMATED, _ALPHA = 0x02, 0x10
BYTES_PER_PIXEL = 18
"""The library's animation decoder holds two canvases and hands out a third (measured)."""


def read(data: bytes) -> Header:
    """Read the chunks of a WebP file; raises ImageUndecodable."""
    sizes: list[tuple[int, int]] = []
    kept: list[bytes] = []
    pixels = False
    orientation = 1
    for kind, start, end in chunks(data):
        whole = data[start - 8 : end] + b"\0" * (end - start & 1)
        if kind == b"EXIF":
            orientation = exif_orientation(data[start:end])
        elif kind == b"VP8X" and not kept:
            flags = data[start] & (_ANIMATED | _ALPHA)
            kept.append(whole[:8] + bytes([flags]) + whole[9:])
            sizes.append((_u24(data, start + 4) + 1, _u24(data, start + 7) + 1))
        elif kind in (b"ALPH", b"ANIM") and not pixels:
            kept.append(whole)
        elif kind in (b"VP8 ", b"VP8L", b"ANMF") and not pixels:
            pixels = True
            kept.append(whole)
            sizes.extend(_sizes(data, kind, start, end))
    if not pixels:
        raise undecodable("is a WebP without pixels")
    body = b"".join([b"WEBP", *kept])
    essence = b"".join([b"RIFF", struct.pack("<I", len(body)), body])
    width = max(size[0] for size in sizes)
    height = max(size[1] for size in sizes)
    return Header("WEBP", width, height, essence, BYTES_PER_PIXEL, orientation)


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the chunks; a last one cut short is left out."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise undecodable("is a WebP that is cut short")
    pos = 12
    for _ in range(_MAX_CHUNKS):
        if pos + 8 > end:
            return
        kind, size = struct.unpack_from("<4sI", data, pos)
        if pos + 8 + size > end:
            return
        yield kind, pos + 8, pos + 8 + size
        pos += 8 + size + (size & 1)


def _sizes(data: bytes, kind: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield every (width, height) that the chunk claims, of itself and of those within."""
    if kind == b"VP8 " and data[start + 3 : start + 6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, start + 6)
        yield width & 0x3FFF, height & 0x3FFF
    elif kind == b"VP8L" and data[start : start + 1] == b"\x2f":
        (packed,) = struct.unpack_from("<I", data, start + 1)
        yield (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"ANMF" and end - start >= 24:
        width, height = _u24(data, start + 6) + 1, _u24(data, start + 9) + 1
        yield 2 * _u24(data, start) + width, 2 * _u24(data, start + 3) + height
        for inner, first, last in _inner(data, start + 16, end):
            yield from _sizes(data, inner, first, last)
    else:
        raise undecodable("has damaged WebP pixels")


def _inner(data: bytes, pos: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the pixel chunks inside a frame, which has at most an ALPH before them."""
    for _ in range(2):
        if pos + 8 > end:
            return
        kind, size = struct.unpack_from("<4sI", data, pos)
        if kind in (b"VP8 ", b"VP8L"):
            yield kind, pos + 8, min(pos + 8 + size, end)
            return
        pos += 8 + size + (size & 1)


def _u24(data: bytes, pos: int) -> int:
    return int.from_bytes(data[pos : pos + 3], "little")
