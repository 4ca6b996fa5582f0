"""What the built-in embedder sees in made pictures, and what it does not mind."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from lookalike.backends.embed._builtin import BuiltinEmbedder
from lookalike.backends.embed._colour import ColourHistogram, oklab
from lookalike.backends.embed._descriptors import Company, EdgeLayout, EdgeMap
from lookalike.backends.embed._resize import squeeze
from lookalike.backends.embed.drawn import dead_leaves
from lookalike.backends.types import RgbImage, Vectors
from shared_data import shared

SEED = 20240607
Change = Callable[[Image.Image], Image.Image]


def _jpeg(picture: Image.Image) -> Image.Image:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=10)
    return Image.open(out).convert("RGB")


def _crop(picture: Image.Image) -> Image.Image:
    wide, high = picture.width // 10, picture.height // 10
    return picture.crop((wide, high, picture.width - wide, picture.height - high))


def _text(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    font = ImageFont.load_default(size=copy.height // 7)
    middle = (copy.width // 2, copy.height // 2)
    ImageDraw.Draw(copy).text(middle, "SAMPLE TEXT", "white", font, anchor="mm", stroke_width=1)
    return copy


CHANGES: dict[str, Change] = {
    "jpeg": _jpeg,
    "quarter": lambda p: p.resize((p.width // 4, p.height // 4), Image.Resampling.LANCZOS),
    "crop": _crop,
    "blur": lambda p: p.filter(ImageFilter.GaussianBlur(max(p.size) / 150)),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.5),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.5),
    "rotated": lambda p: p.rotate(5, Image.Resampling.BICUBIC),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "text": _text,
}


@pytest.fixture(scope="module")
def embedder() -> BuiltinEmbedder:
    return BuiltinEmbedder()


@pytest.fixture(scope="module")
def pictures() -> list[RgbImage]:
    sys.stdout.write(f"seed {SEED}\n")
    rng = np.random.default_rng(SEED)
    return [dead_leaves(rng, 120, 160) for _ in range(60)]


def _found(embedder: BuiltinEmbedder, pictures: list[RgbImage], change: Change) -> float:
    originals = embedder.embed_images(pictures)
    changed = [np.asarray(change(Image.fromarray(picture))) for picture in pictures]
    nearest = (embedder.embed_images(changed) @ originals.T).argmax(axis=1)
    return float(np.mean(nearest == np.arange(len(pictures))))


@pytest.mark.parametrize("name", CHANGES)
def test_nine_of_ten_copies_find_their_original_first(
    embedder: BuiltinEmbedder, pictures: list[RgbImage], name: str
) -> None:
    assert _found(embedder, pictures, CHANGES[name]) >= 0.9


@pytest.mark.shared
def test_copies_of_photographs_find_their_original_first(embedder: BuiltinEmbedder) -> None:
    paths = sorted(shared("data/photos").glob("*/*.jpg"))
    seed = int(np.random.default_rng().integers(1 << 32))
    sys.stdout.write(f"seed {seed}\n")
    chosen = np.random.default_rng(seed).choice(len(paths), 20, replace=False)
    photographs = [_photograph(paths[row]) for row in chosen]
    found = [_found(embedder, photographs, change) for change in CHANGES.values()]
    assert np.mean(found) >= 0.9


def _photograph(path: Path) -> RgbImage:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _cosine(embedder: BuiltinEmbedder, left: RgbImage, right: RgbImage) -> float:
    a, b = embedder.embed_images([left, right])
    return float(a @ b)


def test_vectors_have_length_one(embedder: BuiltinEmbedder, pictures: list[RgbImage]) -> None:
    lengths = np.linalg.norm(embedder.embed_images(pictures), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


@pytest.mark.parametrize("turn", [np.flipud, np.rot90], ids=["up-down", "quarter"])
def test_turned_pictures_are_not_the_same(
    embedder: BuiltinEmbedder,
    pictures: list[RgbImage],
    turn: Callable[[RgbImage], RgbImage],
) -> None:
    for picture in pictures[:10]:
        turned = np.ascontiguousarray(turn(picture))
        assert _cosine(embedder, picture, turned) < 0.95


def test_other_colours_of_the_same_form_are_told_apart_but_near(
    embedder: BuiltinEmbedder, pictures: list[RgbImage]
) -> None:
    for picture, other in zip(pictures[:10], pictures[10:20], strict=True):
        swapped = np.ascontiguousarray(picture[:, :, [1, 2, 0]])
        same_form = _cosine(embedder, picture, swapped)
        assert _cosine(embedder, picture, other) < same_form < 0.98


def test_size_alone_changes_little(embedder: BuiltinEmbedder, pictures: list[RgbImage]) -> None:
    for picture in pictures[:5]:
        large = np.asarray(Image.fromarray(picture).resize((800, 600), Image.Resampling.BICUBIC))
        assert _cosine(embedder, picture, large) > 0.97


def test_the_space_names_the_method_and_its_constants(
    embedder: BuiltinEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert embedder.space.startswith("builtin/2-")
    monkeypatch.setattr(Company, "floor", 0.02)
    assert BuiltinEmbedder().space != embedder.space


def test_flat_pictures_of_two_colours_are_told_apart(embedder: BuiltinEmbedder) -> None:
    red = np.full((50, 70, 3), (200, 30, 30), np.uint8)
    blue = np.full((50, 70, 3), (30, 30, 200), np.uint8)
    assert _cosine(embedder, red, red[:20]) > 0.9999
    assert _cosine(embedder, red, blue) < 0.9


# --- resizing ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (60_000, 1), (3, 2000), (200, 300), (128, 128)])
def test_resizing_keeps_a_flat_colour(shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), (10, 100, 250), np.uint8)
    square = squeeze(flat, 128)
    assert square.shape == (3, 128, 128)
    assert square.dtype == np.float32
    np.testing.assert_allclose(
        square, np.array([10, 100, 250]).reshape(3, 1, 1) + 0 * square, atol=1e-3
    )


def test_resizing_to_the_same_size_changes_nothing(pictures: list[RgbImage]) -> None:
    picture = np.ascontiguousarray(pictures[0][:64, :64])
    np.testing.assert_allclose(squeeze(picture, 64), picture.transpose(2, 0, 1), atol=1e-3)


@pytest.mark.parametrize("factor", [1.5, 2, 3.7, 9])
def test_resizing_agrees_with_pillow(factor: float) -> None:
    y, x = np.mgrid[0:1:300j, 0:1:400j]
    smooth = np.stack([np.sin(9 * x + y), np.cos(7 * y), np.sin(5 * x * y)], -1) * 100 + 128
    side = round(300 / factor)
    expected = Image.fromarray(smooth.astype(np.uint8)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    error = squeeze(smooth.astype(np.uint8), side).transpose(1, 2, 0) - np.asarray(
        expected, np.float32
    )
    assert np.abs(error).max() < 6  # up to 1/128 of an edge may be cut
    assert np.abs(error).mean() < 1.2


@pytest.mark.parametrize("shape", [(301, 403), (255, 127), (1000, 77)])
def test_resizing_commutes_with_mirroring_and_turning(shape: tuple[int, int]) -> None:
    picture = dead_leaves(np.random.default_rng(SEED), *shape)
    square, scale = squeeze(picture, 128), np.ptp(picture)
    for turn in (np.fliplr, np.flipud, np.rot90):
        turned = squeeze(np.ascontiguousarray(turn(picture)), 128)
        error = turned.transpose(1, 2, 0) - turn(square.transpose(1, 2, 0))
        assert np.abs(error).mean() < 0.01 * scale


@pytest.mark.parametrize("width", [512, 250])
def test_fine_stripes_do_not_alias(width: int) -> None:
    stripes = np.zeros((300, width, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(squeeze(stripes, 128)[:, :, 1:-1]) < 10


# --- colour ------------------------------------------------------------------------------


def test_oklab_agrees_with_published_values() -> None:
    # Ottosson's reference for sRGB white, red, green and blue.
    srgb = np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float32).T
    expected = [
        [1.0, 0.0, 0.0],
        [0.62796, 0.22486, 0.12585],
        [0.86644, -0.23389, 0.17950],
        [0.45201, -0.03246, -0.31153],
    ]
    np.testing.assert_allclose(oklab(srgb).T, expected, atol=2e-4)


def _histogram(*colours: tuple[int, int, int]) -> Vectors:
    weight = np.full(len(colours), 1 / len(colours), np.float32)
    return ColourHistogram()(oklab(np.array(colours, np.float32).T), weight)


def test_a_grey_picture_has_no_hue() -> None:
    counts = _histogram((0, 0, 0), (90, 90, 90), (255, 255, 255))
    assert counts[:5].min() >= 0
    np.testing.assert_allclose(np.linalg.norm(counts[:5]), 1, atol=1e-3)


def test_an_almost_grey_hue_counts_for_little() -> None:
    reddish, bluish = _histogram((122, 118, 118)), _histogram((118, 118, 122))
    assert reddish @ bluish > 0.85
    assert _histogram((220, 30, 30)) @ _histogram((30, 30, 220)) < 0.1


def test_a_colour_on_the_border_of_two_bins_does_not_jump() -> None:
    shades = [_histogram((200, green, 40)) for green in range(0, 200, 2)]
    steps = [float(a @ b) for a, b in pairwise(shades)]
    assert min(steps) > 0.98


# --- form --------------------------------------------------------------------------------


def _ramp(angle: float) -> NDArray[np.float32]:
    y, x = np.mgrid[0:64, 0:64].astype(np.float32)
    return np.asarray(x * np.cos(angle) + y * np.sin(angle), np.float32)


@pytest.mark.parametrize("direction", range(8))
def test_an_edge_falls_into_the_bin_of_its_direction(direction: int) -> None:
    cells = EdgeMap(64, floor=0.25)(_ramp(direction * np.pi / 4))[:, 4:12, 4:12]
    energy = (cells**2).sum(axis=(1, 2))
    assert energy.argmax() == direction
    assert energy[direction] / energy.sum() > 0.85


def test_an_edge_map_is_the_same_for_more_contrast_and_light() -> None:
    grey = np.random.default_rng(SEED).uniform(0, 100, (64, 64)).astype(np.float32)
    maps = EdgeMap(64, floor=0.25)
    np.testing.assert_allclose(maps(grey), maps(grey * 2 + 30), rtol=0.02, atol=0.01)


def test_faint_noise_is_no_edge() -> None:
    noise = np.random.default_rng(SEED).uniform(-0.01, 0.01, (64, 64)).astype(np.float32)
    assert EdgeMap(64, floor=0.25)(noise + 128).max() < 0.4
    assert not EdgeMap(64, floor=0.25)(np.full((64, 64), 7, np.float32)).any()


def test_the_layout_tells_where_edges_are() -> None:
    grey = np.zeros((64, 64), np.float32)
    grey[10:20, 10:20] = 200
    shifted, moved = np.roll(grey, 2, axis=1), np.roll(grey, 35, axis=1)
    layout, maps = EdgeLayout(), EdgeMap(64, floor=0.25)
    here, near, far = (layout(maps(g)) for g in (grey, shifted, moved))
    assert here @ near > 0.9
    assert here @ far < 0.5


def test_company_tells_what_goes_with_what() -> None:
    # The same colours and the same edges at the same places, differently joined.
    def picture(above: tuple[int, int, int], below: tuple[int, int, int]) -> RgbImage:
        painted = np.empty((128, 128, 3), np.uint8)
        painted[:64], painted[64:] = above, below
        painted[:64, ::8] = painted[64::8] = 128
        return painted

    red, blue = (200, 60, 60), (60, 90, 220)
    joined, same, other = (
        _company(picture(*pair)) for pair in ((red, blue), (red, blue), (blue, red))
    )
    assert joined @ same > 0.9999
    assert joined @ other < 0.9


def _company(picture: RgbImage) -> Vectors:
    square = squeeze(picture, 128)
    grey = square.mean(axis=0)
    lab = oklab(square).reshape(3, 16, 8, 16, 8).mean(axis=(2, 4))
    small = grey.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    return Company()(EdgeMap(128, floor=0.25)(grey), EdgeMap(32, floor=0.25)(small), lab)
