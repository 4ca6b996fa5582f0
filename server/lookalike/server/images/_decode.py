"""Turns a picture file into upright sRGB pixels, the same for everyone.

Decided here, and part of every vector (so `DECODER` changes with it): first frame
only, alpha on white, EXIF orientation applied, 16 bits scaled to 8, CMYK by
subtraction, embedded colour profiles ignored. The last because the models were
trained on pixels read that way, and because a profile is a program for another
parser of untrusted bytes.

The library gets files stripped to what pixels need (`Header.essence`): so nothing
it could warn about reaches it, and `warnings.catch_warnings`, which is not
thread-safe, is not needed. Its classes are used directly, not `Image.open`, whose
own limit is a global; ours was checked on the header.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from lookalike.backends.errors import ImageTooCostly, ImageTooLarge, LookalikeError
from lookalike.backends.types import RgbImage
from lookalike.server.images import header
from lookalike.server.images._parts import exif_orientation, undecodable

DECODER = "decode/1"
"""Version of everything that decides a pixel; part of a model's fingerprint."""

THUMBNAIL_SIDE = 256

_log = logging.getLogger(__name__)

_OPEN: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

# Memory belongs to the process, so the turn-taking does too: pictures that take much
# of it are decoded one at a time, the others pass by.
_BIG_BYTES = 128 * 2**20
_one_big_at_a_time = threading.Lock()

_BAND_BYTES = 8 * 2**20
_WHITE = 255


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded picture."""

    image: RgbImage
    """Upright sRGB, C-contiguous; smaller than the file where `side` allowed it."""
    width: int
    """Of the upright picture at full size, in pixels."""
    height: int
    media_type: str
    """By content: "image/jpeg"."""


def decode(data: bytes, *, max_pixels: int, side: int = 0) -> Decoded:
    """Return the first frame of a picture file as upright sRGB on white.

    With `side` > 0 a picture of more than twice that is shrunk by whole factors while
    its shorter side keeps at least `side` pixels; 0 keeps the full size. Any thread.

    Raises ImageUndecodable, ImageFormatUnsupported, ImageTooLarge (more than `max_pixels`
    pixels, fewer for formats that need much memory) or ImageTooCostly, nothing else.
    """
    head = header.read(data, max_pixels)
    with turn(head):
        return decode_essence(head, side)


def decode_essence(
    head: header.Header, side: int, room: Callable[[tuple[int, int, int]], RgbImage] | None = None
) -> Decoded:
    """Return the picture of a header that was read; `room` gives the array for its pixels.

    Raises ImageUndecodable, ImageTooLarge, ImageTooCostly, nothing else.
    """
    try:
        return _decode(head, side, room or _new)
    except LookalikeError:
        raise
    except MemoryError:
        raise too_costly(head.format, "memory") from None
    except Exception as error:
        # The library raises a zoo: OSError, SyntaxError, ValueError, struct.error, EOFError,
        # KeyError, OverflowError, ... All mean that the bytes are at fault.
        _log.debug("a %s was refused by the library: %s", head.format, type(error).__name__)
        raise damaged(head.format) from None


def damaged(kind: str) -> LookalikeError:
    """Return the error for bytes that the library refused."""
    return undecodable(f"is a damaged or unusual {kind} file")


def too_costly(kind: str, what: str) -> LookalikeError:
    """Return the error for a picture that takes too much of `what`: "time", "memory"."""
    return ImageTooCostly(
        f"This {kind} takes more {what} to decode than pictures may. Save it again, smaller.",
        resource=what,
    )


def larger_than_said(width: int, height: int) -> LookalikeError:
    """Return the error for a picture of more pixels than its header declares."""
    return ImageTooLarge(
        f"The image is {width} x {height} pixels, more than its header says. Save it again.",
        width=width,
        height=height,
    )


def thumbnail(image: RgbImage) -> bytes:
    """Return a JPEG of at most 256 x 256 pixels, never enlarged, without metadata."""
    small = Image.fromarray(image)
    # as sharp as bicubic when it shrinks, at half the cost of Lanczos (1.2 against 2.4 ms)
    # and half of that again where whole blocks are averaged first (640 x 480: 2.3 to 1.2 ms)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.HAMMING, reducing_gap=1.2)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()


def turn(head: header.Header) -> AbstractContextManager[object]:
    """Wait until no other picture that takes much memory is being decoded."""
    cost = head.width * head.height * head.bytes_per_pixel
    return _one_big_at_a_time if cost > _BIG_BYTES else nullcontext()


def _new(shape: tuple[int, int, int]) -> RgbImage:
    return np.empty(shape, np.uint8)


def _decode(
    head: header.Header, side: int, room: Callable[[tuple[int, int, int]], RgbImage]
) -> Decoded:
    with _OPEN[head.format](io.BytesIO(head.essence)) as opened:
        width, height = opened.size
        if width * height > head.width * head.height:
            raise larger_than_said(width, height)
        orientation = head.orientation
        if head.format == "AVIF":
            # The library reports rotation and mirroring as if they were EXIF.
            orientation = exif_orientation(bytes(opened.info.get("exif", b"")))
        if side > 0:
            opened.draft(None, (side, side))
        opened.load()
        direct = orientation == 1
        pixels = _rgb(opened, head.bits, _factor(opened.size, side), room if direct else _new)
    if orientation >= 5:
        width, height = height, width
    if not direct:
        turned = _turned(pixels, orientation)
        rows, columns, _ = turned.shape
        pixels = room((rows, columns, 3))
        pixels[:] = turned
    return Decoded(pixels, width, height, f"image/{head.format.lower()}")


def _factor(size: tuple[int, int], side: int) -> int:
    return max(1, min(size) // side) if side > 0 else 1


def _turned(pixels: RgbImage, orientation: int) -> RgbImage:
    """Undo an EXIF orientation: 2 to 4 mirror and turn by 180, 5 to 8 also swap the axes."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _rgb(
    image: Image.Image, bits: int, factor: int, room: Callable[[tuple[int, int, int]], RgbImage]
) -> RgbImage:
    """Return (ceil(h / factor), ceil(w / factor), 3) uint8; works in bands to save memory."""
    width, height = image.size
    out = room((-(-height // factor), -(-width // factor), 3))
    convert = _converter(image, bits)
    for top, band in _bands(image, factor):
        flat = convert(band)
        if factor > 1:
            flat = flat.reduce(factor)
        out[top // factor : top // factor + flat.height] = np.asarray(flat)
    return out


def _bands(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield (top, rows) of whole multiples of `factor` rows."""
    width, height = image.size
    rows = max(1, _BAND_BYTES // (4 * width * factor)) * factor
    if rows >= height:
        yield 0, image
        return
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _converter(image: Image.Image, bits: int) -> Callable[[Image.Image], Image.Image]:
    """Choose how a band becomes RGB, by the mode of the whole picture."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _deep_grey(image, bits)
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white
    if mode == "RGB":
        return lambda band: band
    return lambda band: band.convert("RGB")


def _on_white(band: Image.Image) -> Image.Image:
    rgba = band if band.mode == "RGBA" else band.convert("RGBA")
    out = Image.new("RGB", rgba.size, (_WHITE, _WHITE, _WHITE))
    out.paste(rgba, mask=rgba.getchannel("A"))
    return out


def _deep_grey(image: Image.Image, bits: int) -> Callable[[Image.Image], Image.Image]:
    """Scale grey of more than 8 bits; without a natural range the picture's own is used."""
    see_through = image.info.get("transparency")
    low, span = _range(image, bits)

    def convert(band: Image.Image) -> Image.Image:
        values = np.asarray(band)
        if low == 0 and span == 2**16:
            grey = (values >> 8).astype(np.uint8)  # as the library does with 16-bit colour
        else:
            scaled = (values - np.float64(low)).astype(np.float32) * np.float32(255 / span)
            scaled = np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0)
            grey = (scaled.clip(0, 255, out=scaled) + np.float32(0.5)).astype(np.uint8)
        if see_through is not None:
            grey[values == see_through] = _WHITE
        return Image.fromarray(grey).convert("RGB")

    return convert


def _range(image: Image.Image, bits: int) -> tuple[float, float]:
    """Return (black, white - black) of a deep grey picture; exactly (0, 65536) for 16 bits."""
    if image.mode.startswith("I;16"):
        return 0, 2**bits if 8 < bits < 16 else 2**16
    low, high = np.inf, -np.inf
    for _, band in _bands(image, 1):
        values: NDArray[np.generic] = np.asarray(band)
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if image.mode == "F" and low >= 0 and high <= 1:
        return 0, 1
    if image.mode == "I" and low >= 0 and high < 2**16:
        return 0, 2**16
    return (low, high - low) if high > low else (0, 1)
