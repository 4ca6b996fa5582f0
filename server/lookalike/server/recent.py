"""Some of the latest queries of a collection, remembered to measure recall with."""

from __future__ import annotations

import random

import numpy as np

from lookalike.backends.types import Vectors
from lookalike.server.domain import Vector

MOST = 512
MOST_BYTES = 4 * 2**20
"""Of vectors with more than 2048 numbers fewer are kept, but at least 16."""


class RecentQueries:
    """A sample of queries in which the latest are the likeliest. Any thread.

    Each query takes the place of a random one, so that the chance to be in the sample falls
    with e^(-age / MOST) (Aggarwal, VLDB 2006). In memory only. 0.7 us a query of 512.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[Vector] = []

    def add(self, vectors: Vectors) -> None:
        """Remember (q, dim) queries; of more than there is room for, the last."""
        kept, count = self._kept, len(vectors)
        self.count += count
        if count == 1 and len(kept) >= MOST:  # nearly always
            kept[int(random.random() * MOST)] = vectors[0].copy()
            return
        most = max(16, min(MOST, MOST_BYTES // (4 * vectors.shape[1])))
        for vector in vectors[-most:]:
            if len(kept) < most:
                kept.append(vector.copy())
            else:
                kept[int(random.random() * most)] = vector.copy()

    def forget(self) -> None:
        """Forget all: they are of another model, whose vectors are no longer searched."""
        self._kept = []

    def vectors(self) -> Vectors:
        """Return what is remembered, (n, dim) float32; (0, 0) if nothing is."""
        kept = list(self._kept)
        kept = [vector for vector in kept if len(vector) == len(kept[-1])]
        return np.array(kept, np.float32).reshape(len(kept), -1 if kept else 0)
