"""An embedder without a model that knows patches: mean colours of the middle square's cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from PIL import Image

from lookalike.backends.embed.base import EmbedderOptions, PatchEmbedder, PatchVectors, Window
from lookalike.backends.types import Prepared, RgbImage, Vectors

GRID, CELLS = 8, 2
"""Patches along a side, and cells along the side of a patch."""
_SIDE = GRID * CELLS


class Mosaic(PatchEmbedder):
    """Vectors are the colours of 16 x 16 cells, patches those of 2 x 2 each."""

    space = "mosaic/1"
    dim = _SIDE * _SIDE * 3
    decode_side = 256

    @classmethod
    def open(cls, options: EmbedderOptions) -> Self:
        return cls()

    def prepare(self, image: RgbImage) -> Prepared:
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        middle = Image.fromarray(image[top : top + side, left : left + side])
        cells = middle.resize((_SIDE, _SIDE), Image.Resampling.BOX)
        return np.asarray(cells, np.float32) - 126.5  # never zero: no colour is between two

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        return np.stack(batch).reshape(len(batch), -1).astype(np.float32)

    def embed_patches(self, batch: Sequence[Prepared]) -> PatchVectors:
        cells = np.stack(batch).reshape(len(batch), GRID, CELLS, GRID, CELLS, 3)
        patches = cells.swapaxes(2, 3).reshape(len(batch), GRID, GRID, -1)
        lengths = np.linalg.norm(patches, axis=-1, keepdims=True)
        return np.ascontiguousarray(patches / lengths, np.float32)

    def patch_window(self, height: int, width: int) -> Window:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return Window(left / width, top / height, side / width, side / height)
