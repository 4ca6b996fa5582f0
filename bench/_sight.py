"""Ways of seeing pictures: an embedder, or the baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _scores import unit
from numpy.typing import NDArray
from PIL import Image

from lookalike.backends.embed.base import Embedder
from lookalike.backends.types import RgbImage, Vectors
from lookalike.server.images import Decoded, decode

Source = Callable[[], bytes]
"""Reads one picture file."""

_MAX_PIXELS = 100_000_000


class Sight:
    """Turns picture files into vectors of length 1. The base class is the baseline.

    The baseline is an 8 x 8 colour thumbnail: 192 numbers around 0.
    """

    name = "8x8 thumbnail"
    side = 0

    def see(self, sources: Sequence[Source], threads: int) -> Vectors:
        """Return (n, dim) float32."""
        with ThreadPoolExecutor(threads) as pool:
            return unit(self._finish(list(pool.map(self._read, sources))))

    def _read(self, source: Source) -> NDArray[np.generic]:
        return self._prepare(full(source(), self.side).image)

    def _prepare(self, image: RgbImage) -> NDArray[np.generic]:
        small = Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)
        return (np.asarray(small, np.float32) - np.float32(127.5)).ravel()

    def _finish(self, prepared: list[NDArray[np.generic]]) -> Vectors:
        return np.stack(prepared).astype(np.float32)


class EmbedderSight(Sight):
    """Sees with an embedder, as the server does, without the server."""

    def __init__(self, name: str, embedder: Embedder) -> None:
        self.name = name
        self.side = embedder.decode_side
        self._embedder = embedder

    def _prepare(self, image: RgbImage) -> NDArray[np.generic]:
        return self._embedder.prepare(image)

    def _finish(self, prepared: list[NDArray[np.generic]]) -> Vectors:
        step = self._embedder.max_batch
        starts = range(0, len(prepared), step)
        embed = self._embedder.embed_prepared
        return np.concatenate([embed(prepared[start : start + step]) for start in starts])


def full(data: bytes, side: int = 0) -> Decoded:
    """Decode as the server does."""
    return decode(data, max_pixels=_MAX_PIXELS, side=side)
