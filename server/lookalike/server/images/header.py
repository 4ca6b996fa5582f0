"""Reads what a picture file says of itself, before any library allocates for it.

The format is decided by content alone. Each parser is bounded: it looks at a fixed
number of segments and never at more than the file holds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from lookalike.backends.errors import ImageTooLarge, ImageUndecodable
from lookalike.server.images import (
    _avif,
    _bmp,
    _gif,
    _jpeg,
    _png,
    _strangers,
    _tiff,
    _webp,
)
from lookalike.server.images._parts import Header, undecodable, unsupported

__all__ = ["BYTES_PER_MAX_PIXEL", "Header", "read"]

BYTES_PER_MAX_PIXEL = 6
"""Memory that decoding may take, in bytes for each pixel of the limit. Formats that
need more per pixel get proportionally fewer pixels."""


def read(data: bytes, max_pixels: int) -> Header:
    """Return the header of a picture of at most `max_pixels` pixels.

    Any thread. Raises ImageUndecodable (empty, damaged header, no area),
    ImageFormatUnsupported (not a picture of ours; says what it is), ImageTooLarge.
    """
    if not data:
        raise ImageUndecodable("The image is empty. Send the bytes of a picture file.")
    parse = _parser(data)
    if parse is None:
        raise unsupported(*_strangers.name(data))
    try:
        header = parse(data)
    except (struct.error, IndexError) as error:
        raise undecodable("ends inside its header") from error
    _check_size(header, max_pixels)
    return header


def _parser(data: bytes) -> Callable[[bytes], Header] | None:
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg.read
    if data.startswith(_png.SIGNATURE):
        return _png.read
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _gif.read
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp.read
    if data.startswith(b"BM"):
        return _bmp.read
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")) and data[8:10] != b"CR":
        return _tiff.read
    if data[4:8] == b"ftyp" and _is_avif(data):
        return _avif.read
    return None


def _is_avif(data: bytes) -> bool:
    """Say whether "avif" or "avis" is among the brands of the ftyp box."""
    end = min(int.from_bytes(data[:4], "big"), 1024, len(data))
    brands = [data[8:12], *(data[i : i + 4] for i in range(16, end - 3, 4))]
    return b"avif" in brands or b"avis" in brands


def _check_size(header: Header, max_pixels: int) -> None:
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise undecodable(f"says that it is {width} x {height} pixels")
    limit = min(max_pixels, int(max_pixels * BYTES_PER_MAX_PIXEL / header.bytes_per_pixel))
    if width * height > limit:
        raise ImageTooLarge(
            f"The image is {width} x {height} = {width * height} pixels; {limit} is the most "
            f"for this kind of {header.format}. Send a smaller copy.",
            width=width,
            height=height,
            pixels=width * height,
            limit=limit,
        )
