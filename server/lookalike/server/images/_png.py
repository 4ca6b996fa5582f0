"""PNG (W3C, third edition): keeps IHDR, PLTE, tRNS and the pixels."""

from __future__ import annotations

import struct

from lookalike.server.images._parts import Header, exif_orientation, undecodable

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 65_536
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Colour type -> legal bit depths (table 11.1)."""
_IEND = b"\0\0\0\0IEND\xaeB`\x82"


def read(data: bytes) -> Header:
    """Read a PNG's chunks; raises ImageUndecodable."""
    width, height, depth, colour, squeeze, filters, interlace = _ihdr(data)
    if depth not in _DEPTHS.get(colour, ()) or squeeze or filters or interlace > 1:
        raise undecodable("has an illegal PNG header")
    kept = [data[:33]]
    pixels: list[memoryview] = []
    orientation = 1
    closed = False
    for kind, start, end in chunks(data):
        if kind == b"IDAT" and not closed:
            pixels.append(memoryview(data)[start:end])
            continue
        closed = bool(pixels)
        if kind in (b"PLTE", b"tRNS") and not closed:
            kept.append(data[start - 8 : end + 4])
        elif kind == b"eXIf":
            orientation = exif_orientation(data[start:end])
    if not pixels:
        raise undecodable("is a PNG without pixels")
    # One chunk of all pixel data. The library checks no CRC of it (zlib's own is checked).
    size = struct.pack(">I", sum(map(len, pixels)))
    essence = b"".join([*kept, size, b"IDAT", *pixels, b"\0\0\0\0", _IEND])
    grey = colour in (0, 3) and depth <= 8
    wide = 2 if colour == 0 else 4
    per_pixel = 1 if grey else wide
    return Header("PNG", width, height, essence, per_pixel, orientation, simple=True)


def _ihdr(data: bytes) -> tuple[int, ...]:
    if data[8:16] != b"\0\0\0\rIHDR" or len(data) < 33:
        raise undecodable("has no PNG header")
    return struct.unpack_from(">IIBBBBB", data, 16)


def chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return (kind, start, end) of every chunk behind IHDR; the last may be cut short."""
    found = []
    pos = 33
    while pos + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, pos)
        if kind == b"IEND" or not kind.isalpha():
            break
        found.append((kind, pos + 8, min(pos + 8 + length, len(data))))
        pos += 12 + length
        if len(found) > _MAX_CHUNKS:
            raise undecodable(f"has more than {_MAX_CHUNKS} PNG chunks")
    return found
