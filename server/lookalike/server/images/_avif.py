"""AVIF (AV1 in HEIF, ISO/IEC 23008-12): the largest size that any of its parts claims."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from lookalike.server.images import _av1
from lookalike.server.images._parts import Header, undecodable

_MAX_BOXES = 4096
_MAX_ITEMS = 4096
BYTES_PER_PIXEL = 14
"""Planes of the decoder, their RGB, its copy and the picture (measured)."""


def read(data: bytes) -> Header:
    """Read the extents of the items and of the streams in them; raises ImageUndecodable.

    Rotation and mirroring (irot, imir) are left to the decoding library's report.
    """
    sizes: list[tuple[int, int]] = []
    for start, end in _find(data, (b"meta", b"iprp", b"ipco", b"ispe"), 0, len(data)):
        if end - start >= 12:
            sizes.append(struct.unpack_from(">II", data, start + 4))
    if not sizes:
        raise undecodable("is an AVIF that does not say its size")
    for stream in _streams(data):
        sizes.extend(_av1.frame_sizes(stream))
    width, height = max(size[0] for size in sizes), max(size[1] for size in sizes)
    # As a picture, not as a sequence: the first frame is an item of its own.
    essence = b"".join([data[:8], b"avif", memoryview(data)[12:]])
    return Header("AVIF", width, height, essence, BYTES_PER_PIXEL)


def _find(data: bytes, path: tuple[bytes, ...], pos: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the content of every box at this path."""
    for _ in range(_MAX_BOXES):
        if pos + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, pos)
        start = pos + 8
        if size == 1 and pos + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        last = end if size == 0 else pos + size
        if last > end or last < start:
            return
        if kind == path[0]:
            start += 4 if kind == b"meta" else 0  # version and flags
            if len(path) == 1:
                yield start, last
            else:
                yield from _find(data, path[1:], start, last)
        pos = last


def _streams(data: bytes) -> Iterator[bytes]:
    """Yield the bytes of every item that the location box (iloc, 8.11.3) names."""
    inline = next(_find(data, (b"meta", b"idat"), 0, len(data)), (0, 0))
    for start, end in _find(data, (b"meta", b"iloc"), 0, len(data)):
        for method, extents in _items(data[start:end]):
            if method > 1:
                raise undecodable("is an AVIF made of pieces of pieces")
            base = inline[0] if method == 1 else 0
            yield b"".join(
                data[base + at : base + at + size if size else None] for at, size in extents
            )


def _items(box: bytes) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield (construction method, [(offset, length), ...]) of the items of an iloc box."""
    version = box[0]
    offset_size, length_size = box[4] >> 4, box[4] & 15
    base_size, index_size = box[5] >> 4, (box[5] & 15 if version else 0)
    wide = 4 if version == 2 else 2
    pos = 6 + wide
    count = int.from_bytes(box[6:pos], "big")
    if count > _MAX_ITEMS:
        raise undecodable(f"has more than {_MAX_ITEMS} AVIF items")

    def number(size: int) -> int:
        nonlocal pos
        if pos + size > len(box):
            raise undecodable("has a damaged AVIF header")
        pos += size
        return int.from_bytes(box[pos - size : pos], "big")

    for _ in range(count):
        number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            number(index_size)
            extents.append((base + number(offset_size), number(length_size)))
        yield method, extents
