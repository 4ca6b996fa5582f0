"""Two pictures on one grid, compared block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lookalike.server.looks import Grey, Shape

CELLS = 8
"""Blocks along the longer side of what the pictures share."""
ROUGH, FINE = 64, 128
"""Pixels along that side while offsets are tried, and for the decision."""
_REACH = 2
"""Offsets that are tried, in pixels of the rough grid."""
_TEXTURE = 3.0
"""Least deviation of a block from its surroundings, of the 50 of the whole picture."""
_NOISE = 4.0
"""Variance that is taken for noise: keeps flat blocks from correlating by chance."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Two pictures over each other, block by block: arrays of (rows, columns)."""

    shape: Shape
    """Of the grid in pixels."""
    correlation: Grey
    textured: NDArray[np.bool_]
    """In either picture."""
    comparable: NDArray[np.bool_]
    """In both."""
    shifts: Callable[[], tuple[Grey, Grey]]
    """Tells where the other picture's blocks lie, down and right, in pixels of the grid."""


def _sums(factors: Sequence[tuple[Grey, Grey]], block: int) -> Grey:
    """Sum products of (h, w) over their blocks; (products, rows, columns)."""
    height, width = factors[0][0].shape
    rows, columns = height // block, width // block
    sums = np.empty((len(factors), rows, width), np.float32)
    for total, pair in zip(sums, factors, strict=True):
        one, other = (grey.reshape(rows, block, width) for grey in pair)
        np.einsum("rbx,rbx->rx", one, other, out=total)
    return _across(sums, columns)


def _across(sums: Grey, columns: int) -> Grey:
    """Sum (..., w) over columns of blocks."""
    *rest, width = sums.shape
    across: Grey = np.einsum("...cb->...c", sums.reshape(*rest, columns, width // columns))
    return across


def search(first: Grey, second: Grey) -> Blocks:
    """Find each block of `first` in `second`, to a part of a pixel, by trying offsets."""
    block = ROUGH // CELLS
    noise = np.float32(_NOISE * block * block)
    [energy] = _sums([(first, first)], block)
    products, other_energy = _slid_sums(first, second, block)
    scores = products / np.sqrt((energy + noise) * (other_energy + noise))
    return _blocks(
        first.shape,
        scores.max(axis=(0, 1)),
        (energy, other_energy[_REACH, _REACH]),
        block,
        partial(_summits, scores),
    )


def _summits(scores: Grey) -> tuple[Grey, Grey]:
    """Return where (tries, tries, rows, columns) is highest, by parabolas to a part of a try."""
    tries = len(scores)
    best = scores.reshape(tries * tries, *scores.shape[2:]).argmax(axis=0)
    down, right = np.divmod(best, tries)
    at = np.ogrid[: scores.shape[2], : scores.shape[3]]
    parts = []
    for axis, middle in ((0, down), (1, right)):
        inner = np.clip(middle, 1, tries - 2)
        low, mid, high = (
            scores[(inner + d, right, *at) if axis == 0 else (down, inner + d, *at)]
            for d in (-1, 0, 1)
        )
        bend = np.minimum(low - 2 * mid + high, np.float32(-1e-6))
        parts.append(inner - _REACH + np.clip((low - high) / (2 * bend), -1, 1))
    return parts[0], parts[1]


def _slid_sums(first: Grey, second: Grey, block: int) -> tuple[Grey, Grey]:
    """Sum, over each block, the products with the second picture moved by each offset, and
    its squares: (tries, tries, rows, columns) each, with nothing around the second."""
    height, width = second.shape
    rows, columns, tries = height // block, width // block, 2 * _REACH + 1
    padded = np.zeros((height + 2 * _REACH, width + 2 * _REACH), np.float32)
    padded[_REACH : _REACH + height, _REACH : _REACH + width] = second
    line, pixel = padded.strides
    moved = np.ndarray(
        (tries, tries, rows, block, width),
        np.float32,
        padded,
        strides=(line, pixel, block * line, line, pixel),
    )
    products = np.einsum("ijrbx,rbx->ijrx", moved, first.reshape(rows, block, width))
    # Squares do not depend on the first: those of a column serve all windows it is in.
    bands = np.ndarray(
        (tries, rows, block, width + 2 * _REACH),
        np.float32,
        padded * padded,
        strides=(line, block * line, line, pixel),
    )
    squares = np.add.reduce(bands, axis=2)
    energies = [_across(squares[:, :, j : j + width], columns) for j in range(tries)]
    return _across(products, columns), np.stack(energies, axis=1)


def track(first: Grey, second: Grey) -> Blocks:
    """Tell how far each block is off by the slope of its shades (Lucas & Kanade)."""
    block = FINE // CELLS
    noise = np.float32(_NOISE * block * block)
    across, along = _slopes(first)
    factors = (
        (first, first), (second, second), (first, second),
        (across, across), (along, along), (across, along),
        (across, first), (along, first), (across, second), (along, second),
    )  # fmt: skip
    aa, bb, ab, yy, xx, xy, ya, xa, yb, xb = _sums(factors, block)
    correlation = ab / np.sqrt((aa + noise) * (bb + noise))
    gain = ab / (bb + noise)
    # The other picture, made as strong as the first, differs from it by slope x shift.
    off_y, off_x = ya - gain * yb, xa - gain * xb
    slack = np.float32(0.02) * (yy + xx) + noise * np.float32(0.1)
    yy, xx = yy + slack, xx + slack
    determinant = yy * xx - xy * xy
    down = (xx * off_y - xy * off_x) / determinant
    right = (yy * off_x - xy * off_y) / determinant
    return _blocks(first.shape, correlation, (aa, bb), block, lambda: (down, right))


def _slopes(grey: Grey) -> tuple[Grey, Grey]:
    """Return half the differences of neighbours, down and to the right; whole ones at borders."""
    down, right = np.empty_like(grey), np.empty_like(grey)
    for slopes, lines in ((down, grey), (right.T, grey.T)):
        np.subtract(lines[2:], lines[:-2], out=slopes[1:-1])
        slopes[1:-1] *= np.float32(0.5)
        slopes[0], slopes[-1] = lines[1] - lines[0], lines[-1] - lines[-2]
    return down, right


def _blocks(
    shape: tuple[int, ...],
    correlation: Grey,
    energies: tuple[Grey, Grey],
    block: int,
    shifts: Callable[[], tuple[Grey, Grey]],
) -> Blocks:
    least = np.float32((_TEXTURE * block) ** 2)
    return Blocks(
        (shape[0], shape[1]),
        correlation,
        np.maximum(*energies) > least,
        np.minimum(*energies) > least,
        shifts,
    )
