"""The shapes every room agrees on.

Arrays are C-contiguous and little-endian. Scores are higher for closer things
under every metric: cosine in [-1, 1], inner product, minus squared distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
"""(n, dim) float32, finite."""
Rows: TypeAlias = NDArray[np.int64]
"""Positions 0..n-1 in one sealed index; -1 where there is none."""
Keys: TypeAlias = NDArray[np.int64]
"""The store's item keys, rising and never used twice; -1 where there is none."""
Mask: TypeAlias = NDArray[np.bool_]
"""(n,) bool over the rows of one sealed index; True = may be returned."""
RgbImage: TypeAlias = NDArray[np.uint8]
"""(height, width, 3) uint8, upright sRGB."""
Prepared: TypeAlias = NDArray[np.generic]
"""What one embedder makes of one picture before the model; opaque to others."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (phase, done, total) in items; raises to stop the work."""


class Metric(StrEnum):
    """How two vectors are compared. Cosine vectors are stored at length 1."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


@dataclass(frozen=True, slots=True)
class FlatParams:
    """Compare with every vector."""


@dataclass(frozen=True, slots=True)
class HnswParams:
    """A navigable small-world graph (Malkov & Yashunin 2018); 0 = the backend's default."""

    m: int = 0
    """Neighbours of a node, 4 to 128; default 16."""
    ef_construction: int = 0
    """Candidates while building; default 200."""
    ef_search: int = 0
    """Candidates while searching; default 64."""


@dataclass(frozen=True, slots=True)
class IvfParams:
    """Inverted lists around k-means centres; 0 = chosen from the data."""

    nlist: int = 0
    """Number of lists; default about 4 * sqrt(n)."""
    nprobe: int = 0
    """Lists a search looks into; default: measured when the index is built."""


Algorithm: TypeAlias = FlatParams | HnswParams | IvfParams


DEFAULT_TARGET_RECALL = 0.99
LEAST_TARGET_RECALL, MOST_TARGET_RECALL = 0.5, 0.9999
"""Below, an index is not worth having; above, no sample of queries could tell."""


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """Which index to build. Backend "auto" chooses by size; see `index.auto`."""

    backend: str = "auto"
    algorithm: Algorithm | None = None
    """None: the backend's own choice."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Settings that only this backend knows, JSON values."""
    metric: Metric = Metric.COSINE
    target_recall: float = 0.0
    """The share of the true ten nearest that searches have to find; 0: the default, 0.99."""
    because: str = field(default="", compare=False)
    """Why "auto" chose this, for people."""

    @property
    def goal(self) -> float:
        """The target recall, the default filled in."""
        return self.target_recall or DEFAULT_TARGET_RECALL


@dataclass(frozen=True, slots=True)
class SearchParams:
    """Knobs of one search; those that an index has no use for are ignored."""

    exact: bool = False
    ef_search: int = 0
    nprobe: int = 0
    boost: float = 1.0
    """So many times what the index would take by itself - candidates, lists, proposals -
    where no number is asked for; at least 1. Engines set it where recall falls short."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest of each query, best first, equal scores by rising row or key.

    `ids` is (q, k) int64 (rows of an index, keys of an engine), -1 = none, always
    behind the real ones; `scores` is (q, k) float32, -inf where there is none.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    exact: bool = False
    """True if every vector that was allowed has been compared."""

    @property
    def filled(self) -> bool:
        """True if no query has fewer hits than the answer is wide."""
        return not self.ids.shape[1] or min(self.ids[:, -1].tolist(), default=0) >= 0

    @property
    def spread(self) -> float:
        """Return the greatest score without its sign; infinite where there is none."""
        if not self.scores.shape[1]:
            return 0.0
        ends = [*self.scores[:, 0].tolist(), *self.scores[:, -1].tolist()]
        return max(map(abs, ends), default=0.0)


@dataclass(frozen=True, slots=True)
class Changes:
    """What one commit did to one collection: `removed` first, then `added`.

    A key is added once in the life of a store, with one vector, and removed at
    most once: applying the same changes twice changes nothing.
    """

    seq: int
    removed: Keys
    added: Keys
    vectors: Vectors
    """(len(added), dim) float32."""


def sum_of_squares(vectors: Vectors) -> float:
    """Return the sum of the squares of all numbers, in float32, to judge vectors at a glance.

    Infinite or NaN if one of them is, or if it leaves float32. 0.6 us for 512 numbers, where
    other ways take 2 to 3, and let go of the interpreter's lock once instead of twice.
    """
    return float(np.vdot(vectors, vectors))


def all_finite(vectors: Vectors) -> bool:
    """Tell whether every number is finite."""
    return math.isfinite(sum_of_squares(vectors)) or bool(np.isfinite(vectors).all())


def normalize(vectors: Vectors) -> Vectors:
    """Scale each row to length 1; rows of length 0 stay 0."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms == 0, 1.0, norms), dtype=np.float32)
