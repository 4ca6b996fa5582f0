"""Files that strangers might send: over 250, made here, each with the answers it may get."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import picture_zoo as zoo

OK = "OK"
UNDECODABLE, UNSUPPORTED = "IMAGE_UNDECODABLE", "IMAGE_FORMAT_UNSUPPORTED"
TOO_LARGE, TOO_COSTLY = "IMAGE_TOO_LARGE", "IMAGE_TOO_COSTLY"

ONE_OF_EACH = ("jpeg", "jpeg progressive", "png", "webp", "webp lossless", "gif", "bmp",
               "tiff lzw", "tiff jpeg", "avif")  # fmt: skip
CUTS = 20


@dataclass(frozen=True)
class Case:
    """A file, and the reasons that its answer may have (OK: it is a picture)."""

    name: str
    data: bytes
    answers: frozenset[str]


def cases() -> Iterator[Case]:
    """Yield all of them, the same every time."""
    for make in (_cut, _bombs, _scans, _polyglots, _modes, _turned, _strangers, _noise, _rotten):
        for name, data, *answers in make():
            yield Case(name, data, frozenset(answers))


Made = Iterator[tuple[Any, ...]]
"""Name, file, reasons."""


def _files() -> dict[str, bytes]:
    return {name: data for name, (data, _) in zoo.ordinary().items()}


def _cut() -> Made:
    """Every format, ended at twenty places."""
    files = _files()
    for name in ONE_OF_EACH:
        for i in range(CUTS):
            end = len(files[name]) * i // CUTS
            answers = [UNDECODABLE] if i < 1 else [UNDECODABLE, OK]
            yield f"{name}, {i} of {CUTS} parts", files[name][:end], *answers


def _bombs() -> Made:
    """Headers that promise gigapixels, and pixels that are cheap to write."""
    wide, high = 60_000, 60_000
    rows = zlib.compress(bytes(20_000_000), 9)
    yield "png of 3.6 gigapixels", zoo.png(wide, high, 1, 0, b""), TOO_LARGE
    yield "png of a strip", zoo.png(2**31 - 1, 1, 8, 0, b""), TOO_LARGE
    yield "png of zeros", zoo.png(9000, 9000, 8, 2, bytes(1000)), UNDECODABLE
    yield "png, real zlib bomb", _zlib_bomb(rows), OK, UNDECODABLE
    yield "gif of 3.6 gigapixels", zoo.gif(wide, high), TOO_LARGE
    yield "gif of many frames", zoo.gif(500, 500, frames=20_000), OK
    yield "bmp of 3.6 gigapixels", zoo.bmp(wide, high), TOO_LARGE
    yield "bmp upside down", zoo.bmp(wide, -high), TOO_LARGE
    yield "bmp of run lengths", zoo.bmp(5000, 5000, 8, 1, b"\0\1" * 500), TOO_LARGE
    yield "tiff of 3.6 gigapixels", zoo.tiff("<", _tiff_tags(wide, high)), TOO_LARGE
    yield "tiff of 16 exapixels", zoo.tiff(">", _tiff_tags(2**32 - 1, 2**32 - 1)), TOO_LARGE
    jpeg = bytearray(_files()["jpeg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    yield "jpeg of 4 gigapixels", bytes(jpeg), TOO_LARGE
    webp = bytearray(_files()["webp lossless"])
    at = webp.index(b"VP8L") + 9  # 14 bits each, less one
    webp[at : at + 4] = struct.pack("<I", struct.unpack_from("<I", webp, at)[0] | 0xFFF_FFFF)
    yield "webp of 268 megapixels", bytes(webp), TOO_LARGE
    avif = _files()["avif"]
    at = avif.index(b"ispe") + 8
    huge = avif[:at] + struct.pack(">II", wide, high) + avif[at + 8 :]
    yield "avif of 3.6 gigapixels", huge, TOO_LARGE, UNDECODABLE


def _zlib_bomb(packed: bytes) -> bytes:
    """Return a small PNG with a thousand times the pixels that it needs."""
    head = struct.pack(">IIBBBBB", 100, 100, 8, 0, 0, 0, 0)
    parts = [zoo.png_chunk(b"IHDR", head), zoo.png_chunk(b"IDAT", packed)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + zoo.png_chunk(b"IEND", b"")


def _tiff_tags(width: int, height: int) -> list[tuple[int, int, int, int]]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, height), (279, 4, 1, 100)]  # fmt: skip


def _scans() -> Made:
    """Progressive JPEGs of ever more passes."""
    for times, size in ((50, 64), (99, 500), (101, 64), (1000, 64), (20_000, 64)):
        answers = [OK] if times < 91 else [TOO_LARGE] if times > 100 else [OK, TOO_LARGE]
        yield f"jpeg of {times} more scans", zoo.scans(times, size), *answers
    yield "jpeg of scans and pixels", zoo.scans(95, 3000), TOO_LARGE, TOO_COSTLY, OK


def _polyglots() -> Made:
    """Files that are something else as well."""
    files = _files()
    riders = {"zip": b"PK\x03\x04" + bytes(100), "html": b"<html><script>1</script>",
              "php": b"<?php echo 1 ?>", "jpeg": files["jpeg"], "pdf": b"%PDF-1.7\n"}  # fmt: skip
    for name in ("jpeg", "png", "gif", "webp", "bmp", "avif"):
        for rider, tail in riders.items():
            yield f"{name} and {rider}", files[name] + tail, OK
    script = zoo.jpeg_insert(files["jpeg"], zoo.segment(0xFE, b"<script>alert(1)</script>"))
    yield "jpeg with a script", script, OK
    yield "svg of a png", b"<svg xmlns='http://www.w3.org/2000/svg'>" + files["png"], UNSUPPORTED


def _modes() -> Made:
    """Every mode of pixel that a format knows."""
    image = Image.fromarray(zoo.scene(60, 40))
    for kind, modes in {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"),
        "JPEG": ("1", "L", "RGB", "CMYK", "YCbCr"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("1", "L", "P"),
        "BMP": ("1", "L", "P", "RGB", "RGBA"),
        "AVIF": ("RGB", "RGBA", "L"),
    }.items():
        for mode in modes:
            source = image.convert("I") if mode == "I;16" else image
            yield f"{kind} of {mode}", zoo.encode(source.convert(mode), kind), OK


def _turned() -> Made:
    """All orientations, in every format that has them, and some that are none."""
    for orientation in (*zoo.ORIENTATIONS, 0, 9, 65535):
        for kind in ("JPEG", "PNG", "WEBP"):
            block = zoo.exif(orientation)
            yield (
                f"{kind} turned {orientation}",
                zoo.encode(zoo.scene(40, 30), kind, exif=block),
                OK,
            )
    loop = zoo.exif(6)[:-4] + struct.pack("<I", 8)
    yield "EXIF that points to itself", zoo.encode(zoo.scene(40, 30), "JPEG", exif=loop), OK


def _strangers() -> Made:
    """What is no picture of ours."""
    for name, data in {
        "pdf": b"%PDF-1.7\n", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n", "mvg": b"push graphic-context\n",
        "svg": b"<svg/>", "heic": b"\0\0\0\x18ftypheic" + bytes(12), "psd": b"8BPS\0\1" + bytes(30),
        "ico": b"\0\0\1\0\1\0" + bytes(30), "jp2": b"\0\0\0\x0cjP  \r\n\x87\n", "ppm": b"P6\n1 1\n255\n000",
        "elf": b"\x7fELF" + bytes(60), "zip": b"PK\x03\x04", "text": b"hello", "zeros": bytes(65536),
        "pcx": b"\x0a\5\1\x08" + bytes(200), "fli": bytes(4) + b"\x11\xaf" + bytes(100),
        "sgi": b"\x01\xda\1\1" + bytes(600), "dds": b"DDS " + bytes(124), "icns": b"icns" + bytes(60),
    }.items():  # fmt: skip
        yield name, data, UNSUPPORTED
    yield "nothing", b"", UNDECODABLE


def _noise() -> Made:
    """The beginning of a format, then noise."""
    rng = random.Random(20250711)
    for name, start in {
        "jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a", "bmp": b"BM",
        "tiff": b"II*\0", "bigtiff": b"MM\0+\0\x08\0\0", "webp": b"RIFF\0\1\0\0WEBPVP8L",
        "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    }.items():  # fmt: skip
        for size in (0, 10, 5000):
            yield f"{name} and {size} bytes of noise", start + rng.randbytes(size), *(
                UNDECODABLE, UNSUPPORTED, TOO_LARGE)  # fmt: skip


def _rotten() -> Made:
    """Good files with bits turned over behind their headers."""
    rng = np.random.default_rng(20250711)
    for name, data in _files().items():
        for i in range(3):
            spoiled = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(len(data) // 8, len(data), 3 * 4**i)
            spoiled[places] ^= rng.integers(1, 256, len(places), np.uint8)
            answers = OK, UNDECODABLE, TOO_LARGE, UNSUPPORTED
            yield f"{name}, rotten {i}", spoiled.tobytes(), *answers
