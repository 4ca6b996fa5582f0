"""Margins are no part of a picture, the form knows no mirror, and the file is what it should be."""

from __future__ import annotations

import sys
from importlib.resources import files

import numpy as np
import pytest

from lookalike.backends.embed._builtin import BuiltinEmbedder
from lookalike.backends.embed._descriptors import BINS, CELLS, Company, EdgeLayout
from lookalike.backends.embed._form import SIDE, Form
from lookalike.backends.embed._frame import without_margins
from lookalike.backends.embed._resize import squeeze
from lookalike.backends.embed.drawn import dead_leaves
from lookalike.backends.testing.embed import cosines
from lookalike.backends.types import RgbImage

SEED = 20261122


@pytest.fixture(scope="module")
def pictures() -> list[RgbImage]:
    sys.stdout.write(f"seed {SEED}\n")
    rng = np.random.default_rng(SEED)
    return [dead_leaves(rng, 120, 160) for _ in range(12)]


@pytest.fixture(scope="module")
def embedder() -> BuiltinEmbedder:
    return BuiltinEmbedder()


def _bordered(picture: RgbImage, colour: tuple[int, int, int]) -> RgbImage:
    page = np.empty((170, 220, 3), np.uint8)
    page[:] = colour
    page[20 : 20 + len(picture), 50 : 50 + picture.shape[1]] = picture
    return page


def test_margins_of_one_colour_are_taken_off(pictures: list[RgbImage]) -> None:
    for picture in pictures:
        inside = without_margins(_bordered(picture, (250, 249, 251)))
        assert abs(inside.shape[0] - 120) <= 8
        assert abs(inside.shape[1] - 160) <= 8


def test_noise_as_of_jpeg_is_margin_and_texture_is_not(pictures: list[RgbImage]) -> None:
    rng = np.random.default_rng(SEED)
    page = _bordered(pictures[0], (128, 128, 128)).astype(np.int16)
    faint = (page + rng.integers(-3, 4, page.shape)).clip(0, 255).astype(np.uint8)
    assert without_margins(faint).shape[0] <= 128
    strong = (page + rng.integers(-30, 31, page.shape)).clip(0, 255).astype(np.uint8)
    assert without_margins(strong).shape == strong.shape


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (3, 3), (90, 90), (1, 400)])
def test_a_third_of_a_flat_picture_stays(shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), 77, np.uint8)
    height, width = without_margins(flat).shape[:2]
    assert height * 3 >= shape[0]
    assert width * 3 >= shape[1]
    assert min(height, width) >= 1


def test_a_border_hardly_moves_a_picture(
    embedder: BuiltinEmbedder, pictures: list[RgbImage]
) -> None:
    plain = embedder.embed_images(pictures)
    bordered = embedder.embed_images([_bordered(p, (255, 255, 255)) for p in pictures])
    assert np.median(cosines(plain, bordered)) > 0.95


def test_a_mirror_does_not_change_the_form(pictures: list[RgbImage]) -> None:
    form = Form()
    for picture in pictures:
        mirrored = np.ascontiguousarray(picture[:, ::-1])
        here, there = form(squeeze(picture, SIDE)), form(squeeze(mirrored, SIDE))
        assert here.shape == (Form.dim,)
        assert cosines(here[None], there[None])[0] > 0.9999


@pytest.mark.parametrize("whole", [True, False])
def test_the_mirror_image_is_as_it_would_be_described(whole: bool) -> None:
    rng = np.random.default_rng(SEED)
    fine, coarse = rng.random((2, BINS, CELLS, CELLS), np.float32)
    lab = rng.random((3, CELLS, CELLS), np.float32) - np.float32(0.5)
    turned = [(BINS // 2 - bin_) % BINS for bin_ in range(BINS)]
    there = [fine[turned, :, ::-1], coarse[turned, :, ::-1], lab[:, :, ::-1]]
    if whole:
        own, mirrored = Company()(fine, coarse, lab), Company()(*there)
        places, signs = Company().mirror()
    else:
        own, mirrored = EdgeLayout()(fine), EdgeLayout()(there[0])
        places, signs = EdgeLayout().mirror()
    assert not np.allclose(own, mirrored, atol=1e-2)
    np.testing.assert_allclose(signs * own[places], mirrored, atol=1e-4)


def _margin_by_its_definition(picture: RgbImage) -> int:
    colour = np.median(picture[0], axis=0)
    most = len(picture) // 3
    for i in range(most):
        if np.abs(picture[i] - colour).mean() > 4.0:
            return i
    return most


def test_margins_end_where_their_definition_says() -> None:
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        height, width = rng.integers(1, 90, 2)
        noise = rng.integers(0, rng.choice([2, 9, 17, 19, 256]), (height, width, 3))
        picture = (noise + np.uint8(rng.integers(0, 200))).clip(0, 255).astype(np.uint8)
        picture[rng.integers(0, height) :] = rng.integers(0, 256, 3)
        top = _margin_by_its_definition(picture)
        bottom = _margin_by_its_definition(picture[::-1])
        assert len(without_margins(picture)) == height - top - bottom


def test_the_file_is_small_and_the_vectors_are_as_long_as_promised(
    embedder: BuiltinEmbedder,
) -> None:
    size = len(files("lookalike.backends.embed").joinpath("builtin.onnx").read_bytes())
    assert size < 6_000_000
    assert embedder.dim == 384
