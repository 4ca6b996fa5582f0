"""Pictures that tests make themselves: textured scenes, all different, JPEG or PNG bytes."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def scene(seed: int, width: int = 160, height: int = 120) -> NDArray[np.uint8]:
    """Return (height, width, 3) uint8: soft colour fields, blobs and stripes, one per seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (4, 5, 3)).astype(np.uint8)
    base = np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32
    )
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    for _ in range(5):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(8, width / 3), rng.uniform(8, height / 3)
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
        base[inside] = 0.3 * base[inside] + 0.7 * rng.uniform(0, 255, 3)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 24)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    base += 25 * wave[..., None] * rng.uniform(0, 1, 3).astype(np.float32)
    return np.clip(base, 0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str = "JPEG", **options: object) -> bytes:
    """Return the bytes of an image file of these pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(seed: int) -> bytes:
    """Return the JPEG of `scene(seed)`."""
    return encoded(scene(seed), "JPEG", quality=90)
