"""Draws pictures where there are no photographs to measure with."""

from __future__ import annotations

import numpy as np

from lookalike.backends.types import RgbImage

NAME = "drawn/1"
"""Version of the pictures; the same version and count give the same pixels."""
_SEED = 20240607


def drawn(count: int, height: int = 240, width: int = 320) -> list[RgbImage]:
    """Return `count` pictures of (height, width, 3), the same ones at each call."""
    rng = np.random.default_rng(_SEED)
    return [dead_leaves(rng, height, width) for _ in range(count)]


def dead_leaves(rng: np.random.Generator, height: int = 96, width: int = 128) -> RgbImage:
    """Draw overlapping striped discs of random size, place and colour.

    Such pictures have edges and colours in about the proportions of photographs
    (Lee, Mumford & Huang, "Occlusion models for natural images", IJCV 2001), but
    show nothing: what is measured on them holds for numerics, not for meaning.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.broadcast_to(rng.uniform(0, 255, 3), (height, width, 3)).copy()
    for _ in range(30):
        radius = min(0.05 * rng.pareto(1.5) + 0.04, 0.4) * max(height, width)
        cy, cx, turn = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0, np.pi)
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        along = x[inside] * np.cos(turn) + y[inside] * np.sin(turn)
        stripes = rng.uniform(0, 60) * np.sin(along * rng.uniform(0.05, 0.8))
        picture[inside] = rng.uniform(0, 255, 3) + stripes[:, None]
    return picture.clip(0, 255).astype(np.uint8)
