"""Brings a picture of any size and shape to one small square, cheaply."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import RgbImage

Rows: TypeAlias = NDArray[Any]
"""(n, m) float32, or uint8 as long as nothing has been averaged."""
Tap: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32]]
"""For each output row the number of an input row, and (side, 1) its weight."""

_TAPS: Final = 4
"""Rows under one triangle: its support is twice the scale, which is below 2 here."""
_MOST: Final = 257
"""Pixels whose sum 16 bits hold."""


def squeeze(image: RgbImage, side: int) -> NDArray[np.float32]:
    """Resize to a square without keeping the aspect ratio.

    Returns (3, side, side) float32 in 0..255, colour planes first. Whole blocks of
    pixels are averaged while two or more of them fall on one output pixel; the
    rest is a triangle filter as wide as the scale, so nothing aliases. Any thread.
    """
    height, width = image.shape[:2]
    # Whole rows are added several times as fast as single pixels, so each axis is
    # brought to the front for its turn, and blocks are averaged before the filter.
    # Turned as sums, not as averages: these are twice as long.
    low, pixels = _blocks(image.reshape(height, -1), side)
    turned = np.ascontiguousarray(low.T).reshape(width, -1)
    columns = _averages(*_blocks(_averages(turned, pixels), side))
    narrow = _triangle(columns, width, side).reshape(side, 3, -1)
    back = np.ascontiguousarray(narrow.transpose(2, 1, 0)).reshape(len(low), -1)
    square = _triangle(back, height, side).reshape(side, 3, side)
    return np.ascontiguousarray(square.transpose(1, 0, 2))


def _blocks(rows: Rows, side: int) -> tuple[Rows, int]:
    """Add runs of n // side rows of (n, m), 2 or more; a rest is left at both ends.

    Returns the sums, and of how many rows they are: 1 if these are the rows.
    """
    block = len(rows) // side
    if block < 2:
        return rows, 1
    count = len(rows) // block
    start = (len(rows) - count * block) // 2
    runs = rows[start : start + count * block].reshape(count, block, -1)
    is_short = rows.dtype == np.uint8 and block <= _MOST
    return np.add.reduce(runs, axis=1, dtype=np.uint16 if is_short else np.float32), block


def _averages(sums: Rows, count: int) -> Rows:
    """Return the averages of sums of so many rows."""
    return sums if count == 1 else sums * np.float32(1 / count)


def _triangle(rows: Rows, count: int, side: int) -> NDArray[np.float32]:
    """Resample (n, m) that `_blocks` made of `count` rows to (side, m)."""
    rows = rows.astype(np.float32, copy=False)
    (places, weights), *others = _taps(count, len(rows), side)
    out = rows.take(places, axis=0)
    out *= weights
    more = np.empty_like(out)
    for places, weights in others:
        rows.take(places, axis=0, out=more, mode="clip")  # in the usual mode it makes a copy
        more *= weights
        out += more
    return out


@lru_cache(maxsize=256)
def _taps(count: int, blocks: int, side: int) -> tuple[Tap, ...]:
    """Return which of so many blocks of `count` rows make up each of `side` rows."""
    block = max(1, count // side)
    # The rest that was left out moves nothing: the mirror image of a picture must
    # become the mirror image of its square.
    start = (count - blocks * block) // 2
    scale = count / (side * block)
    centres = (np.arange(side) + 0.5) * scale - start / block - 0.5
    reach = max(scale, 1.0)
    taps = np.ceil(centres - reach).astype(np.int64)[:, None] + np.arange(_TAPS)
    weights = np.maximum(1 - np.abs(taps - centres[:, None]) / reach, 0)
    weights[(taps < 0) | (taps >= blocks)] = 0
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    np.clip(taps, 0, blocks - 1, out=taps)
    return tuple(
        (taps[:, i].copy(), weights[:, i, None].copy())
        for i in range(_TAPS)
        if i == 0 or weights[:, i].any()
    )
