"""What the decoder makes of good pictures, however odd they are stored."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import picture_zoo as zoo
from lookalike.server.images import DECODER, Decoded, decode, thumbnail

MAX = 10_000_000
ORDINARY = zoo.ordinary()
FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "TIFF": "image/tiff"}


def far(image: zoo.Rgb, other: zoo.Rgb) -> float:
    assert image.shape == other.shape
    return float(np.abs(image.astype(int) - other.astype(int)).mean())


@pytest.mark.parametrize("name", ORDINARY)
def test_every_kind_of_file_shows_the_same_scene(name: str) -> None:
    data, most = ORDINARY[name]
    got = decode(data, max_pixels=MAX)
    assert far(got.image, zoo.scene()) <= most
    assert (got.width, got.height) == (240, 160)
    assert got.media_type == "image/" + name.split()[0].strip(",").replace("apng", "png").replace(
        "bigtiff", "tiff"
    )


@pytest.mark.parametrize("name", ORDINARY)
def test_the_result_is_a_plain_array_of_its_own(name: str) -> None:
    for side in (0, 32):
        image = decode(ORDINARY[name][0], max_pixels=MAX, side=side).image
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert image.flags.writeable
        assert image.shape[2] == 3


@pytest.mark.parametrize("orientation", zoo.ORIENTATIONS)
@pytest.mark.parametrize("kind", FORMATS)
def test_all_eight_orientations_come_out_upright(kind: str, orientation: int) -> None:
    upright = zoo.scene()
    pixels = zoo.stored(upright, orientation)
    options: dict[str, int] = {"JPEG": {"quality": 92}, "WEBP": {"lossless": 1}}.get(kind, {})
    for order in "<>":
        block = zoo.exif(orientation, order)
        if kind == "TIFF":
            data = zoo.encode(pixels, kind, tiffinfo={274: orientation})
        else:
            data = zoo.encode(pixels, kind, exif=block, **options)
        got = decode(data, max_pixels=MAX)
        assert (got.width, got.height, got.media_type) == (240, 160, FORMATS[kind])
        assert far(got.image, upright) < (2.5 if kind == "JPEG" else 0.01)
        small = decode(data, max_pixels=MAX, side=40).image
        assert far(small, np.asarray(Image.fromarray(upright).reduce(4))) < 4


@pytest.mark.parametrize("orientation", zoo.ORIENTATIONS)
def test_rotation_and_mirroring_of_an_avif_are_applied(orientation: int) -> None:
    pixels = zoo.stored(zoo.scene(), orientation)
    data = zoo.encode(pixels, "AVIF", quality=90, speed=9, exif=zoo.exif(orientation)[6:])
    got = decode(data, max_pixels=MAX)
    assert (got.width, got.height) == (240, 160)
    assert far(got.image, zoo.scene()) < 3


def test_a_png_with_its_orientation_behind_the_pixels_is_upright() -> None:
    data = zoo.encode(zoo.stored(zoo.scene(), 6), "PNG")
    end = data.rindex(b"IEND") - 4
    data = data[:end] + zoo.png_chunk(b"eXIf", zoo.exif(6)[6:]) + data[end:]
    assert far(decode(data, max_pixels=MAX).image, zoo.scene()) == 0


@functools.cache
def bad_exif() -> dict[str, bytes]:
    good = zoo.exif(6)
    loop = bytearray(good)
    loop[-4:] = struct.pack("<I", 8)
    return {
        "value 9": zoo.exif(9),
        "value 0": zoo.exif(0),
        "type text": zoo.exif(6, kind=2),
        "count 4 billion": zoo.exif(6, count=2**32 - 1),
        "cut short": good[:-10],
        "no directory": good[:14],
        "directory far away": good[:10] + b"\xff\xff\xff\x7f" + good[14:],
        "noise": b"Exif\0\0" + bytes(range(200)),
        "empty": b"Exif\0\0",
    }


@pytest.mark.parametrize("name", bad_exif())
def test_bad_exif_is_ignored(name: str) -> None:
    data = zoo.jpeg_insert(ORDINARY["jpeg"][0], zoo.segment(0xE1, bad_exif()[name]))
    assert far(decode(data, max_pixels=MAX).image, zoo.scene()) < 2.5


def half_red() -> zoo.Rgb:
    """Left half opaque green, right half transparent red."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :32] = (0, 200, 0, 255)
    rgba[:, 32:] = (255, 0, 0, 0)
    return rgba


@functools.cache
def transparent() -> dict[str, bytes]:
    rgba = Image.fromarray(half_red())
    palette = Image.new("P", (64, 64), 1)
    palette.putpalette([0, 200, 0, 255, 0, 0])
    palette.paste(0, (0, 0, 32, 64))
    rgb = rgba.convert("RGB")
    return {
        "png rgba": zoo.encode(rgba, "PNG"),
        "png palette, one colour": zoo.encode(palette, "PNG", transparency=1),
        "png palette, alphas": zoo.encode(palette, "PNG", transparency=bytes([255, 0])),
        "png rgb, one colour": zoo.encode(rgb, "PNG", transparency=(255, 0, 0)),
        "webp": zoo.encode(rgba, "WEBP", lossless=True, exact=True),
        "gif": zoo.encode(palette, "GIF", transparency=1),
        "tiff": zoo.encode(rgba, "TIFF"),
        "avif": zoo.encode(rgba, "AVIF", quality=95, subsampling="4:4:4", speed=9),
    }


@pytest.mark.parametrize("name", transparent())
def test_transparent_parts_are_white_whatever_colour_hides_there(name: str) -> None:
    data = transparent()[name]
    for side in (0, 8):
        image = decode(data, max_pixels=MAX, side=side).image
        half = image.shape[1] // 2
        assert np.abs(image[:, :half].astype(int) - (0, 200, 0)).max() <= 12, "green stays"
        assert image[:, half:].min() >= 250, "red shines through"


def test_hidden_colours_do_not_bleed_when_shrinking() -> None:
    rgba = np.zeros((60, 60, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:, ::3] = (0, 0, 0, 255)
    image = decode(zoo.encode(rgba, "PNG"), max_pixels=MAX, side=20).image
    assert image.shape == (20, 20, 3)
    assert np.ptp(image, axis=-1).max() == 0, "a third black, two thirds white is grey"


def test_grey_with_transparency_of_8_and_16_bits_is_flattened() -> None:
    la = Image.merge("LA", [Image.new("L", (8, 8), 10), Image.new("L", (8, 8), 0)])
    assert decode(zoo.encode(la, "PNG"), max_pixels=MAX).image.min() == 255
    grey = Image.new("L", (8, 8), 77)
    assert decode(zoo.encode(grey, "PNG", transparency=77), max_pixels=MAX).image.min() == 255
    rows = (b"\0" + struct.pack(">2H", 1000, 40000)) * 4
    trns = zoo.png_chunk(b"tRNS", struct.pack(">H", 1000))
    image = decode(zoo.png(2, 4, 16, 0, rows, before=trns), max_pixels=MAX).image
    assert image[:, 0].tolist() == [[255] * 3] * 4
    assert image[:, 1].tolist() == [[40000 >> 8] * 3] * 4


@pytest.mark.parametrize("name", ["png 16", "tiff <16", "tiff >16", "tiff 12", "tiff i32", "float"])
def test_deep_grey_is_scaled_not_clipped(name: str) -> None:
    grey = np.asarray(Image.fromarray(zoo.scene()).convert("L"))
    deep = grey.astype(np.uint16) * 256 + 128
    match name:
        case "png 16":
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
            data = zoo.png(240, 160, 16, 0, rows)
        case "tiff <16":
            data = zoo.plain_tiff(deep, "<", 16)
        case "tiff >16":
            data = zoo.plain_tiff(deep.astype(">u2"), ">", 16)
        case "tiff 12":
            nibbles = np.unpackbits((deep >> 4).astype(">u2").view(np.uint8)).reshape(-1, 16)
            data = zoo.plain_tiff(np.packbits(nibbles[:, 4:]).reshape(160, 360), "<", 12)
            # Columns were counted in bytes; a sample has one and a half.
            data = data.replace(
                struct.pack("<HHII", 256, 4, 1, 360), struct.pack("<HHII", 256, 4, 1, 240)
            )
        case "tiff i32":
            data = zoo.plain_tiff(deep.astype("<i4"), "<", 32, 2)
        case _:
            data = zoo.plain_tiff((grey / 255).astype("<f4"), "<", 32, 3)
    for side in (0, 40):
        image = decode(data, max_pixels=MAX, side=side).image
        twin = np.asarray(Image.fromarray(grey).convert("RGB").reduce(4 if side else 1))
        assert far(image, twin) <= 1


def test_values_without_a_natural_range_use_their_own() -> None:
    ramp = np.linspace(-5.0, 300.0, 64 * 64).reshape(64, 64).astype("<f4")
    ramp[0, 0] = np.nan
    ramp[0, 1] = np.inf
    image = decode(zoo.plain_tiff(ramp, "<", 32, 3), max_pixels=MAX).image
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[0, 1].tolist() == [255, 255, 255]
    assert image[0, 2, 0] <= 1
    assert image[-1, -1, 0] == 255
    flat = np.full((8, 8), 7.5, "<f4")
    assert decode(zoo.plain_tiff(flat, "<", 32, 3), max_pixels=MAX).image.shape == (8, 8, 3)


def test_one_bit_pictures_are_black_and_white() -> None:
    board = (np.indices((64, 64)).sum(0) % 2).astype(bool)
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "group4"})):
        image = decode(zoo.encode(Image.fromarray(board), kind, **options), max_pixels=MAX).image
        assert (image[..., 0] == board * 255).all(), kind


def test_interlaced_png_and_top_down_bmp_are_read() -> None:
    row = b"\0" + bytes([10, 20, 30])
    assert decode(zoo.png(1, 1, 8, 2, row, interlaced=1), max_pixels=MAX).image.tolist() == [
        [[10, 20, 30]]
    ]
    body = bytes([1, 2, 3, 0, 4, 5, 6, 0])
    assert decode(zoo.bmp(1, -2, body=body), max_pixels=MAX).image.tolist() == [
        [[3, 2, 1]],
        [[6, 5, 4]],
    ]


@pytest.mark.parametrize("size", [(1, 1), (60_000, 1), (1, 60_000), (3, 2), (20_000, 40)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF"])
def test_extreme_shapes_decode(kind: str, size: tuple[int, int]) -> None:
    data = zoo.encode(Image.new("RGB", size, (200, 100, 50)), kind)
    for side in (0, 448, 16):
        got = decode(data, max_pixels=MAX, side=side)
        assert (got.width, got.height) == size
        assert np.abs(got.image.astype(int) - (200, 100, 50)).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("size", [(1000, 700), (701, 1999), (448, 3000)])
def test_the_shorter_side_keeps_at_least_the_asked_pixels(kind: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(zoo.scene(*size))
    data = zoo.encode(picture.quantize(64) if kind == "GIF" else picture, kind)
    for side in (1, 100, 128, 224, 448, 5000):
        got = decode(data, max_pixels=MAX, side=side)
        height, width, _ = got.image.shape
        assert (got.width, got.height) == size
        assert min(height, width) >= min(side, *size)
        if side < min(size) // 2:
            assert min(height, width) < 2 * side + 2
        assert abs(width / height - size[0] / size[1]) / (size[0] / size[1]) < 0.03 or side == 1


def test_work_in_bands_equals_work_at_once() -> None:
    rgba = np.dstack([zoo.scene(2100, 1500), np.indices((1500, 2100)).sum(0) % 256]).astype(
        np.uint8
    )
    picture = Image.fromarray(rgba)
    white = Image.new("RGBA", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    data = zoo.encode(picture, "PNG", compress_level=1)
    flat = white.convert("RGB")
    assert (decode(data, max_pixels=MAX).image == np.asarray(flat)).all()
    # 1500 // 200 = 7 divides neither side.
    assert (decode(data, max_pixels=MAX, side=200).image == np.asarray(flat.reduce(7))).all()


def test_the_limit_counts_the_last_pixel() -> None:
    data = zoo.encode(Image.new("RGB", (100, 50)), "PNG")
    assert decode(data, max_pixels=5000).width == 100
    with pytest.raises(Exception, match="5000 pixels; 4999 is the most"):
        decode(data, max_pixels=4999)


def test_metadata_costs_nothing_and_changes_nothing() -> None:
    plain, _ = ORDINARY["jpeg"]
    want = decode(plain, max_pixels=MAX).image
    stuffed = plain
    for marker in (0xE1, 0xE2, 0xED, 0xFE):
        for start in (
            b"Exif\0\0",
            b"ICC_PROFILE\0\1\2",
            b"Photoshop 3.0\0" + b"8BIM" * 9,
            b"MPF\0",
        ):
            stuffed = zoo.jpeg_insert(stuffed, zoo.segment(marker, start + b"\xff" * 60_000))
    assert (decode(stuffed, max_pixels=MAX).image == want).all()
    png, _ = ORDINARY["png"]
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    for chunk in (
        zoo.png_chunk(b"zTXt", b"a\0\0" + bomb),
        zoo.png_chunk(b"iCCP", b"a\0\0" + bomb),
        zoo.png_chunk(b"acTL", bytes(8)),
        zoo.png_chunk(b"pHYs", b"1"),
    ):
        data = png[:33] + chunk + png[33:]
        assert far(decode(data, max_pixels=MAX).image, zoo.scene()) == 0


def test_only_the_first_frame_of_thousands_is_read() -> None:
    got = decode(zoo.gif(1000, 1000, frames=3000), max_pixels=MAX)
    assert (got.width, got.height) == (1000, 1000)


def test_what_lies_behind_a_picture_is_ignored() -> None:
    for name in ("jpeg", "png", "gif", "bmp"):
        data, most = ORDINARY[name]
        image = decode(data + b"PK\x03\x04<script>\xff\xda" * 200, max_pixels=MAX).image
        assert far(image, zoo.scene()) <= most


def test_a_frame_outside_the_gif_screen_is_shown() -> None:
    data = bytearray(zoo.gif(1, 1))
    at = data.index(b",")
    data[at + 1 : at + 5] = struct.pack("<HH", 20, 10)
    got = decode(bytes(data), max_pixels=MAX)
    assert (got.width, got.height) == (21, 11)


def test_eight_threads_agree_with_one() -> None:
    files = [data for data, _ in ORDINARY.values()]
    alone = [decode(data, max_pixels=MAX, side=50).image for data in files]

    def work(start: int) -> list[tuple[int, Decoded]]:
        order = [(start + i) % len(files) for i in range(len(files))]
        return [(i, decode(files[i], max_pixels=MAX, side=50)) for i in order]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(0, 24, 3)):
            for i, got in results:
                assert (got.image == alone[i]).all()


def test_pictures_that_wait_for_their_turn_all_come_out() -> None:
    # 18 bytes a pixel and 8 million pixels: taken one at a time.
    data = zoo.encode(Image.new("RGB", (4000, 2000), (9, 99, 199)), "WEBP", lossless=True, method=0)
    with ThreadPoolExecutor(3) as pool:
        shapes = pool.map(lambda _: decode(data, max_pixels=10**8, side=500).image.shape, range(3))
        assert list(shapes) == [(500, 1000, 3)] * 3


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((640, 480), (256, 192)),
        ((100, 50), (100, 50)),
        ((256, 256), (256, 256)),
        ((9000, 2), (256, 1)),
    ],
)
def test_thumbnails_are_small_and_never_enlarged(
    size: tuple[int, int], want: tuple[int, int]
) -> None:
    data = thumbnail(zoo.scene(*size))
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        assert picture.size == want
        assert picture.mode == "RGB"
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert len(data) < 30_000


def test_a_thumbnail_shows_the_picture() -> None:
    got = decode(thumbnail(zoo.scene(512, 384)), max_pixels=MAX).image
    assert far(got, np.asarray(Image.fromarray(zoo.scene(512, 384)).resize((256, 192)))) < 3


def test_the_decoder_has_a_version() -> None:
    assert DECODER == "decode/1"
