"""JPEG (ITU T.81): walks the segments before the first scan, counts the scans."""

from __future__ import annotations

import re
import struct

from lookalike.backends.errors import ImageTooLarge
from lookalike.server.images._parts import Header, exif_orientation, undecodable

MAX_SCANS = 100
"""Ordinary progressive files have about ten; a scan costs 31 bytes to write and a
pass over the whole picture to read."""
MAX_SCAN_PIXELS = 2_000_000_000
"""Scans times pixels; 7 ms for each 16 million: under a second."""
_MAX_SEGMENTS = 20_000

_SOI, _EOI, _SOS, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})  # coded by Huffman
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDD})  # Huffman, arithmetic, quantisation, restart
_BARE = frozenset({0x00, 0x01, _SOI, *range(0xD0, 0xD8)})  # no length follows
_FILL = re.compile(rb"\xff+")
_MARKER = re.compile(rb"\xff+([\x02-\xcf\xd9-\xfe])")


def read(data: bytes) -> Header:
    """Read a JPEG's header; raises ImageUndecodable or ImageTooLarge."""
    kept = [b"\xff\xd8"]
    frame: tuple[int, bytes] | None = None
    orientation = 0
    pos = 2
    for _ in range(_MAX_SEGMENTS):
        pos, marker, body = segment(data, pos)
        if marker in _BARE:
            continue
        whole = data[pos - len(body) - 4 : pos]
        if marker == _SOS:
            break
        if marker in _SOF:
            if frame is not None:
                raise undecodable("has two JPEG frame headers")
            frame = marker, body
        if marker == _APP1 and body.startswith(b"Exif\0\0") and not orientation:
            orientation = exif_orientation(body)
        if marker in _SOF or marker in _TABLES or _names_colours(marker, body):
            kept.append(whole)
    else:
        raise undecodable(f"has more than {_MAX_SEGMENTS} JPEG segments before its pixels")
    if frame is None:
        raise undecodable("has no JPEG frame header before its pixels")
    first_scan = pos - len(body) - 4
    return _header(data, first_scan, frame, body, kept, orientation or 1)


def segment(data: bytes, pos: int) -> tuple[int, int, bytes]:
    """Return (the position behind, marker, body) of the next segment at or after `pos`."""
    fill = _FILL.search(data, pos)
    if fill is None or fill.end() >= len(data):
        raise undecodable("ends inside its JPEG header")
    pos = fill.end()
    marker = data[pos]
    if marker in _BARE:
        return pos + 1, marker, b""
    if marker == _EOI:
        raise undecodable("is a JPEG without pixels")
    (length,) = struct.unpack_from(">H", data, pos + 1)
    body = data[pos + 3 : pos + 1 + length]
    if length < 2 or len(body) < length - 2:
        raise undecodable("ends inside its JPEG header")
    return pos + 1 + length, marker, body


def _names_colours(marker: int, body: bytes) -> bool:
    """Say whether this application segment decides the colour space of the samples."""
    return (marker == _APP14 and body.startswith(b"Adobe")) or (
        marker == _APP0 and body.startswith(b"JFIF\0")
    )


def _header(
    data: bytes,
    first_scan: int,
    frame: tuple[int, bytes],
    scan: bytes,
    kept: list[bytes],
    orientation: int,
) -> Header:
    marker, body = frame
    _, height, width, components = struct.unpack_from(">BHHB", body)
    if not scan or len(body) < 6 + 3 * components:
        raise undecodable("has a damaged JPEG frame header")
    many = marker in _PROGRESSIVE or scan[0] < components
    scans = _scans(data, first_scan, width * height) if many else 1
    return Header(
        "JPEG",
        width,
        height,
        b"".join([*kept, memoryview(data)[first_scan:]]),
        # With several scans the library keeps all coefficients, two bytes each, beside
        # pixels that are shrunk to a quarter or less while decoding.
        max(4, 2 * _samples(body, components) + 1) if many else 4,
        orientation,
        scans,
        simple=marker in _SEQUENTIAL and not many,
    )


def _samples(body: bytes, components: int) -> float:
    """Return how many samples a pixel has over all components (4:2:0 is 1.5)."""
    areas = [(body[7 + 3 * i] >> 4) * (body[7 + 3 * i] & 15) for i in range(components)]
    return sum(areas) / max(max(areas, default=1), 1)


def _scans(data: bytes, start: int, pixels: int) -> int:
    """Count the scans; raise ImageTooLarge where they ask for too much work."""
    most = max(1, min(MAX_SCANS, MAX_SCAN_PIXELS // max(pixels, 1)))
    # Never less than the truth, and at the speed of memory: enough for nearly all.
    scans = data.count(b"\xff\xda", start)
    if scans > most:
        scans = _walk_scans(data, start, most)
    if scans > most:
        raise ImageTooLarge(
            f"The JPEG is stored in more than {most} passes over its pixels. "
            "Save it again, with at most the usual ten.",
            limit=most,
        )
    return scans


def _walk_scans(data: bytes, pos: int, most: int) -> int:
    """Count scans up to the end-of-image marker, ignoring what lies behind it."""
    scans = 0
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, pos)
        if found is None or found[1][0] == _EOI:
            return scans
        scans += found[1][0] == _SOS
        if scans > most or found.end() + 2 > len(data):
            return scans
        pos = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
    raise undecodable(f"has more than {_MAX_SEGMENTS} JPEG segments")
