"""BMP: OS/2 and Windows headers of every age."""

from __future__ import annotations

import struct

from lookalike.backends.errors import ImageTooLarge
from lookalike.server.images._parts import Header, undecodable, unsupported

_HEADERS = (12, 40, 52, 56, 64, 108, 124)
MAX_RLE_PIXELS = 4_000_000
"""The library expands run lengths in Python: about 50 ns a pixel."""


def read(data: bytes) -> Header:
    """Read a BMP's header; raises ImageUndecodable, ImageFormatUnsupported, ImageTooLarge."""
    (size,) = struct.unpack_from("<I", data, 14)
    if size not in _HEADERS:
        raise undecodable("has a BMP header of an unknown kind")
    if size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: the top line comes first
    if width < 0:
        raise undecodable("has a negative width")
    if compression > 3:
        raise unsupported("a BMP file with another format inside it")
    if compression in (1, 2) and width * height > MAX_RLE_PIXELS:
        raise ImageTooLarge(
            f"The run-length coded BMP is {width} x {height} pixels; "
            f"{MAX_RLE_PIXELS} is the most of this kind. Save it as PNG.",
            limit=MAX_RLE_PIXELS,
            pixels=width * height,
        )
    return Header("BMP", width, height, data, 1 if bits <= 8 else 4)
