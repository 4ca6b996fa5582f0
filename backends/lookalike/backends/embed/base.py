"""The contract of an embedder: pictures in, vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.embed.parity import Comparison
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
    cache: Path | None = None
    """A folder for what can be made again - converted models, measurements - and for what the
    parity gate found; None = nothing is kept."""
    cache_read_only: bool = False
    """Read it, write nothing."""
    calibration: Callable[[], Sequence[RgbImage]] | None = None
    """Reads pictures of the kind that will come, for precisions that are calibrated."""


@dataclass(frozen=True, slots=True)
class TextVectors:
    """`vectors` (n, dim) float32; `truncated[i]`: text i was longer than the model reads."""

    vectors: Vectors
    truncated: list[bool]


PatchVectors: TypeAlias = NDArray[np.float32]
"""(n, rows, columns, d) float32 of length 1: what n pictures show, patch by patch."""


class Window(NamedTuple):
    """A part of an upright picture, in fractions of its width and height."""

    left: float
    top: float
    width: float
    height: float


class Embedder(ABC):
    """Makes vectors of pictures in two steps, so that preparation runs on many threads.

    `prepare` is called by any number of threads at once; `embed_prepared` (and
    `embed_texts`) by one thread, the server's embed thread. The same picture
    gives the same vector (cosine >= 0.99999) whatever else is in its batch.
    """

    space: str
    """Fingerprint of weights, preprocessing and precision; equal => comparable vectors."""
    also: frozenset[str] = frozenset()
    """Other spaces whose vectors have been shown to be comparable with this one's."""
    numerics: Mapping[str, str] = {}
    """How it computes, for people: "runtime", "precision", "parity"."""
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


class PatchEmbedder(Embedder):
    """An embedder that also says what each patch of a picture shows.

    Patches of any two pictures can be compared by cosine; they are what "why did
    this match" is answered with. They are no part of `space`: nothing of them is
    ever stored. A capability is a type, not a flag.
    """

    patches_know_texts: bool = False
    """Patches lie in the space of `embed_texts`, so that a text can be found in a picture."""

    @abstractmethod
    def embed_patches(self, batch: Sequence[Prepared]) -> PatchVectors:
        """Return a grid of vectors for each of n > 0 pictures, finite; all grids have one shape.

        `d` need not be `dim`. One thread, the same as `embed_prepared`.
        """

    @abstractmethod
    def patch_window(self, height: int, width: int) -> Window:
        """Return the part of a picture of this size, px, that the grid covers evenly. Any thread.

        Preparation often keeps the middle square only; then that square.
        """


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison with the trusted way of computing gave."""

    comparison: Comparison
    faults: Sequence[str]
    """What is below its bar, in words; none = passed."""


class CheckedEmbedder(Embedder):
    """An embedder that can compute in several ways, of which one is to be trusted.

    A capability is a type, not a flag.
    """

    @abstractmethod
    def verify(self, pictures: Iterable[RgbImage]) -> Verdict:
        """Compare on these pictures with the trusted way, and keep what was found.

        The next `open` goes by it. One thread, the same as `embed_prepared`.
        Raises InvalidArgument if there are too few.
        """
