"""The built-in embedder: classic image descriptors in numpy, no model, no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np

from lookalike.backends.embed._colour import ColourHistogram, oklab
from lookalike.backends.embed._descriptors import (
    BINS,
    CELLS,
    Company,
    EdgeLayout,
    EdgeMap,
    middle,
    unit,
)
from lookalike.backends.embed._resize import squeeze
from lookalike.backends.embed.base import Embedder, EmbedderOptions
from lookalike.backends.errors import ModelInvalid
from lookalike.backends.types import Prepared, RgbImage, Vectors

_SIDE = 128
"""The square that every picture becomes; finer detail tells copies apart, not kinds."""
_SMALL = 32
"""The square for coarse edges and for colours."""
_FLOOR = 0.25
"""Mean gradient, of 255, below which a picture fades to "no edges"."""
_LUMA = (0.299, 0.587, 0.114)
"""Rec. 601, the grey that JPEG and most grayscale copies use."""
_WEIGHTS = (("company", 1.0), ("layout", 0.5), ("colours", 0.5))
"""Share of each block in the cosine of two pictures."""


class BuiltinEmbedder(Embedder):
    """Finds pictures that look alike: in form, in colour, in how the two go together.

    Three blocks of length 1, weighted and joined, 490 numbers of length 1:
    `Company` (253), `EdgeLayout` (200) and `ColourHistogram` (37). All the work is
    done in `prepare`, by as many threads as there are (numpy lets go of the
    interpreter lock in it); `embed_prepared` only stacks, so a vector cannot depend
    on its batch.
    """

    dim = Company.dim + EdgeLayout.dim + ColourHistogram.dim
    device = "cpu"
    decode_side = 2 * _SIDE  # less, and a turned photograph of odd size drops below cosine 0.999
    max_batch = 256

    def __init__(self) -> None:
        self.space = f"builtin/1-{_fingerprint()}"
        self._fine = EdgeMap(_SIDE, floor=_FLOOR)
        self._coarse = EdgeMap(_SMALL, floor=_FLOOR)
        self._layout = EdgeLayout()
        self._company = Company()
        self._colours = ColourHistogram()
        self._weight = middle(_SMALL, ColourHistogram.spread)
        self._to_small = _averaging(_SIDE, _SMALL)
        self._to_cells = _averaging(_SMALL, CELLS)
        self._luma = np.asarray(_LUMA, np.float32)
        self._scale = {name: np.float32(np.sqrt(share)) for name, share in _WEIGHTS}

    @classmethod
    def open(cls, options: EmbedderOptions) -> Self:
        """Make the tables; takes a millisecond. Raises ModelInvalid for settings it has not."""
        if options.device not in ("auto", "cpu"):
            raise ModelInvalid(
                "The built-in embedder runs on the CPU only. Set its device to auto or cpu.",
                device=options.device,
            )
        if options.extra:
            raise ModelInvalid(
                "The built-in embedder has no settings of its own; take out: "
                f"{', '.join(sorted(options.extra))}."
            )
        return cls()

    def prepare(self, image: RgbImage) -> Prepared:
        """Return the finished (490,) float32 vector. Any thread."""
        square = squeeze(image, _SIDE)
        small = np.matmul(np.matmul(self._to_small, square), self._to_small.T)
        lab = oklab(small)
        fine = self._fine(np.tensordot(self._luma, square, 1))
        coarse = self._coarse(np.tensordot(self._luma, small, 1))
        lab_cells = np.matmul(np.matmul(self._to_cells, lab), self._to_cells.T)
        blocks = {
            "company": self._company(fine, coarse, lab_cells),
            "layout": self._layout(fine),
            "colours": self._colours(lab.reshape(3, -1), self._weight),
        }
        return unit(np.concatenate([self._scale[name] * block for name, block in blocks.items()]))

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        """Stack the vectors that `prepare` made. Any thread."""
        return np.stack(batch).astype(np.float32, copy=False)


def _averaging(side: int, cells: int) -> Vectors:
    """Return the (cells, side) matrix that averages equal runs."""
    return np.kron(np.eye(cells), np.full(side // cells, cells / side)).astype(np.float32)


def _fingerprint() -> str:
    """Hash every constant that a vector depends on; a change of method raises the number."""
    parts: list[object] = [_SIDE, _SMALL, _FLOOR, _LUMA, _WEIGHTS, BINS, CELLS]
    for block in (Company, EdgeLayout, ColourHistogram):
        parts += [
            (name, value)
            for name, value in sorted(vars(block).items())
            if isinstance(value, int | float | tuple) and not name.startswith("_")
        ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
