"""Set the form of pictures beside the network: a projection, and its share of the cosine.

Both come from pictures of the data folder: the projection from some that teach, the share
from the kinds that are held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.embed._form import SIDE, Form, constants
from lookalike.backends.embed._frame import without_margins
from lookalike.backends.embed._resize import squeeze
from training.export import Joint
from training.measure import kinds

Float = NDArray[np.float32]

_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)
_POWER = 0.25
"""Each direction of the projection is divided by its variance to this power: half-way to
whitening, as for the targets. Measured with 128 of 490, share 0.5: mAP@10 0.380 of held-out
kinds, 0.372 without, and a point less for copies."""


def squares_of(pixels: NDArray[np.uint8], rows: NDArray[np.int64], side: int) -> NDArray[np.uint8]:
    """Return (n, side, side, 3) uint8 of some pictures, as the embedder prepares them."""
    inside = (np.ascontiguousarray(without_margins(pixels[row])) for row in rows)
    squares = [np.rint(squeeze(picture, side)).astype(np.uint8) for picture in inside]
    return np.stack(squares).transpose(0, 2, 3, 1)


def forms_of(pixels: NDArray[np.uint8], rows: NDArray[np.int64], cache: Path) -> Float:
    """Return (n, f) float32 of some pictures, as the embedder prepares them; kept in `cache`."""
    digest = hashlib.sha256(constants().encode() + np.ascontiguousarray(rows).tobytes())
    path = cache / f"forms-{digest.hexdigest()[:16]}.npy"
    if not path.exists():
        form = Form()
        inside = (np.ascontiguousarray(without_margins(pixels[row])) for row in rows)
        forms = np.stack([form(squeeze(picture, SIDE)) for picture in inside])
        unfinished = path.with_suffix(".part")
        with unfinished.open("wb") as file:
            np.save(file, forms)
        unfinished.rename(path)
    return np.asarray(np.load(path), np.float32)


def fit(forms: Float, width: int) -> tuple[Float, Float]:
    """Return the mean (f,) and the matrix (f, width) of a half-whitened PCA of (n, f)."""
    mean = forms.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(forms - mean, full_matrices=False)
    variance = lengths[:width] ** 2 / len(forms)
    matrix = axes[:width].T / variance**_POWER
    return mean.astype(np.float32), matrix.astype(np.float32)


def best_joint(
    teaching: Float,
    width: int,
    vectors: Float,
    forms: Float,
    classes: Sequence[str],
    say: Callable[[str], None],
) -> Joint:
    """Fit to the forms of pictures that teach; choose the share by mAP@10 of held-out ones.

    `vectors` (n, w) are the network's, of length 1, `forms` (n, f) and `classes` of the same
    held-out pictures.
    """
    mean, matrix = fit(teaching, width)
    best, reached = Joint(mean, matrix, 0.5), -1.0
    for share in (0.0, *_SHARES, 1.0):
        joint = Joint(mean, matrix, share)
        knn1, map10 = kinds(joint.join(vectors, forms), classes)
        say(f"share of the form {share:.1f}: held-out kinds kNN-1 {knn1:.4f} mAP@10 {map10:.4f}")
        if share in _SHARES and map10 > reached:
            best, reached = joint, map10
    return best
