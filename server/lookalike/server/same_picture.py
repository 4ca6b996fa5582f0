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

from lookalike.server.looks import PAD, Box, Grey, Look, Shape, blur, sample

_OVERLAP = 0.6
"""Least overlap of a guess, of the shorter of the two in each axis."""
_GUESSES = 2
_PEAK = 10.0
"""Least height of a correlation peak, in standard deviations of its surface: that of copies
was 11 at least, that of four pairs of others in five is less."""
_CELLS = 8
"""Blocks along the longer side of what the pictures share."""
_ROUGH, _FINE = 64, 128
"""Pixels along that side while offsets are tried, and for the decision."""
_REACH = 2
"""Offsets that are tried, in pixels of the rough grid."""
_STEPS = 3
"""Rounds of Lucas & Kanade."""
_TEXTURE = 3.0
"""Least deviation of a block from its surroundings, of the 50 of the whole picture."""
_NOISE = 4.0
"""Variance that is taken for noise: keeps flat blocks from correlating by chance."""
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
    """Say whether two pictures are the same picture. Any thread, 1 to 4 ms."""
    if one.is_flat() or other.is_flat():
        return one.equals(other)
    return compare(one, other).same


def compare(one: Look, other: Look) -> Evidence:
    """Return the best evidence that two pictures are the same. Any thread, 1 to 4 ms."""
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
    surfaces = np.fft.irfft2(np.conj(spectra) * base, s=(PAD, PAD))
    deviations = surfaces.reshape(len(surfaces), -1).std(axis=1)
    peaks = []
    for i, shape in enumerate(shapes):
        surface = np.where(_allowed(shape, base_shape), surfaces[i], -np.inf)
        top, left = divmod(int(surface.argmax()), PAD)
        peak = float(surface[top, left]) / max(float(deviations[i]), 1e-9)
        peaks.append((peak, i, _signed(top, base_shape[0]), _signed(left, base_shape[1])))
    taken: list[int] = []
    for peak, i, top, left in sorted(peaks, reverse=True):
        if peak < _PEAK or len(taken) == _GUESSES:
            return
        if all(abs(i - j) > 1 for j in taken):
            taken.append(i)
            yield _shared(one, other, shapes[i], base_shape, (top, left))


def _signed(offset: int, length: int) -> int:
    return offset if offset < length else offset - PAD


@lru_cache(maxsize=1024)
def _allowed(shape: Shape, other: Shape) -> NDArray[np.bool_]:
    """Mark the offsets at which enough of two rectangles overlaps; (PAD, PAD)."""
    axes = []
    for length, other_length in zip(shape, other, strict=True):
        offsets = np.arange(PAD)
        offsets = np.where(offsets < other_length, offsets, offsets - PAD)
        shared = np.minimum(other_length, offsets + length) - np.maximum(0, offsets)
        axes.append(shared >= _OVERLAP * min(length, other_length))
    return np.logical_and.outer(*axes)


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


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Two pictures over each other, block by block: arrays of (rows, columns)."""

    shape: Shape
    """Of the grid in pixels."""
    correlation: Grey
    down: Grey
    """Where the other picture's block lies, in pixels of the grid."""
    right: Grey
    textured: NDArray[np.bool_]
    """In either picture."""
    comparable: NDArray[np.bool_]
    """In both."""


def _examine(one: Look, other: Look, box: Box, other_box: Box) -> Evidence:
    """Refine one guess and count what agrees."""
    found = _search(*_grids(one, other, box, other_box, _ROUGH))
    evidence = Evidence()
    for _ in range(_STEPS):
        likely = found.comparable & (found.correlation > _LIKELY)
        if np.count_nonzero(likely) < max(3, _PROMISING * np.count_nonzero(found.textured)):
            break
        box, other_box = _inside(other, box, _moved(other_box, found, likely))
        if _least_side(box) < _SMALLEST or _least_side(other_box) < _SMALLEST:
            break
        found = _track(*_grids(one, other, box, other_box, _FINE))
        evidence = _evidence(found)
        if evidence.same:
            break
    return evidence


def _least_side(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])


def _evidence(found: _Blocks) -> Evidence:
    agreement = (found.correlation - _CORRELATED) / (1 - _CORRELATED)
    agreement *= found.comparable & (np.hypot(found.down, found.right) < _EXACT)
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
    block = side // _CELLS
    scale = _CELLS / max(height, width)
    shape = max(2, round(height * scale)) * block, max(2, round(width * scale)) * block
    grids = [sample(one.grey, box, shape), sample(other.grey, other_box, shape)]
    first, second = (grid - blur(grid, side // 20) for grid in grids)
    return first, second


def _sums(grids: Grey, block: int) -> Grey:
    """Sum (..., h, w) over its blocks."""
    *rest, height, width = grids.shape
    rows = np.add.reduce(grids.reshape(*rest, height // block, block, width), axis=-2)
    sums: Grey = np.add.reduce(rows.reshape(*rows.shape[:-1], width // block, block), axis=-1)
    return sums


def _search(first: Grey, second: Grey) -> _Blocks:
    """Find each block of `first` in `second`, to a part of a pixel, by trying offsets."""
    block, tries = _ROUGH // _CELLS, 2 * _REACH + 1
    noise = np.float32(_NOISE * block * block)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(second, _REACH), first.shape)
    squares = np.lib.stride_tricks.sliding_window_view(np.pad(second**2, _REACH), first.shape)
    energy, other_energy = _sums(first**2, block), _sums(squares, block)
    products = _sums(windows * first, block)
    scores = products / np.sqrt((energy + noise) * (other_energy + noise))
    flat = scores.reshape(tries * tries, *energy.shape)
    best = flat.argmax(axis=0)
    down, right = np.divmod(best, tries)
    at = np.ogrid[: energy.shape[0], : energy.shape[1]]
    parts = []
    for axis, middle in ((0, down), (1, right)):
        inner = np.clip(middle, 1, tries - 2)
        low, mid, high = (
            scores[(inner + d, right, *at) if axis == 0 else (down, inner + d, *at)]
            for d in (-1, 0, 1)
        )
        bend = np.minimum(low - 2 * mid + high, np.float32(-1e-6))
        parts.append(inner - _REACH + np.clip((low - high) / (2 * bend), -1, 1))
    return _blocks(
        first.shape,
        flat.max(axis=0),
        (parts[0], parts[1]),
        (energy, other_energy[_REACH, _REACH]),
        block,
    )


def _track(first: Grey, second: Grey) -> _Blocks:
    """Tell how far each block is off by the slope of its shades (Lucas & Kanade)."""
    block = _FINE // _CELLS
    noise = np.float32(_NOISE * block * block)
    across, along = np.gradient(first)
    stack = np.stack(
        [
            first * first,
            second * second,
            first * second,
            across * across,
            along * along,
            across * along,
            across * first,
            along * first,
            across * second,
            along * second,
        ]
    )
    aa, bb, ab, yy, xx, xy, ya, xa, yb, xb = _sums(stack, block)
    correlation = ab / np.sqrt((aa + noise) * (bb + noise))
    gain = ab / (bb + noise)
    # The other picture, made as strong as the first, differs from it by slope x shift.
    off_y, off_x = ya - gain * yb, xa - gain * xb
    slack = np.float32(0.02) * (yy + xx) + noise * np.float32(0.1)
    yy, xx = yy + slack, xx + slack
    determinant = yy * xx - xy * xy
    down = (xx * off_y - xy * off_x) / determinant
    right = (yy * off_x - xy * off_y) / determinant
    return _blocks(first.shape, correlation, (down, right), (aa, bb), block)


def _blocks(
    shape: tuple[int, ...],
    correlation: Grey,
    shifts: tuple[Grey, Grey],
    energies: tuple[Grey, Grey],
    block: int,
) -> _Blocks:
    least = np.float32((_TEXTURE * block) ** 2)
    return _Blocks(
        (shape[0], shape[1]),
        correlation,
        *shifts,
        np.maximum(*energies) > least,
        np.minimum(*energies) > least,
    )


def _moved(box: Box, found: _Blocks, used: NDArray[np.bool_]) -> Box:
    """Return where the other picture's part lies by the blocks that are used."""
    height, width = found.shape
    rows, columns = found.correlation.shape
    y = ((np.arange(rows) + 0.5) * height / rows - height / 2)[:, None].repeat(columns, 1)[used]
    x = ((np.arange(columns) + 0.5) * width / columns - width / 2)[None].repeat(rows, 0)[used]
    down, right = found.down[used], found.right[used]
    base = np.square(found.correlation[used])
    trust = base
    for _ in range(3):  # blocks that others contradict count less (Cauchy's weights)
        move_y, grow_y = _line(y, down, trust)
        move_x, grow_x = _line(x, right, trust)
        error = np.hypot(down - move_y - grow_y * y, right - move_x - grow_x * x)
        trust = base / (1 + (error / _EXACT) ** 2)
    unit_y, unit_x = (box[2] - box[0]) / height, (box[3] - box[1]) / width
    return (
        box[0] + (move_y - grow_y * height / 2) * unit_y,
        box[1] + (move_x - grow_x * width / 2) * unit_x,
        box[2] + (move_y + grow_y * height / 2) * unit_y,
        box[3] + (move_x + grow_x * width / 2) * unit_x,
    )


def _line(at: Grey, value: Grey, weight: Grey) -> tuple[float, float]:
    """Fit value = a + b * at by weighted least squares, b held back where `at` tells little."""
    total = float(weight.sum()) + 1e-6
    middle = float((weight * at).sum()) / total
    spread = float((weight * (at - middle) ** 2).sum()) + total * 25.0
    slope = float((weight * (at - middle) * value).sum()) / spread
    return float((weight * value).sum()) / total - slope * middle, slope


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
