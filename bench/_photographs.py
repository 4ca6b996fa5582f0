"""Made-up photographs: as large as files of a camera, as costly to decode, seeded."""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_COLOURS = 3
_EDGE = 14
"""Shapes with sharp edges in a picture."""
_GRAIN = 3.0
"""Standard deviation of the noise of the sensor, of 255."""


def make(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG: clouds of all scales, shapes before them, grain over all.

    About 65 KB at 640 x 480 and 650 KB at 2000 x 1500, as photographs have.
    """
    rng = np.random.default_rng((seed, width, height))
    pixels = np.full((height, width, _COLOURS), rng.uniform(80, 170, _COLOURS), np.float32)
    cells, swing = 2, 60.0
    while cells < width:
        pixels += swing * _clouds(rng, width, height, cells)
        cells, swing = cells * 2, swing * 0.62
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(_EDGE):
        middle, reach = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.02, 0.2, 2) * width
        colour = tuple(int(c) for c in rng.integers(0, 255, _COLOURS))
        box = (*(middle - reach / 2), *(middle + reach / 2))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, outline=colour, width=3)
    grain = rng.normal(0, _GRAIN, (height, width, 1)).astype(np.float32)
    finished = (np.asarray(picture, np.float32) + grain).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(finished).save(out, "JPEG", quality=int(rng.integers(85, 93)))
    return out.getvalue()


def numbered(jpeg: bytes, number: int) -> bytes:
    """Return a JPEG of the same pixels and another hash: a comment says the number."""
    comment = b"number %d" % number
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def _clouds(rng: np.random.Generator, width: int, height: int, cells: int) -> NDArray[np.float32]:
    """Return noise of a scale, (height, width, 3) in about -1..1."""
    rows = max(2, cells * height // width)
    small = rng.normal(0, 0.5, (rows, cells, _COLOURS))
    small = 0.3 * small + 0.7 * small.mean(axis=2, keepdims=True)
    planes = [
        Image.fromarray(small[:, :, i].astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for i in range(_COLOURS)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)
