"""Makes pictures of every kind: ordinary, odd, damaged and hostile ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]

ORIENTATIONS = range(1, 9)


def scene(width: int = 240, height: int = 160) -> Rgb:
    """Return a smooth RGB picture in which no turn or mirroring looks like another."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    blob = np.exp(-(((x - 0.25) / 0.15) ** 2 + ((y - 0.3) / 0.2) ** 2))
    red = 40 + 190 * blob + 20 * x
    green = 30 + 180 * x * (1 - 0.5 * y)
    blue = 220 - 170 * y - 90 * blob
    return np.stack([red, green, blue], -1).clip(0, 255).astype(np.uint8)


def encode(image: Image.Image | Rgb, kind: str, **options: Any) -> bytes:
    """Return a picture file."""
    out = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int, order: str = "<", *, kind: int = 3, count: int = 1) -> bytes:
    """Return an EXIF block of one tag; `order` is "<" or ">"."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entry = struct.pack(order + "HHIHH", 0x0112, kind, count, orientation, 0)
    return b"Exif\0\0" + head + struct.pack(order + "H", 1) + entry + b"\0\0\0\0"


def stored(upright: Rgb, orientation: int) -> Rgb:
    """Return how a camera stores an upright picture under an EXIF orientation."""
    turn: dict[int, Callable[[Rgb], Rgb]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turn[orientation](upright))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with its checksum."""
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    rows: bytes,
    *,
    before: bytes = b"",
    interlaced: int = 0,
) -> bytes:
    """Return a PNG of these filtered rows; `before` goes between header and pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join([
        b"\x89PNG\r\n\x1a\n",
        png_chunk(b"IHDR", header),
        before,
        png_chunk(b"IDAT", zlib.compress(rows, 1)),
        png_chunk(b"IEND", b""),
    ])  # fmt: skip


def png16(picture: Rgb) -> bytes:
    """Return a PNG of 16 bits a sample, RGB; the low bytes carry noise."""
    noise = np.random.default_rng(5).integers(0, 256, picture.shape)
    words = (picture.astype(">u2") * 256 + noise).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in words)
    return png(picture.shape[1], picture.shape[0], 16, 2, rows)


def ycck(picture: Rgb) -> bytes:
    """Return a four-component JPEG as Adobe writes it: inverted, luma and chroma plus black."""
    ycc = np.asarray(Image.fromarray(255 - picture).convert("YCbCr"))
    full = np.concatenate([ycc, np.full((*ycc.shape[:2], 1), 255, np.uint8)], -1)
    data = encode(Image.fromarray(255 - full, "CMYK"), "JPEG", quality=95, subsampling=0)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


def jpeg_insert(data: bytes, segment: bytes) -> bytes:
    """Put bytes directly behind the JPEG's start marker."""
    return data[:2] + segment + data[2:]


def segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def scans(times: int, size: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    data = encode(Image.new("L", (size, size), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + b"\xff\xd9"


def gif(width: int, height: int, *, before: bytes = b"", frames: int = 1) -> bytes:
    """Return a GIF whose frames are one pixel each."""
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\xff\0\0\0\0\xff"
    return head + before + frame * frames + b";"


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, body: bytes = b"") -> bytes:
    """Return a BMP header with whatever body."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + info + body


def tiff(order: str, tags: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """Return a classic TIFF of (tag, type, count, value) and what follows the directory."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    body = struct.pack(order + "H", len(tags))
    for tag, kind, count, value in tags:
        # A SHORT is left-justified in its four bytes.
        word = struct.pack(order + ("HH" if kind == 3 and count == 1 else "I"), *(
            (value, 0) if kind == 3 and count == 1 else (value,)
        ))  # fmt: skip
        body += struct.pack(order + "HHI", tag, kind, count) + word
    return head + body + b"\0\0\0\0" + tail


def plain_tiff(picture: NDArray[Any], order: str, bits: int, sample_format: int = 1) -> bytes:
    """Return an uncompressed grey TIFF of the array's own sample type."""
    height, width = picture.shape
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1),
        (262, 3, 1, 1), (273, 4, 1, 0), (277, 3, 1, 1), (278, 4, 1, height),
        (279, 4, 1, picture.nbytes), (339, 3, 1, sample_format),
    ]  # fmt: skip
    start = len(tiff(order, tags))
    tags[5] = (273, 4, 1, start)
    return tiff(order, tags, picture.tobytes())


def big_tiff(picture: Rgb, order: str = "<") -> bytes:
    """Return an uncompressed RGB BigTIFF."""
    height, width, _ = picture.shape
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 0x0008_0008_0008),
        (259, 3, 1, 1), (262, 3, 1, 2), (273, 16, 1, 0), (277, 3, 1, 3), (278, 4, 1, height),
        (279, 16, 1, picture.nbytes),
    ]  # fmt: skip
    head = (b"II+\0" if order == "<" else b"MM\0+") + struct.pack(order + "HHQ", 8, 0, 16)
    start = len(head) + 8 + 20 * len(tags) + 8
    body = struct.pack(order + "Q", len(tags))
    for tag, kind, count, value in tags:
        value = start if tag == 273 else value
        code = {3: f"{count}H", 4: "I", 16: "Q"}[kind]
        values = [8] * count if tag == 258 else [value]
        word = struct.pack(order + code, *values).ljust(8, b"\0")
        body += struct.pack(order + "HHQ", tag, kind, count) + word
    return head + body + b"\0" * 8 + picture.tobytes()


def ordinary() -> dict[str, tuple[bytes, float]]:
    """Return name -> (file of `scene()`, most that a pixel may differ on average)."""
    rgb = scene()
    image = Image.fromarray(rgb)
    opaque = image.convert("RGBA")
    return {
        "jpeg": (encode(rgb, "JPEG", quality=92), 2.5),
        "jpeg progressive": (encode(rgb, "JPEG", quality=92, progressive=True), 2.5),
        "jpeg 4:4:4": (encode(rgb, "JPEG", quality=92, subsampling=0), 2.5),
        "jpeg cmyk": (encode(image.convert("CMYK"), "JPEG", quality=92), 3.0),
        "jpeg ycck": (ycck(rgb), 3.0),
        "png": (encode(rgb, "PNG"), 0.0),
        "png of 16 bits": (png16(rgb), 0.0),
        "png opaque alpha": (encode(opaque, "PNG"), 0.0),
        "png palette": (encode(image.quantize(256, dither=Image.Dither.NONE), "PNG"), 5.0),
        "apng": (encode(rgb, "PNG", save_all=True, append_images=[Image.new("RGB", (240, 160))]), 0.0),
        "webp": (encode(rgb, "WEBP", quality=92), 3.0),
        "webp lossless": (encode(rgb, "WEBP", lossless=True), 0.0),
        "webp with alpha": (encode(opaque, "WEBP", lossless=True), 0.0),
        "webp animated": (
            encode(rgb, "WEBP", lossless=True, save_all=True,
                   append_images=[Image.new("RGB", (240, 160), i) for i in range(3)]), 0.0),
        "gif": (encode(image.quantize(256, dither=Image.Dither.NONE), "GIF"), 5.0),
        "gif animated": (
            encode(image.quantize(256, dither=Image.Dither.NONE), "GIF", save_all=True,
                   append_images=[Image.new("P", (240, 160), i) for i in range(3)]), 5.0),
        "bmp": (encode(rgb, "BMP"), 0.0),
        "bmp palette": (encode(image.quantize(256, dither=Image.Dither.NONE), "BMP"), 5.0),
        "tiff": (encode(rgb, "TIFF"), 0.0),
        "tiff lzw": (encode(rgb, "TIFF", compression="tiff_lzw"), 0.0),
        "tiff deflate": (encode(rgb, "TIFF", compression="tiff_adobe_deflate"), 0.0),
        "tiff jpeg": (encode(rgb, "TIFF", compression="jpeg"), 4.0),
        "tiff packbits alpha": (encode(opaque, "TIFF", compression="packbits"), 0.0),
        "tiff cmyk": (encode(image.convert("CMYK"), "TIFF"), 1.0),
        "bigtiff": (big_tiff(rgb), 0.0),
        "bigtiff, big-endian": (big_tiff(rgb, ">"), 0.0),
        "avif": (encode(rgb, "AVIF", quality=90, speed=9), 3.0),
        "avif animated": (
            encode(rgb, "AVIF", quality=90, speed=9, save_all=True,
                   append_images=[Image.new("RGB", (240, 160))]), 3.0),
    }  # fmt: skip
