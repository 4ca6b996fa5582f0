"""What the decoder answers to files that are no pictures, damaged, or made to hurt."""

from __future__ import annotations

import base64
import functools
import random
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib

import pytest
from PIL import Image

import picture_zoo as zoo
from lookalike.backends.errors import (
    ImageFormatUnsupported,
    ImageTooLarge,
    ImageUndecodable,
    InvalidArgument,
)
from lookalike.server.images import _av1, decode, header

MAX = 10_000_000
ORDINARY = {name: data for name, (data, _) in zoo.ordinary().items()}

STRANGERS = {
    "a PDF document": b"%PDF-1.7\n1 0 obj",
    "a PostScript document": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "a ZIP archive or an office document": b"PK\x03\x04\x14\0\0\0",
    "a gzip archive": b"\x1f\x8b\x08\0",
    "a program": b"\x7fELF\x02\x01\x01\0",
    "a Photoshop document": b"8BPS\0\x01",
    "an icon (ICO)": b"\0\0\1\0\1\0",
    "a JPEG 2000 picture": b"\0\0\0\x0cjP  \r\n\x87\n",
    "a JPEG XL picture": b"\xff\x0a\xfa\x1f",
    "a HEIC picture": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a video": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
    "a sound file": b"RIFF\0\0\0\0WAVEfmt ",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">',
    "a web page": b"\xef\xbb\xbf<!DOCTYPE html><html><body>404",
    "an XML text": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "a JSON text": b'{"error": "not found"}',
    "a picture as base64 text": base64.b64encode(ORDINARY["png"]),
    "a data: address as text": b"data:image/png;base64," + base64.b64encode(ORDINARY["png"]),
    "a text": "Grüße aus".encode("ascii", "ignore") + b" dem Urlaub",
    "a Netpbm picture": b"P6\n2 2\n255\n" + bytes(12),
    "a file that begins with zeros only": bytes(5000),
    "a raw picture of a camera": b"IIU\0\x08\0\0\0",
    "of no known picture format": b"\x13\x37\xff\xfe\x01\x02\x03",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_are_called_by_their_name(name: str) -> None:
    with pytest.raises(ImageFormatUnsupported) as caught:
        decode(STRANGERS[name], max_pixels=MAX)
    assert f"This is {name}." in caught.value.message
    assert caught.value.metadata["detected"] == name
    assert caught.value.message.endswith(".")


def test_base64_of_every_format_is_recognised() -> None:
    for name in ("jpeg", "png", "gif", "webp", "bmp", "tiff"):
        text = base64.encodebytes(ORDINARY[name])
        with pytest.raises(ImageFormatUnsupported, match=r"base64 text\. Send the raw bytes"):
            decode(text, max_pixels=MAX)


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(ImageUndecodable, match="empty"):
        decode(b"", max_pixels=MAX)


@functools.cache
def oversized() -> dict[str, bytes]:
    """Files whose header claims more than 10 million pixels; tiny themselves."""
    jpeg = bytearray(ORDINARY["jpeg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65500, 65500)
    webp = bytearray(ORDINARY["webp with alpha"])
    webp[21:25] = struct.pack("<I", 16383 | 16383 << 14 | 1 << 28)
    extended = bytearray(ORDINARY["webp animated"])
    extended[24:30] = (16000).to_bytes(3, "little") * 2
    frame = bytearray(zoo.gif(1, 1))
    at = frame.index(b",")
    frame[at + 1 : at + 9] = struct.pack("<HHHH", 1, 1, 65000, 65000)
    avif = ORDINARY["avif"]
    stream = zoo.encode(Image.new("RGB", (4000, 4000)), "AVIF", speed=10)
    sizes = [(256, 4, 1, 100_000), (257, 4, 1, 100_000), (258, 3, 1, 8), (262, 3, 1, 1)]
    return {
        "jpeg": bytes(jpeg),
        "png": zoo.png(2**31 - 1, 1, 8, 2, b""),
        "png of one bit": zoo.png(60_000, 60_000, 1, 0, b""),
        "webp": bytes(webp),
        "webp canvas": bytes(extended),
        "gif screen": zoo.gif(65535, 65535),
        "gif frame": bytes(frame),
        "bmp": zoo.bmp(30_000, 30_000),
        "bmp upside down": zoo.bmp(30_000, -30_000),
        "bmp run lengths": zoo.bmp(3000, 3000, 8, 1, bytes(1024) + b"\0\0" * 3000),
        "tiff": zoo.tiff("<", sizes),
        "tiff big-endian": zoo.tiff(">", sizes),
        "avif": avif.replace(struct.pack(">II", 240, 160), struct.pack(">II", 24000, 16000)),
        "avif stream": stream.replace(struct.pack(">II", 4000, 4000), struct.pack(">II", 40, 40)),
    }


@pytest.mark.parametrize("name", oversized())
def test_a_header_of_too_many_pixels_is_refused_at_once(name: str) -> None:
    data = oversized()[name]
    began = time.process_time()
    with pytest.raises(ImageTooLarge) as caught:
        decode(data, max_pixels=MAX)
    assert time.process_time() - began < 0.1
    assert "pixels" in caught.value.message
    assert int(caught.value.metadata["pixels"]) > int(caught.value.metadata["limit"])


def test_formats_that_need_much_memory_get_fewer_pixels() -> None:
    for kind, kept in (("WEBP", False), ("AVIF", False), ("PNG", True)):
        data = zoo.encode(Image.new("RGB", (900, 1000)), kind)
        if kept:
            assert decode(data, max_pixels=1_000_000).width == 900
        else:
            with pytest.raises(ImageTooLarge, match=f"the most for this kind of {kind}"):
                decode(data, max_pixels=1_000_000)


@functools.cache
def tedious() -> dict[str, tuple[bytes, type[InvalidArgument]]]:
    """Files of many tiny parts, or of many passes."""
    jpeg, png = ORDINARY["jpeg"], ORDINARY["png"]
    strips = [(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 1_000_000, 8), (279, 4, 1_000_000, 8)]
    tile = [(256, 4, 1, 8), (257, 4, 1, 8), (322, 4, 1, 60_000), (323, 4, 1, 60_000)]
    return {
        "jpeg scans": (zoo.scans(150), ImageTooLarge),
        "jpeg scans of many pixels": (zoo.scans(90, 5000), ImageTooLarge),
        "jpeg segments": (zoo.jpeg_insert(jpeg, b"\xff\xfe\0\2" * 5_000_000), ImageUndecodable),
        "jpeg restarts": (zoo.jpeg_insert(jpeg, b"\xff\xd0" * 10_000_000), ImageUndecodable),
        "jpeg junk": (zoo.jpeg_insert(jpeg, b"\xff\0" * 10_000_000), ImageUndecodable),
        "jpeg frames": (zoo.jpeg_insert(jpeg, jpeg[jpeg.index(b"\xff\xc0") :][:19]), ImageUndecodable),
        "png chunks": (png[:33] + zoo.png_chunk(b"tEXt", b"") * 1_000_000, ImageUndecodable),
        "gif comments": (zoo.gif(1, 1, before=b"!\xfe" + b"\1a" * 9_000_000 + b"\0"), ImageUndecodable),
        "tiff strips": (zoo.tiff("<", strips, bytes(4_000_000)), ImageUndecodable),
        "tiff tiles": (zoo.tiff("<", tile), ImageUndecodable),
        "tiff tags": (b"II*\0\x08\0\0\0\xff\xff" + bytes(900_000), ImageUndecodable),
        "avif boxes": (
            b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\0\x08free" * 2_000_000, ImageUndecodable),
    }  # fmt: skip


@pytest.mark.parametrize("name", tedious())
def test_a_file_of_endless_parts_is_refused_soon(name: str) -> None:
    data, error = tedious()[name]
    began = time.process_time()
    with pytest.raises(error):
        decode(data, max_pixels=100_000_000)
    assert time.process_time() - began < 1.0


def test_streams_of_endless_units_are_refused() -> None:
    with pytest.raises(ImageUndecodable, match="AV1 units"):
        list(_av1.frame_sizes(b"\x12\0" * 20_000))


def test_an_ordinary_progressive_file_is_no_bomb() -> None:
    data = zoo.encode(zoo.scene(1000, 800), "JPEG", progressive=True)
    behind = data + b"\xff\xda" * 500
    for file in (data, behind, zoo.scans(80)):
        assert decode(file, max_pixels=MAX).media_type == "image/jpeg"


# The end of an animation belongs to other frames.
@pytest.mark.parametrize("name", [n for n in ORDINARY if "anim" not in n and n != "apng"])
def test_a_picture_cut_short_is_refused(name: str) -> None:
    data = ORDINARY[name]
    for i in range(20):
        cut = data[: int(len(data) * 0.93 * i / 19)]
        with pytest.raises(InvalidArgument):
            decode(cut, max_pixels=MAX, side=32 * (i % 2))


def test_sizes_of_zero_are_refused() -> None:
    jpeg = bytearray(ORDINARY["jpeg"])
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 7] = b"\0\0"
    for data in (
        bytes(jpeg),
        zoo.png(0, 5, 8, 2, b""),
        zoo.bmp(0, 4),
        zoo.tiff("<", [(256, 3, 1, 0)]),
    ):
        with pytest.raises(ImageUndecodable, match="pixels"):
            decode(data, max_pixels=MAX)


def test_kinds_of_tiff_and_bmp_that_are_left_out_say_so() -> None:
    size = [(256, 3, 1, 9), (257, 3, 1, 9)]
    with pytest.raises(ImageFormatUnsupported, match="TIFF with compression 6"):
        decode(zoo.tiff("<", [*size, (259, 3, 1, 6)]), max_pixels=MAX)
    with pytest.raises(ImageFormatUnsupported, match="raw picture of a camera"):
        decode(zoo.tiff(">", [*size, (50706, 1, 4, 0x01040000)]), max_pixels=MAX)
    with pytest.raises(ImageFormatUnsupported, match="another format inside"):
        decode(zoo.bmp(9, 9, 24, 4), max_pixels=MAX)


def test_messages_are_plain_sentences_without_the_librarys_words() -> None:
    for name, data in ORDINARY.items():
        with pytest.raises(InvalidArgument) as caught:
            decode(data[: len(data) // 3], max_pixels=MAX)
        text = caught.value.message
        assert text[0].isupper(), name
        assert text.endswith("."), name
        assert not {"PIL", "Error", "<", "0x", "/"} & set(text.split()), name
        assert caught.value.__cause__ is None or not str(caught.value.__cause__).startswith("/")


def test_the_library_never_sees_metadata() -> None:
    secret = b"48 degrees north"
    jpeg = zoo.jpeg_insert(ORDINARY["jpeg"], zoo.segment(0xE1, b"Exif\0\0" + secret))
    jpeg = zoo.jpeg_insert(jpeg, zoo.segment(0xFE, secret))
    png = ORDINARY["png"]
    png = png[:33] + zoo.png_chunk(b"tEXt", b"a\0" + secret) + png[33:]
    gif = zoo.gif(5, 5, before=b"!\xfe" + bytes([len(secret)]) + secret + b"\0")
    webp = zoo.encode(zoo.scene(), "WEBP", exif=zoo.exif(1) + secret, xmp=secret)
    for data in (jpeg, png, gif, webp):
        assert secret in data
        assert secret not in header.read(data, MAX).essence


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damage a file: bytes, runs, numbers at their edges, cuts, repeats."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        # Headers are at the front: half of the damage goes there.
        at = rng.randrange(len(out) if rng.random() < 0.5 else min(len(out), 120))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                edge = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 65535, 4096))
                out[at : at + 4] = struct.pack(rng.choice("<>") + "I", edge)
            case 3:
                del out[at : at + rng.choice((1, 2, 4, 100))]
            case 4:
                out[at:at] = out[at : at + rng.choice((1, 2, 12, 200))]
            case _:
                out[at : at + 8] = rng.randbytes(8)
        if not out:
            break
    return bytes(out)


def repair_png(data: bytes) -> bytes:
    """Make the checksum of a PNG's header right again, so that damage gets past it."""
    return data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]


def test_damaged_files_only_ever_raise_invalid_argument() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    small = [zoo.encode(Image.new("P", (9, 7), 3), kind) for kind in ("GIF", "PNG", "BMP", "TIFF")]
    seeds = [*ORDINARY.values(), *small]
    until = time.monotonic() + 3
    tried = decoded = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        while time.monotonic() < until:
            data = mutate(rng.choice(seeds), rng)
            if data.startswith(b"\x89PNG") and rng.random() < 0.7:
                data = repair_png(data)
            tried += 1
            began = time.process_time()
            try:
                decode(data, max_pixels=1_000_000, side=rng.choice((0, 16, 128)))
                decoded += 1
            except InvalidArgument:
                pass
            assert time.process_time() - began < 2
    print(f"{tried} files, {decoded} still decoded")
    assert tried > 200
    assert 0 < decoded < tried


MEMORY = """
    import sys, zlib
    import picture_zoo as zoo
    from lookalike.server.images import decode

    def peak():
        with open("/proc/self/status") as status:
            return [int(line.split()[1]) for line in status if line.startswith("VmHWM")][0] * 1024

    rows = zlib.compressobj(1)
    block = bytes((3 * 9000 + 1) * 100)
    packed = b"".join([*(rows.compress(block) for _ in range(70)), rows.flush()])
    empty = zoo.png(9000, 7000, 8, 2, b"")
    at = empty.index(b"IDAT") - 4
    data = empty[:at] + zoo.png_chunk(b"IDAT", packed) + zoo.png_chunk(b"IEND", b"")
    del packed
    before = peak()
    decode(data, max_pixels=100_000_000, side=448)
    print((peak() - before) / 63e6)
"""


def test_a_huge_picture_takes_little_more_than_its_own_pixels() -> None:
    """63 million RGB pixels are four bytes each in the library, and shrunk in place of copied."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY)],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert 3 < float(done.stdout) < 5
