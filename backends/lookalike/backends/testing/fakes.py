"""An embedder without a model, for tests of everything around one."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.embed.base import EmbedderOptions, TextEmbedder, TextVectors
from lookalike.backends.types import Prepared, RgbImage, Vectors

_DIM = 16
_LONGEST = 77
"""Characters that the fake reads of a text."""


class FakeEmbedder(TextEmbedder):
    """Gives equal inputs equal vectors of 16 numbers and different inputs unrelated ones.

    Vectors are normally distributed, seeded with the SHA-256 of the pixels or of
    the text's bytes, so they are the same in every process. `extra`: "delay_s" is
    how long each call of the model takes.
    """

    space = "fake/1"
    dim = _DIM
    max_batch = 8

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.batches: list[int] = []
        """How many inputs each call of the model had."""
        self.is_closed = False

    @classmethod
    def open(cls, options: EmbedderOptions) -> Self:
        return cls(float(str(options.extra.get("delay_s", 0.0))))

    def prepare(self, image: RgbImage) -> Prepared:
        shape = "x".join(map(str, image.shape)).encode()
        return _seed(shape + b":" + np.ascontiguousarray(image).tobytes())

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        self._compute(len(batch))
        return _stack([_vector(prepared) for prepared in batch])

    def embed_texts(self, texts: Sequence[str]) -> TextVectors:
        self._compute(len(texts))
        rows = [_vector(_seed(text[:_LONGEST].encode())) for text in texts]
        return TextVectors(_stack(rows), [len(text) > _LONGEST for text in texts])

    def close(self) -> None:
        self.is_closed = True

    def _compute(self, count: int) -> None:
        self.batches.append(count)
        if self.delay_s:
            time.sleep(self.delay_s)


def _seed(data: bytes) -> NDArray[np.uint32]:
    return np.frombuffer(hashlib.sha256(data).digest(), dtype="<u4")


def _vector(seed: Prepared) -> NDArray[np.float32]:
    return np.random.default_rng(seed.tolist()).standard_normal(_DIM, dtype=np.float32)


def _stack(rows: list[NDArray[np.float32]]) -> Vectors:
    return np.stack(rows) if rows else np.zeros((0, _DIM), np.float32)
