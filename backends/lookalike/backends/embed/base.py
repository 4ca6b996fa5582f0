"""The contract of an embedder: pictures in, vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import numpy as np

from lookalike.backends.types import Prepared, RgbImage, Vectors


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """How to open an embedder, as the configuration says it."""

    model: str = ""
    """A folder or a hub name; embedders without a checkpoint ignore it."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:N"."""
    threads: int = 0
    """Compute threads of the model; 0 = the number of cores."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Settings that only this embedder knows, JSON values."""


@dataclass(frozen=True, slots=True)
class TextVectors:
    """`vectors` (n, dim) float32; `truncated[i]`: text i was longer than the model reads."""

    vectors: Vectors
    truncated: list[bool]


class Embedder(ABC):
    """Makes vectors of pictures in two steps, so that preparation runs on many threads.

    `prepare` is called by any number of threads at once; `embed_prepared` (and
    `embed_texts`) by one thread, the server's embed thread. The same picture
    gives the same vector (cosine >= 0.99999) whatever else is in its batch.
    """

    space: str
    """Fingerprint of weights, preprocessing and precision; equal <=> comparable vectors."""
    dim: int
    device: str = "cpu"
    decode_side: int = 0
    """The decoder may shrink a picture so far that its shorter side keeps this many
    pixels; 0 = it must not shrink at all."""
    max_batch: int = 32
    """Pictures worth giving to `embed_prepared` at once."""

    @classmethod
    @abstractmethod
    def open(cls, options: EmbedderOptions) -> Self:
        """Load the model. Raises ModelInvalid or BackendUnavailable with the cure."""

    @abstractmethod
    def prepare(self, image: RgbImage) -> Prepared:
        """Do all the work on one picture that needs no model. Any thread."""

    @abstractmethod
    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        """Return (len(batch), dim) float32 as the model gives them, finite. One thread."""

    @final
    def embed_images(self, images: Sequence[RgbImage]) -> Vectors:
        """Return (n, dim) float32 for n pictures. One thread."""
        if not images:
            return np.zeros((0, self.dim), np.float32)
        return self.embed_prepared([self.prepare(image) for image in images])

    def close(self) -> None:  # noqa: B027 - most embedders hold nothing to release
        """Release the model. The embedder is not used afterwards."""


class TextEmbedder(Embedder):
    """An embedder that puts texts into the same space. A capability is a type, not a flag."""

    @abstractmethod
    def embed_texts(self, texts: Sequence[str]) -> TextVectors:
        """Embed n texts. One thread, the same as `embed_prepared`."""
