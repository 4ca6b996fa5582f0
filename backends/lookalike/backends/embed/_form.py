"""What a picture looks like, in numbers that a mirror does not change: no model, numpy only."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.embed._colour import ColourHistogram, oklab
from lookalike.backends.embed._descriptors import (
    BINS,
    CELLS,
    Company,
    EdgeLayout,
    EdgeMap,
    Mirror,
    middle,
)

Float = NDArray[np.float32]

SIDE: Final = 128
"""The square that every picture becomes; finer detail tells copies apart, not kinds."""
_SMALL: Final = 32
"""The square for coarse edges and for colours."""
_FLOOR: Final = 0.25
"""Mean gradient, of 255, below which a picture fades to "no edges"."""
_LUMA: Final = (0.299, 0.587, 0.114)
"""Rec. 601, the grey that JPEG and most grayscale copies use."""
_WEIGHTS: Final = (("company", 1.0), ("layout", 0.5), ("colours", 0.5))
"""Share of each block in the cosine of two pictures."""


class Form:
    """Describes edges, colours, and how the two go together. Any thread.

    Three blocks of length 1, weighted and joined: `Company` (253), `EdgeLayout` (200) and
    `ColourHistogram` (37), for the picture and for its mirror image, added. The sum
    knows what is to one side of what, but no left from right: measured on kinds that
    nothing was chosen by, beside the network, that is better (kNN-1 0.64, not 0.62) and
    finds mirrored copies.
    """

    dim = Company.dim + EdgeLayout.dim + ColourHistogram.dim

    def __init__(self) -> None:
        self._fine = EdgeMap(SIDE, floor=_FLOOR)
        self._coarse = EdgeMap(_SMALL, floor=_FLOOR)
        self._layout = EdgeLayout()
        self._company = Company()
        self._colours = ColourHistogram()
        self._mirror = _joined(self._company.mirror(), self._layout.mirror(), Company.dim)
        self._weight = middle(_SMALL, ColourHistogram.spread)
        self._to_small = _averaging(SIDE, _SMALL)
        self._to_cells = _averaging(_SMALL, CELLS)
        self._luma = np.asarray(_LUMA, np.float32)
        self._scale = {name: np.float32(np.sqrt(share)) for name, share in _WEIGHTS}

    def __call__(self, square: Float) -> Float:
        """Return (490,) float32 of (3, 128, 128) float32 in 0..255."""
        small = np.matmul(np.matmul(self._to_small, square), self._to_small.T)
        lab = oklab(small)
        fine = self._fine(np.tensordot(self._luma, square, 1))
        coarse = self._coarse(np.tensordot(self._luma, small, 1))
        cells = np.matmul(np.matmul(self._to_cells, lab), self._to_cells.T)
        company = self._scale["company"] * self._company(fine, coarse, cells)
        seen = np.concatenate([company, self._scale["layout"] * self._layout(fine)])
        colours = self._scale["colours"] * self._colours(lab.reshape(3, -1), self._weight)
        places, signs = self._mirror
        return np.concatenate([seen + signs * seen[places], 2 * colours])


def _joined(first: Mirror, second: Mirror, count: int) -> Mirror:
    """Return the mirror of two blocks, the first of so many numbers."""
    places = np.concatenate([first[0], count + second[0]])
    return places, np.concatenate([first[1], second[1]])


def _averaging(side: int, cells: int) -> Float:
    """Return the (cells, side) matrix that averages equal runs."""
    return np.kron(np.eye(cells), np.full(side // cells, cells / side)).astype(np.float32)


def constants() -> str:
    """Hash every constant that the numbers depend on."""
    parts: list[object] = [SIDE, _SMALL, _FLOOR, _LUMA, _WEIGHTS, BINS, CELLS]
    for block in (Company, EdgeLayout, ColourHistogram):
        parts += [
            (name, value)
            for name, value in sorted(vars(block).items())
            if isinstance(value, int | float | tuple) and not name.startswith("_")
        ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
