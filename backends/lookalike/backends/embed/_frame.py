"""Takes plain margins off a picture: borders of screenshots, letterboxes, white ground."""

from __future__ import annotations

import numpy as np

from lookalike.backends.types import RgbImage

_EVEN = 4.0
"""Mean distance to the margin's colour, of 255, up to which a line is margin. Measured: a third
of 3,270 held-out photographs lose some, and kinds are found a little better for it."""
_MOST = 1 / 3
"""Of each side at most so much is taken off, so that nothing can vanish."""
_ROWS = 8
"""Looked at together: most pictures have no margin, and one that has has many rows of it."""


def without_margins(image: RgbImage) -> RgbImage:
    """Return the part of a picture (a view) inside of margins of one colour. Any thread.

    Each of the four margins may have a colour of its own.
    """
    rows = slice(_margin(image), len(image) - _margin(image[::-1]))
    turned = image[rows].transpose(1, 0, 2)
    columns = slice(_margin(turned), len(turned) - _margin(turned[::-1]))
    return image[rows, columns]


def _margin(image: RgbImage) -> int:
    """Return how many of the first rows are of the first row's colour."""
    most = int(len(image) * _MOST)
    if not most:
        return 0
    first = np.sort(image[0], axis=0)
    count = len(first)
    upper, lower = first[count - count // 2 :], first[: count // 2]
    if int(upper.sum()) - int(lower.sum()) > _EVEN * first.size:  # distances to the median
        return 0
    middle = first[(count - 1) // 2].astype(np.int16) + first[count // 2]
    twice = np.tile(middle, count)
    for start in range(0, most, _ROWS):
        rows = image[start : min(start + _ROWS, most)].astype(np.int16, order="C")
        away = np.abs(2 * rows.reshape(-1, 3 * count) - twice).sum(axis=1, dtype=np.int32)
        differ = away > 2 * _EVEN * 3 * count
        if differ.any():
            return start + int(differ.argmax())
    return most
