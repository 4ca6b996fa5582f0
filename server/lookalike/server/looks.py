"""Pictures made ready to be laid over each other: small greys, their grids, their spectra."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import RgbImage

Grey: TypeAlias = NDArray[np.float32]
"""(h, w) float32."""
Box: TypeAlias = tuple[float, float, float, float]
"""Top, left, bottom, right in pixels of a `Look`."""
Shape: TypeAlias = tuple[int, int]
Spectra: TypeAlias = NDArray[np.complex64]
Taps: TypeAlias = tuple[NDArray[np.intp], Grey]
"""Of each new pixel of an axis, its sources and how much of each is in it: (count, taps)."""

SIDE = 160
"""Longer side of a look: what a thumbnail of 256 px still shows of a crop."""
PAD = 80
"""Side of the transforms: no overlap of three fifths meets its own other end."""
STEPS = 6
RATIO = 1.08
"""Scales lie this far apart, from RATIO ** -STEPS to its inverse: 0.63 to 1.59."""
_COARSE = 40
"""Longer side of the greys that are transformed, at scale 1."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CONTRAST = 50.0
"""Greys are scaled to this standard deviation, which undoes "darker" and "brighter"."""
_NEAR = 3
"""Pixels on each side that are the surroundings of one of a coarse grey."""
_SMALL = 200_000
"""Multiplications of one product; OpenBLAS takes more threads from 262 144 on."""
_FRAMES, _LEAST = 3, 24
"""Borders that may lie within each other, and pixels of a side that must be left."""
_FLAT = 6.0
"""Grey levels that mean nothing: less than JPEG at its worst adds to a smooth area."""


class Look:
    """A picture made ready to be compared; some milliseconds, 0.1 MB, and 0.4 MB
    more once `scaled` was asked for. Any thread.

    `grey` is (h, w) float32 of mean 0 and standard deviation 50, the longer side
    160 px. Even borders are cut off: two pictures do not agree because their frames do.
    """

    def __init__(self, image: RgbImage) -> None:
        stride = max(1, max(image.shape[:2]) // (4 * SIDE))
        red, green, blue = np.moveaxis(image[::stride, ::stride], 2, 0)
        levels = red * _LUMA[0]
        levels += green * _LUMA[1]
        levels += blue * _LUMA[2]
        grey = _unframed(levels)
        height, width = grey.shape
        scale = SIDE / max(height, width)
        shape = max(8, round(height * scale)), max(8, round(width * scale))
        levels = sample(grey, (0.0, 0.0, height, width), shape)
        self._flat = levels if np.ptp(levels) <= 2 * _FLAT else None
        deviation = max(float(levels.std()), 1.0)
        away = levels - levels.mean()
        self.grey: Grey = np.asarray(away * np.float32(_CONTRAST / deviation), np.float32)

    @property
    def box(self) -> Box:
        """The whole of it."""
        return 0.0, 0.0, float(self.grey.shape[0]), float(self.grey.shape[1])

    def is_flat(self) -> bool:
        """Say whether there is next to nothing in it to compare."""
        return self._flat is not None

    def equals(self, other: Look) -> bool:
        """Say whether both are flat, of one shape and of the same greys."""
        if self._flat is None or other._flat is None or self._flat.shape != other._flat.shape:
            return False
        return float(np.abs(self._flat - other._flat).max()) <= _FLAT

    @cached_property
    def scaled(self) -> tuple[Spectra, list[Shape]]:
        """Conjugate transforms at all scales, (2 * STEPS + 1, PAD, PAD // 2 + 1), and the
        shapes there."""
        spectra, shapes = self._spectra(tuple(RATIO**step for step in range(-STEPS, STEPS + 1)))
        return np.conj(spectra, out=spectra), shapes

    @cached_property
    def plain(self) -> tuple[Spectra, Shape]:
        """Transform at scale 1, (1, PAD, PAD // 2 + 1), and the shape there."""
        spectra, shapes = self._spectra((1.0,))
        return spectra, shapes[0]

    @cached_property
    def _half(self) -> Grey:
        height, width = (max(4, n // 2) for n in self.grey.shape)
        return sample(self.grey, self.box, (height, width))

    def _spectra(self, scales: tuple[float, ...]) -> tuple[Spectra, list[Shape]]:
        """Transform it small, each pixel measured by its surroundings.

        For greys as small as these, products are faster than `sample` and `blur`.
        """
        sides = [[_coarse_side(n, scale) for scale in scales] for n in self.grey.shape]
        shapes = list(zip(*sides, strict=True))
        canvas = np.zeros((len(scales), max(sides[0]), PAD), np.float32)
        half, (length, breadth) = self._half, self._half.shape
        for target, (height, width) in zip(canvas, shapes, strict=True):
            rows, columns = _whole(length, height), _whole(breadth, width)
            small = _times(_times(rows, half), columns.T)
            rows, columns = _band(height), _band(width)
            small -= _times(_times(rows, small), columns.T)
            deviation = _times(_times(rows, small * small), columns.T)
            deviation += 25
            np.divide(small, np.sqrt(deviation, out=deviation), out=target[:height, :width])
        # Without a `norm`, numpy 2.4 casts to double and back, which takes 8 times as long.
        spectra = np.fft.rfft2(canvas, s=(PAD, PAD), norm="ortho")
        return spectra.astype(np.complex64, copy=False), shapes


def _coarse_side(pixels: int, scale: float) -> int:
    return max(4, min(PAD, round(pixels * (_COARSE * scale / SIDE))))


def _unframed(grey: Grey) -> Grey:
    """Cut even borders off, also one within another; the whole if little would be left."""
    inner = grey
    for _ in range(_FRAMES):
        rows, columns = (_uneven(lines) for lines in (inner, inner.T))
        cut = inner[rows, columns]
        if cut.shape == inner.shape or min(cut.shape) < _LEAST:
            break
        inner = cut
    return inner if inner.size * 16 >= grey.size else grey


def _uneven(lines: Grey) -> slice:
    """Return from the first to the last line with more than noise in it."""
    found = np.flatnonzero(np.ptp(lines, axis=1) > 2 * _FLAT)
    return slice(found[0], found[-1] + 1) if len(found) else slice(0, 0)


def sample(grey: Grey, box: Box, shape: Shape) -> Grey:
    """Resample a box of (h, w) to `shape` by triangle filters, so that nothing aliases.

    What lies outside repeats the border.
    """
    axes = zip(grey.shape, box[:2], box[2:], shape, strict=True)
    rows, columns = (
        _whole_taps(length, count)
        if start == 0 and stop == length
        else _taps(length, start, stop, count)
        for length, start, stop, count in axes
    )
    return _filtered(_filtered(grey, rows), columns)


def _filtered(grey: Grey, taps: Taps) -> Grey:
    """Filter the rows of (h, w); return the result on its side, (w, count)."""
    sources, weights = taps
    rows = np.einsum("rt,rtw->rw", weights, grey.take(sources, axis=0))
    return np.ascontiguousarray(rows.T)


def _taps(length: int, start: float, stop: float, count: int) -> Taps:
    """Return how to make `count` pixels of those from `start` to `stop`."""
    scale = (stop - start) / count
    reach, taps = max(scale, 1.0), math.ceil(2 * max(scale, 1.0))
    centres = np.arange(count, dtype=np.float32)[:, None]
    centres *= np.float32(scale)
    centres += np.float32(start + scale / 2 - 0.5)
    np.minimum(np.maximum(centres, 0, out=centres), length - 1, out=centres)
    at = np.ceil(centres - np.float32(reach)) + np.arange(taps, dtype=np.float32)
    weights = np.abs(at - centres)
    np.maximum(np.subtract(np.float32(reach), weights, out=weights), 0, out=weights)
    weights *= (at >= 0) & (at < length)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.minimum(np.maximum(at, 0, out=at), length - 1, out=at).astype(np.intp), weights


@lru_cache(maxsize=512)
def _whole_taps(length: int, count: int) -> Taps:
    return _taps(length, 0.0, length, count)


def blur(grey: Grey, radius: int) -> Grey:
    """Return the means of squares of 2 * radius + 1 px; the border counts more often."""
    means = _row_sums(_row_sums(grey, radius), radius)
    means *= np.float32(1 / (2 * radius + 1) ** 2)
    return means


def _row_sums(grey: Grey, radius: int) -> Grey:
    """Sum each row of (h, w) with those around it; return the result on its side, (w, h).

    Sums of 1, 2, 4, ... rows are added up, which takes fewer steps than there are rows.
    """
    height, width = grey.shape
    powers = np.empty((height + 2 * radius, width), np.float32)
    powers[:radius] = grey[0]
    powers[radius : radius + height] = grey
    powers[radius + height :] = grey[-1]
    sums = np.zeros((height, width), np.float32)
    count, rows, at = 2 * radius + 1, 1, 0
    while rows <= count:
        if count & rows:
            sums += powers[at : at + height]
            at += rows
        powers = powers[:-rows] + powers[rows:]
        rows *= 2
    return np.ascontiguousarray(sums.T)


def _times(left: Grey, right: Grey) -> Grey:
    """Multiply (m, k) by (k, n) in pieces that BLAS leaves on the thread that asks.

    For whole matrices of this size it wakes its own threads, which costs more than it
    gains: pictures are compared on as many threads as there are cores.
    """
    step = max(1, _SMALL // right.size)
    if step >= len(left):
        return left @ right
    product = np.empty((len(left), right.shape[1]), np.float32)
    for start in range(0, len(left), step):
        np.matmul(left[start : start + step], right, out=product[start : start + step])
    return product


@lru_cache(maxsize=1024)
def _whole(length: int, count: int) -> Grey:
    """Return (count, length): what `sample` does with a whole axis, as a matrix."""
    sources, weights = _taps(length, 0.0, length, count)
    matrix = np.zeros((count, length), np.float32)
    np.add.at(matrix, (np.arange(count)[:, None], sources), weights)
    return matrix


@lru_cache(maxsize=PAD)
def _band(length: int) -> Grey:
    """Return (length, length): what `blur` does with an axis, as a matrix."""
    sums = _row_sums(np.eye(length, dtype=np.float32), _NEAR).T
    return np.ascontiguousarray(sums) / np.float32(2 * _NEAR + 1)
