"""Brings a picture of any size and shape to one small square, cheaply."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import RgbImage

_TAPS = 4
"""Rows under one triangle: its support is twice the scale, which is below 2 here."""


def squeeze(image: RgbImage, side: int) -> NDArray[np.float32]:
    """Resize to a square without keeping the aspect ratio.

    Returns (3, side, side) float32 in 0..255, colour planes first. Whole blocks of
    pixels are averaged while two or more of them fall on one output pixel; the
    rest is a triangle filter as wide as the scale, so nothing aliases. Any thread.
    """
    height, width = image.shape[:2]
    rows = _resample(image.reshape(height, -1), side).reshape(side, width, 3)
    # Gathering and adding whole rows is several times as fast as single pixels,
    # so x is brought to the front and gets the same treatment.
    turned = np.ascontiguousarray(rows.transpose(1, 2, 0)).reshape(width, -1)
    square = _resample(turned, side).reshape(side, 3, side)
    return np.ascontiguousarray(square.transpose(1, 2, 0))


def _resample(rows: NDArray[np.float32] | NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Resample axis 0 of (n, m) to `side` rows; up to 1/128 of the edge is cut evenly."""
    block = max(1, len(rows) // side)
    if block == 1:
        return _triangle(rows, side)
    count = len(rows) // block
    start = (len(rows) - count * block) // 2
    blocks = rows[start : start + count * block].reshape(count, block, -1)
    means = np.add.reduce(blocks, axis=1, dtype=np.float32)
    means *= np.float32(1 / block)
    return _triangle(means, side)


def _triangle(rows: NDArray[np.float32] | NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """Resample axis 0 of (n, m), n < 2 * `side`, to `side` rows."""
    count = len(rows)
    scale = count / side
    reach = max(scale, 1.0)
    centres = (np.arange(side) + 0.5) * scale - 0.5
    taps = np.ceil(centres - reach).astype(np.int64)[:, None] + np.arange(_TAPS)
    weights = np.maximum(1 - np.abs(taps - centres[:, None]) / reach, 0)
    weights[(taps < 0) | (taps >= count)] = 0
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    np.clip(taps, 0, count - 1, out=taps)
    out = weights[:, :1] * rows[taps[:, 0]]
    for tap in range(1, _TAPS):
        out += weights[:, tap, None] * rows[taps[:, tap]]
    return np.asarray(out, dtype=np.float32)
