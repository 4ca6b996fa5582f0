"""The labelled development files: good, odd, malformed and hostile ones."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.backends.errors import InvalidArgument
from lookalike.server.images import Allowance, Decode, Decoded, Workers, decode
from lookalike.server.limits import Limits
from shared_data import shared

pytestmark = pytest.mark.shared
MAX = Limits().max_image_pixels


def files(folder: str) -> list[tuple[Path, dict[str, Any]]]:
    base = shared(f"data/{folder}")
    listed = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    return [(base / name, entry) for name, entry in listed.get("files", listed).items()]


@pytest.fixture(scope="module", params=["here", "in a process"])
def call(request: pytest.FixtureRequest) -> Iterator[Decode]:
    """Both ways of decoding."""
    if request.param == "here":
        yield decode
        return
    workers = Workers(1, Allowance())
    yield workers.decode
    workers.close()


def answer(call: Decode, path: Path, side: int) -> Decoded | InvalidArgument:
    try:
        return call(path.read_bytes(), max_pixels=MAX, side=side)
    except InvalidArgument as error:
        return error


@pytest.mark.parametrize("side", [0, 448])
@pytest.mark.parametrize("folder", ["bad", "formats"])
def test_every_labelled_file_gets_the_labelled_answer(call: Decode, folder: str, side: int) -> None:
    wrong = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path, entry in files(folder):
            began = time.process_time()
            got = answer(call, path, side)
            took = time.process_time() - began
            outcome = "ok" if isinstance(got, Decoded) else "reject"
            if entry["expect"] not in (outcome, "either") or took > 2:
                wrong.append((path.name, entry["expect"], outcome, f"{took:.1f} s"))
    assert not wrong


def test_larger_formats_have_the_labelled_upright_size(call: Decode) -> None:
    for path, entry in files("formats"):
        got = call(path.read_bytes(), max_pixels=MAX, side=448)
        assert [got.width, got.height] == entry["upright_size"], path.name
        assert got.media_type == "image/" + entry["format"].lower()


def test_one_picture_under_four_orientations_gives_nearly_the_same_pixels() -> None:
    base = shared("data/formats")
    pictures = [
        decode(
            (base / f"exif_orientation_{i}_landscape.jpg").read_bytes(), max_pixels=MAX, side=448
        )
        for i in (1, 5, 6, 8)
    ]
    first = pictures[0].image.astype(int)
    for other in pictures[1:]:
        assert other.image.shape == pictures[0].image.shape
        assert np.abs(first - other.image).mean() < 4


def test_the_same_photograph_looks_the_same_in_every_format() -> None:
    base = shared("data/formats")
    small = {}
    for name in ("lossy.webp", "cmyk.jpg", "palette.gif"):
        image = decode((base / name).read_bytes(), max_pixels=MAX, side=60).image
        cells = image[: image.shape[0] // 8 * 8, : image.shape[1] // 8 * 8].astype(float)
        small[name] = cells.reshape(8, cells.shape[0] // 8, 8, -1, 3).mean((1, 3))
    for name, cells in small.items():
        assert np.abs(cells - small["lossy.webp"]).mean() < 6, name
