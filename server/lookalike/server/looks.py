"""Pictures made ready to be laid over each other: small greys, their grids, their spectra."""

from __future__ import annotations

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
        grey = _unframed(red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2])
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
        """Transforms at all scales, (2 * STEPS + 1, PAD, PAD // 2 + 1), and the shapes there."""
        return _spectra([self._coarse(RATIO**step) for step in range(-STEPS, STEPS + 1)])

    @cached_property
    def plain(self) -> tuple[Spectra, Shape]:
        """Transform at scale 1, (1, PAD, PAD // 2 + 1), and the shape there."""
        spectra, shapes = _spectra([self._coarse(1.0)])
        return spectra, shapes[0]

    @cached_property
    def _half(self) -> Grey:
        height, width = (max(4, n // 2) for n in self.grey.shape)
        return sample(self.grey, self.box, (height, width))

    def _coarse(self, scale: float) -> Grey:
        """Return it small, each pixel measured by its surroundings."""
        wanted = _COARSE * scale / SIDE
        height, width = (max(4, min(PAD, round(n * wanted))) for n in self.grey.shape)
        half = self._half
        small = sample(half, (0.0, 0.0, half.shape[0], half.shape[1]), (height, width))
        away = small - blur(small, 3)
        return np.asarray(away / np.sqrt(blur(away * away, 3) + np.float32(25.0)), np.float32)


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
        _whole(length, count)
        if start == 0 and stop == length
        else _weights(length, start, stop, count)
        for length, start, stop, count in axes
    )
    return _times(_times(rows, grey), columns.T)


def _times(left: Grey, right: Grey) -> Grey:
    """Multiply (m, k) by (k, n) in pieces that BLAS leaves on the thread that asks.

    For whole matrices of this size it wakes its own threads, which costs more than it
    gains: pictures are compared on as many threads as there are cores.
    """
    product = np.empty((len(left), right.shape[1]), np.float32)
    step = max(1, _SMALL // right.size)
    for start in range(0, len(left), step):
        np.matmul(left[start : start + step], right, out=product[start : start + step])
    return product


@lru_cache(maxsize=256)
def _whole(length: int, count: int) -> Grey:
    return _weights(length, 0.0, length, count)


def _weights(length: int, start: float, stop: float, count: int) -> Grey:
    """Return (count, length): how much of each source pixel is in each new one."""
    scale = (stop - start) / count
    centres = start + (np.arange(count, dtype=np.float32) + np.float32(0.5)) * np.float32(scale)
    centres = np.clip(centres - np.float32(0.5), 0, length - 1)
    away = np.abs(np.arange(length, dtype=np.float32) - centres[:, None])
    weights = np.maximum(1 - away * np.float32(1 / max(scale, 1.0)), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def blur(grey: Grey, radius: int) -> Grey:
    """Return the means of squares of 2 * radius + 1 px; the border counts more often."""
    across, along = _band(grey.shape[0], radius), _band(grey.shape[1], radius)
    return _times(_times(across, grey), along.T)


@lru_cache(maxsize=512)
def _band(length: int, radius: int) -> Grey:
    """Return (length, length): the mean of neighbours, the border repeated."""
    at = np.arange(length)
    reached = np.abs(at - at[:, None]) <= radius
    band = reached.astype(np.float32)
    band[:, 0] += np.maximum(radius - at, 0)
    band[:, -1] += np.maximum(at + radius - (length - 1), 0)
    return np.asarray(band / np.float32(2 * radius + 1), np.float32)


def _spectra(greys: list[Grey]) -> tuple[Spectra, list[Shape]]:
    padded = np.zeros((len(greys), PAD, PAD), np.float32)
    for canvas, grey in zip(padded, greys, strict=True):
        canvas[: grey.shape[0], : grey.shape[1]] = grey
    spectra: Spectra = np.fft.rfft2(padded).astype(np.complex64, copy=False)
    return spectra, [(grey.shape[0], grey.shape[1]) for grey in greys]
