"""What the header parsers share: the result, the refusals, the EXIF orientation."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from lookalike.backends.errors import ImageFormatUnsupported, ImageUndecodable

SUPPORTED = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself, and the part of it that its pixels need.

    `essence` is the file without comments, profiles, EXIF, further frames and
    whatever else the decoding library would parse at its own risk and cost.
    """

    format: str
    """As the decoding library calls it: "JPEG", "WEBP"."""
    width: int
    """Stored pixels, before the orientation is applied."""
    height: int
    essence: bytes
    bytes_per_pixel: float
    """Memory at the height of decoding, measured; the result with `side` = 0 comes on top."""
    orientation: int = 1
    """EXIF, 1 to 8."""
    scans: int = 1
    """Passes over the whole picture that the file asks for (JPEG)."""
    bits: int = 8
    """Of one grey sample, where that is needed to scale it (TIFF)."""
    simple: bool = False
    """PNG, or JPEG in one sequential scan coded by Huffman: little code decodes it, in time
    and memory that the header tells."""


def undecodable(what: str) -> ImageUndecodable:
    """Return the error for a damaged file; `what` completes "The picture ..."."""
    return ImageUndecodable(f"The picture {what}. Save it again, or send another file.")


def unsupported(what: str, advice: str = "") -> ImageFormatUnsupported:
    """Return the error for content that is no picture of ours; `what` is "a PDF document"."""
    advice = advice or f"Send a {SUPPORTED} file."
    return ImageFormatUnsupported(f"This is {what}. {advice}", detected=what)


_MAX_ENTRIES = 1024


def exif_orientation(tiff: bytes) -> int:
    """Return 1 to 8 from an EXIF block (a TIFF structure); 1 for anything doubtful.

    EXIF 2.32, tag 0x0112: one SHORT in the first directory. Never raises.
    """
    if tiff.startswith(b"Exif\0\0"):
        tiff = tiff[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for i in range(min(count, _MAX_ENTRIES)):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * i)
            if tag == 0x0112:
                return value if (kind, values) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
