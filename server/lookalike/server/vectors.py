"""What becomes of a vector that is brought along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from lookalike.backends.errors import (
    DimensionMismatch,
    LookalikeError,
    VectorNotFinite,
    VectorZero,
)
from lookalike.backends.types import Metric
from lookalike.server.domain import CollectionConfig, Vector

_ROUNDING: Final = 2.0**-22
"""A length that differs from 1 by so little may be the rounding of float32 numbers."""


def as_kept(vector: Vector, config: CollectionConfig) -> Vector:
    """Return a (dim,) vector as its collection keeps it: of length 1 if cosine.

    Raises DimensionMismatch, VectorNotFinite, VectorZero.
    """
    if len(vector) != config.dimension:
        raise DimensionMismatch(
            f"The vector has {len(vector)} numbers; the collection {config.name!r} has "
            f"{config.dimension}.",
            field="vector",
            expected=config.dimension,
            actual=len(vector),
        )
    wide = vector.astype(np.float64)
    length = math.sqrt(wide.dot(wide))  # as large as they may be, squares fit float64
    if not math.isfinite(length):
        raise VectorNotFinite("The vector has a number that is not finite.", field="vector")
    if config.metric is not Metric.COSINE or abs(length - 1.0) <= _ROUNDING:
        # Of length 1 already, but for rounding: what was read comes back bit by bit.
        return np.ascontiguousarray(vector, dtype=np.float32)
    if not length:
        raise VectorZero(
            "The vector is all zero, which has no direction to compare.", field="vector"
        )
    return np.ascontiguousarray(wide / length, np.float32)


def all_as_kept(
    vectors: Sequence[Vector], config: CollectionConfig
) -> list[Vector | LookalikeError]:
    """Do for many vectors at once what `as_kept` does for one, bit by bit the same.

    Returns for each the vector, a row of one matrix, or what is wrong with it.
    """
    if any(vector.shape != (config.dimension,) for vector in vectors):
        return [_kept_or_error(vector, config) for vector in vectors]
    kept = np.array(vectors, np.float32).reshape(len(vectors), config.dimension)
    wide = kept.astype(np.float64)
    lengths = np.sqrt(np.vecdot(wide, wide))
    bad = ~np.isfinite(lengths)
    if config.metric is Metric.COSINE:
        bad |= lengths == 0.0
        far = np.flatnonzero(~bad & (np.abs(lengths - 1.0) > _ROUNDING))
        if len(far):
            kept[far] = wide[far] / lengths[far, np.newaxis]
    out: list[Vector | LookalikeError] = list(kept)
    for i in np.flatnonzero(bad).tolist():
        out[i] = _kept_or_error(vectors[i], config)
    return out


def _kept_or_error(vector: Vector, config: CollectionConfig) -> Vector | LookalikeError:
    try:
        return as_kept(vector, config)
    except LookalikeError as error:
        return error
