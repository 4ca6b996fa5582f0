"""Brings a picture of any size and shape to one small square, cheaply."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import RgbImage

Rows: TypeAlias = NDArray[Any]
"""(n, m) float32, or uint8 as long as nothing has been averaged."""

_TAPS = 4
"""Rows under one triangle: its support is twice the scale, which is below 2 here."""


def squeeze(image: RgbImage, side: int) -> NDArray[np.float32]:
    """Resize to a square without keeping the aspect ratio.

    Returns (3, side, side) float32 in 0..255, colour planes first. Whole blocks of
    pixels are averaged while two or more of them fall on one output pixel; the
    rest is a triangle filter as wide as the scale, so nothing aliases. Any thread.
    """
    height, width = image.shape[:2]
    # Whole rows are added several times as fast as single pixels, so each axis is
    # brought to the front for its turn, and blocks are averaged before the filter.
    low = _blocks(image.reshape(height, -1), side)
    turned = np.ascontiguousarray(low.T).reshape(width, -1)
    narrow = _triangle(_blocks(turned, side), width, side).reshape(side, 3, -1)
    back = np.ascontiguousarray(narrow.transpose(2, 1, 0)).reshape(len(low), -1)
    square = _triangle(back, height, side).reshape(side, 3, side)
    return np.ascontiguousarray(square.transpose(1, 0, 2))


def _blocks(rows: Rows, side: int) -> Rows:
    """Average runs of n // side rows of (n, m), 2 or more; a rest is left at both ends."""
    block = len(rows) // side
    if block < 2:
        return rows
    count = len(rows) // block
    start = (len(rows) - count * block) // 2
    runs = rows[start : start + count * block].reshape(count, block, -1)
    means = np.add.reduce(runs, axis=1, dtype=np.float32)
    means *= np.float32(1 / block)
    return np.asarray(means, dtype=np.float32)


def _triangle(rows: Rows, count: int, side: int) -> NDArray[np.float32]:
    """Resample (n, m) that `_blocks` made of `count` rows to (side, m)."""
    block = max(1, count // side)
    # The rest that was left out moves nothing: the mirror image of a picture must
    # become the mirror image of its square.
    start = (count - len(rows) * block) // 2
    scale = count / (side * block)
    centres = (np.arange(side) + 0.5) * scale - start / block - 0.5
    reach = max(scale, 1.0)
    taps = np.ceil(centres - reach).astype(np.int64)[:, None] + np.arange(_TAPS)
    weights = np.maximum(1 - np.abs(taps - centres[:, None]) / reach, 0)
    weights[(taps < 0) | (taps >= len(rows))] = 0
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    np.clip(taps, 0, len(rows) - 1, out=taps)
    out = weights[:, :1] * rows[taps[:, 0]]
    for tap in range(1, _TAPS):
        if weights[:, tap].any():
            out += weights[:, tap, None] * rows[taps[:, tap]]
    return np.asarray(out, dtype=np.float32)
