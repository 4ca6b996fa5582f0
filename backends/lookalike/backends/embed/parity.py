"""Judges how far one way of computing vectors is from another: the parity gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Vectors

NEIGHBOURS = 10
_TILE = 1024
"""Rows compared at a time: 2,000 pictures x 2,000 in double precision would be 32 MB anyway."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a precision has to reach to be used without force."""

    raw_min: float = -1.0
    """Lowest cosine to the reference of any picture."""
    centred_mean: float = -1.0
    overlap: float = -1.0
    batch_min: float = 0.9999
    """Lowest cosine of a picture alone to the same one in a batch."""
    text_min: float = 0.9999
    """Lowest cosine to the reference of any text."""


BARS: Mapping[str, Bar] = {
    "fp32": Bar(raw_min=0.99999, batch_min=0.99999, text_min=0.99999),
    "bf16": Bar(raw_min=0.9999),
    "fp16": Bar(raw_min=0.9999),
    "int8": Bar(centred_mean=0.99, overlap=0.95, batch_min=0.999),
}
"""By precision. bf16 of a ViT-B/32 with random weights: 0.99994 raw, 0.998 centred."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cosines of n pictures' vectors to those of a reference.

    Raw cosines of CLIP flatter: all its vectors lie in a narrow cone. `centred`
    ones are taken after the reference's mean is subtracted from both. `overlap`
    is the mean share of a picture's 10 nearest others (by cosine, in the
    reference) that are its 10 nearest with these vectors, too.
    """

    pictures: int
    raw_min: float
    raw_mean: float
    centred_min: float
    centred_mean: float
    overlap: float
    batch_min: float
    text_min: float = 1.0
    """Of texts; 1 where the model reads none."""

    def faults(self, precision: str) -> list[str]:
        """Return what is below the bar of this precision, in words."""
        bar = BARS[precision]
        found = []
        for name, what in _WORDS.items():
            value, least = getattr(self, name), getattr(bar, name)
            if not value >= least:  # NaN is below everything
                found.append(f"{what} {value:.6f}, wanted {least:g}")
        return found

    def as_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for anything else than `as_record` made."""
        numbers = {name: float(record[name]) for name in cls.__slots__ if name != "pictures"}
        return cls(pictures=int(record["pictures"]), **numbers)


_WORDS = {
    "raw_min": "lowest cosine",
    "centred_mean": "mean centred cosine",
    "overlap": "neighbour overlap",
    "batch_min": "lowest cosine of alone to in a batch",
    "text_min": "lowest cosine of texts",
}


def compare(
    reference: Vectors,
    found: Vectors,
    alone: Vectors,
    texts: tuple[Vectors, Vectors] | None = None,
) -> Comparison:
    """Compare (n, dim) vectors of the same n > 1 pictures.

    `alone` are those of the first len(alone) pictures, each embedded by itself;
    `texts` are the reference's vectors of some texts, and those found. Overlap is 1 by definition where there are no 11 pictures.
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    raw, centred = cosines(reference, found), cosines(reference - mean, found - mean)
    return Comparison(
        pictures=len(reference),
        raw_min=float(raw.min()),
        raw_mean=float(raw.mean()),
        centred_min=float(centred.min()),
        centred_mean=float(centred.mean()),
        overlap=_overlap(reference, found),
        batch_min=float(cosines(found[: len(alone)], alone).min()),
        text_min=float(cosines(*texts).min()) if texts is not None else 1.0,
    )


def cosines(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Return (n,) cosines of rows in double precision; that of a zero row is NaN."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.einsum("ij,ij->i", a, b) / lengths)


def _overlap(reference: Vectors, found: Vectors) -> float:
    if len(reference) <= NEIGHBOURS:
        return 1.0
    shares = [
        len(np.intersect1d(one, other)) / NEIGHBOURS
        for one, other in zip(_nearest(reference), _nearest(found), strict=True)
    ]
    return float(np.mean(shares))


def _nearest(vectors: Vectors) -> NDArray[np.int64]:
    """Return (n, 10) rows of the nearest others."""
    units = vectors.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-30)
    found = []
    for start in range(0, len(units), _TILE):
        products = units[start : start + _TILE] @ units.T
        rows = np.arange(len(products))
        products[rows, start + rows] = -np.inf
        found.append(np.argpartition(-products, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS])
    return np.concatenate(found).astype(np.int64)
