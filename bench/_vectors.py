"""Vectors to measure with: made ones, embedded photographs, public HDF5 files; and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TOP = 10


@dataclass(frozen=True)
class Dataset:
    """Vectors to store, queries, and the ten nearest of each query by cosine."""

    name: str
    vectors: Floats
    queries: Floats
    truth: NDArray[np.int64]


def clustered(count: int, queries: int = 1000, dim: int = 512, seed: int = 1) -> Dataset:
    """Make vectors like those of pictures: clusters of uneven size on a curved surface.

    2,000 centres with sizes like 1 / sqrt(rank) in 48 dimensions, points around them, bent
    into `dim` dimensions by tanh between two random maps; noise of a quarter of the length
    in all directions, and a common offset of 0.6, as CLIP's vectors have one. Queries are
    drawn likewise and are none of the points.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((2000, 48), np.float32)
    share = 1 / np.sqrt(np.arange(1, 2001))
    first = rng.standard_normal((48, 256), np.float32) / np.sqrt(48).astype(np.float32)
    second = rng.standard_normal((256, dim), np.float32) / np.float32(16)
    offset = 0.6 * _unit(rng.standard_normal((1, dim), np.float32))

    def draw(n: int) -> Floats:
        out = np.empty((n, dim), np.float32)
        for start in range(0, n, 50_000):
            size = min(50_000, n - start)
            chosen = rng.choice(2000, size, p=share / share.sum())
            latent = centres[chosen] + 0.55 * rng.standard_normal((size, 48), np.float32)
            bent = _unit(np.tanh(latent @ first) @ second)
            noise = 0.25 * _unit(rng.standard_normal((size, dim), np.float32))
            out[start : start + size] = _unit(bent + noise + offset)
        return out

    vectors, asked = draw(count), draw(queries)
    return Dataset(
        f"clustered {count} x {dim}, seed {seed}", vectors, asked, nearest(vectors, asked)
    )


def from_npz(path: Path, queries: int = 200, seed: int = 1) -> Dataset:
    """Read what `lookalike embed --out FILE.npz` wrote; some of its rows are the queries."""
    with np.load(path) as file:
        rows = np.asarray(file["vectors"], np.float32)
    rows = _unit(rows[np.random.default_rng(seed).permutation(len(rows))])
    vectors, asked = rows[queries:], rows[:queries]
    return Dataset(path.name, vectors, asked, nearest(vectors, asked))


def from_hdf5(path: Path, queries: int = 1000) -> Dataset:
    """Read a data set as ann-benchmarks has them ("train" and "test"); needs h5py."""
    import h5py

    with h5py.File(path, "r") as file:
        vectors = _unit(np.asarray(file["train"], np.float32))
        asked = _unit(np.asarray(file["test"][:queries], np.float32))
    return Dataset(path.name, vectors, asked, nearest(vectors, asked))


def nearest(vectors: Floats, queries: Floats, k: int = TOP) -> NDArray[np.int64]:
    """Return the k nearest rows of each query by inner product, in bounded memory."""
    best_scores = np.full((len(queries), 0), 0, np.float32)
    best_rows = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), 65_536):
        scores = queries @ vectors[start : start + 65_536].T
        rows = np.argpartition(-scores, min(k, scores.shape[1] - 1), axis=1)[:, :k]
        best_scores = np.hstack([best_scores, np.take_along_axis(scores, rows, 1)])
        best_rows = np.hstack([best_rows, rows + start])
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_scores = np.take_along_axis(best_scores, order, 1)
        best_rows = np.take_along_axis(best_rows, order, 1)
    return best_rows


def recall(found: list[list[int]], truth: NDArray[np.int64]) -> float:
    """Return the mean share of the true rows among those found."""
    shares = [len(set(f) & set(t)) / len(t) for f, t in zip(found, truth.tolist(), strict=True)]
    return float(np.mean(shares))


def _unit(rows: Floats) -> Floats:
    out: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return out
