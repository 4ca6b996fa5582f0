"""Do two pictures show the same picture? Pixels are compared, vectors play no part.

A copy may be cropped, resized, bordered, re-encoded, grey, brighter or written on,
but what is left of the original lies on it exactly, block by block, once the two are
brought over each other. Two photographs of one thing do not: a hand that moved, or
another thing of the same make, shifts some blocks against others. So:

1. Guess how the pictures lie on each other: whole on whole, and the best offsets of
   a bank of scales, by cross-correlation of small greys through the Fourier transform.
2. Refine each guess to parts of a pixel: block by block, first by trying offsets,
   then by the method of Lucas & Kanade (IJCAI 1981); each time one robust fit of
   scale and offset, for each axis, over all blocks.
3. Count the blocks that then agree: correlated, and less than a third of a pixel
   off. Copies keep most of their textured blocks, other pictures few.

Turned and mirrored copies are not recognised. The constants were chosen on half of
the kinds of a development set and checked on the other half; `bench/results.py`
measures what they are worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lookalike.server.blocks import CELLS, FINE, ROUGH, Blocks, search, track
from lookalike.server.looks import PAD, Box, Grey, Look, Shape, blur, sample

_OVERLAP = 0.6
"""Least overlap of a guess, of the shorter of the two in each axis."""
_GUESSES = 2
_PEAK = 10.0
"""Least height of a correlation peak, in standard deviations of its surface: that of copies
was 11 at least, that of four pairs of others in five is less."""
_AT_ONCE = 4
"""Surfaces that are looked at together: more do not stay in a core's own cache."""
_STEPS = 3
"""Rounds of Lucas & Kanade."""
_LIKELY, _CORRELATED = 0.5, 0.6
"""Correlation of a block above which it helps to refine, and above which it agrees."""
_EXACT = 0.35
"""Most pixels, of the fine grid, that a block that agrees may be off."""
_PROMISING = 0.3
"""Part of the blocks that must correlate on the rough grid for the fine one to be tried."""
_STRENGTH, _FEW, _COUNT = 0.37, 1.6, 6
"""Least strength of the evidence, more of it for few blocks, and least blocks that agree."""
_SMALLEST = 24.0
"""Least side of the part that is shared, in pixels of a look."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """How far two pictures agree after they were brought over each other."""

    agreeing: int = 0
    """Blocks that agree."""
    textured: int = 0
    """Blocks of the shared part with something to compare in either picture."""
    strength: float = 0.0
    """0 to 1: how well the textured blocks agree on average, nothing where they do not."""

    @property
    def same(self) -> bool:
        """Say whether that is enough; the fewer blocks there are, the better they must agree."""
        least = _STRENGTH + _FEW / max(self.textured, 1)
        return self.agreeing >= _COUNT and self.strength >= least


def is_same(one: Look, other: Look) -> bool:
    """Say whether two pictures are the same picture. Any thread, 1 to 3 ms."""
    if one.is_flat() or other.is_flat():
        return one.equals(other)
    return compare(one, other).same


def compare(one: Look, other: Look) -> Evidence:
    """Return the best evidence that two pictures are the same. Any thread, 1 to 3 ms."""
    best = Evidence()
    for box, other_box in _guesses(one, other):
        found = _examine(one, other, box, other_box)
        if found.strength > best.strength:
            best = found
        if best.same:
            break
    return best


# ------------------------------------------------------------------- guessing


def _guesses(one: Look, other: Look) -> Iterator[tuple[Box, Box]]:
    """Yield ways in which the pictures may lie on each other, as the parts they share."""
    yield one.box, other.box
    spectra, shapes = one.scaled
    base, base_shape = other.plain
    heights, widths = zip(*shapes, strict=True)
    barred = _barred(heights, base_shape[0])[:, :, None], _barred(widths, base_shape[1])[:, None]
    peaks, best = np.empty(len(shapes)), np.empty(len(shapes), np.intp)
    for start in range(0, len(shapes), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        surfaces = np.fft.irfft2(spectra[some] * base, s=(PAD, PAD))
        lines = surfaces.reshape(len(surfaces), -1)
        squares = np.einsum("ij,ij->i", lines, lines) / PAD**2 - lines.mean(axis=1) ** 2
        surfaces += barred[0][some]
        surfaces += barred[1][some]
        best[some] = lines.argmax(axis=1)
        peaks[some] = lines.max(axis=1) / np.sqrt(np.maximum(squares, 1e-18))
    taken: list[int] = []
    for i in np.argsort(-peaks, kind="stable").tolist():
        if peaks[i] < _PEAK or len(taken) == _GUESSES:
            return
        if all(abs(i - j) > 1 for j in taken):
            taken.append(i)
            top, left = divmod(int(best[i]), PAD)
            offset = _signed(top, base_shape[0]), _signed(left, base_shape[1])
            yield _shared(one, other, shapes[i], base_shape, offset)


def _signed(offset: int, length: int) -> int:
    return offset if offset < length else offset - PAD


@lru_cache(maxsize=1024)
def _barred(lengths: tuple[int, ...], other: int) -> Grey:
    """Return -inf for the offsets at which too little of two lengths overlaps, otherwise 0;
    (lengths, PAD)."""
    length, offsets = np.array(lengths)[:, None], np.arange(PAD)
    offsets = np.where(offsets < other, offsets, offsets - PAD)
    shared = np.minimum(other, offsets + length) - np.maximum(0, offsets)
    enough = shared >= _OVERLAP * np.minimum(length, other)
    return np.where(enough, np.float32(0), np.float32(-np.inf))


def _shared(
    one: Look, other: Look, shape: Shape, other_shape: Shape, offset: Shape
) -> tuple[Box, Box]:
    """Return the overlap of two coarse rectangles, in pixels of either look."""
    sides, other_sides = [], []
    for axis in (0, 1):
        start = max(0, offset[axis])
        stop = min(other_shape[axis], offset[axis] + shape[axis])
        unit = one.grey.shape[axis] / shape[axis]
        other_unit = other.grey.shape[axis] / other_shape[axis]
        sides.append(((start - offset[axis]) * unit, (stop - offset[axis]) * unit))
        other_sides.append((start * other_unit, stop * other_unit))
    return _box(sides), _box(other_sides)


def _box(sides: list[tuple[float, float]]) -> Box:
    (top, bottom), (left, right) = sides
    return top, left, bottom, right


# ------------------------------------------------------------------ examining


def _examine(one: Look, other: Look, box: Box, other_box: Box) -> Evidence:
    """Refine one guess and count what agrees."""
    found = search(*_grids(one, other, box, other_box, ROUGH))
    evidence = Evidence()
    for _ in range(_STEPS):
        likely = found.comparable & (found.correlation > _LIKELY)
        if np.count_nonzero(likely) < max(3, _PROMISING * np.count_nonzero(found.textured)):
            break
        box, other_box = _inside(other, box, _moved(other_box, found, likely))
        if _least_side(box) < _SMALLEST or _least_side(other_box) < _SMALLEST:
            break
        found = track(*_grids(one, other, box, other_box, FINE))
        evidence = _evidence(found)
        if evidence.same:
            break
    return evidence


def _least_side(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])


def _evidence(found: Blocks) -> Evidence:
    agreement = (found.correlation - _CORRELATED) / (1 - _CORRELATED)
    agreement *= found.comparable & (np.hypot(*found.shifts()) < _EXACT)
    textured = int(np.count_nonzero(found.textured))
    return Evidence(
        int(np.count_nonzero(agreement > 0)),
        textured,
        float(np.maximum(agreement, 0).sum()) / max(textured, 1),
    )


def _grids(one: Look, other: Look, box: Box, other_box: Box, side: int) -> tuple[Grey, Grey]:
    """Return both parts on one grid of whole blocks, without their soft shades."""
    height = (box[2] - box[0] + other_box[2] - other_box[0]) / 2
    width = (box[3] - box[1] + other_box[3] - other_box[1]) / 2
    block = side // CELLS
    scale = CELLS / max(height, width)
    shape = max(2, round(height * scale)) * block, max(2, round(width * scale)) * block
    grids = [sample(one.grey, box, shape), sample(other.grey, other_box, shape)]
    first, second = (grid - blur(grid, side // 20) for grid in grids)
    return first, second


def _moved(box: Box, found: Blocks, used: NDArray[np.bool_]) -> Box:
    """Return where the other picture's part lies by the blocks that are used."""
    height, width = found.shape
    at = _centres(height, width, found.correlation.shape[0])[:, used]
    shifts = np.stack([shift[used] for shift in found.shifts()], dtype=np.float64)
    base = np.square(found.correlation[used], dtype=np.float64)
    trust = base
    for _ in range(3):  # blocks that others contradict count less (Cauchy's weights)
        move, grow = _lines(at, shifts, trust)
        errors = np.square(shifts - move - grow * at).sum(axis=0)
        trust = base / (1 + errors / _EXACT**2)
    (move_y, move_x), (grow_y, grow_x) = move.ravel().tolist(), grow.ravel().tolist()
    unit_y, unit_x = (box[2] - box[0]) / height, (box[3] - box[1]) / width
    return (
        box[0] + (move_y - grow_y * height / 2) * unit_y,
        box[1] + (move_x - grow_x * width / 2) * unit_x,
        box[2] + (move_y + grow_y * height / 2) * unit_y,
        box[3] + (move_x + grow_x * width / 2) * unit_x,
    )


@lru_cache(maxsize=64)
def _centres(height: int, width: int, rows: int) -> NDArray[np.float64]:
    """Return where blocks are, by pixels down and right of the middle; (2, rows, columns)."""
    block = height // rows
    down, right = (
        np.arange(block / 2, side, block, dtype=np.float64) - side / 2 for side in (height, width)
    )
    return np.stack(np.meshgrid(down, right, indexing="ij"))


def _lines(
    at: NDArray[np.float64], value: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit value = a + b * at to rows of (2, n) by weighted least squares; a and b, (2, 1).

    `b` is held back where `at` tells little.
    """
    total = weight.sum() + 1e-6
    middle = (np.einsum("ij,j->i", at, weight) / total)[:, None]
    away = at - middle
    pull = away * weight
    spread = np.einsum("ij,ij->i", pull, away) + total * 25.0
    slope = (np.einsum("ij,ij->i", pull, value) / spread)[:, None]
    return (np.einsum("ij,j->i", value, weight) / total)[:, None] - slope * middle, slope


def _inside(other: Look, box: Box, other_box: Box) -> tuple[Box, Box]:
    """Cut both parts by what of the second lies outside its picture."""
    sides, other_sides = [], []
    for axis in (0, 1):
        start, stop = other_box[axis], other_box[axis + 2]
        length = other.grey.shape[axis]
        unit = (box[axis + 2] - box[axis]) / max(stop - start, 1e-6)
        low, high = max(0.0, -start), max(0.0, stop - length)
        sides.append((box[axis] + low * unit, box[axis + 2] - high * unit))
        other_sides.append((start + low, stop - high))
    return _box(sides), _box(other_sides)
