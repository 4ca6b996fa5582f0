"""What an engine takes in: the added rows of one commit, checked and in order."""

from __future__ import annotations

import numpy as np

from lookalike.backends.errors import DimensionMismatch, VectorNotFinite
from lookalike.backends.types import Changes, Keys, Vectors


def incoming(changes: Changes, dim: int) -> tuple[Keys, Vectors]:
    """Return the added keys, rising and each once, with their vectors, checked.

    Raises DimensionMismatch, VectorNotFinite.
    """
    keys = np.asarray(changes.added, np.int64)
    vectors = changes.vectors
    if not len(keys):
        return keys, vectors
    if vectors.shape != (len(keys), dim):
        raise DimensionMismatch(
            f"The collection has {dim} dimensions, the vectors {vectors.shape[-1]}.",
            expected=dim,
            actual=vectors.shape[-1],
        )
    if not np.isfinite(vectors).all():
        raise VectorNotFinite("A vector has a number that is not finite.")
    if len(keys) > 1 and (np.diff(keys) <= 0).any():
        keys, order = np.unique(keys, return_index=True)
        vectors = vectors[order]
    return keys, vectors
