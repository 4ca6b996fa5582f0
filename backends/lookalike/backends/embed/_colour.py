"""Colour: Oklab, and a histogram of what colours a picture has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def oklab(planes: Float) -> Float:
    """Convert (3, ...) sRGB planes in 0..255 to Oklab planes of the same shape.

    L is in 0..1, a and b in about -0.3..0.3. Distances are nearly those that
    people see, at the cost of one cube root (Ottosson, "A perceptual color space
    for image processing", 2020; sRGB's curve is that of IEC 61966-2-1). Any thread.
    """
    value = planes.reshape(3, -1) * np.float32(1 / 255)
    light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    cones = np.asarray(_TO_CONES, np.float32) @ light.astype(np.float32)
    lab = np.asarray(_TO_LAB, np.float32) @ np.cbrt(cones)
    return np.asarray(lab.reshape(planes.shape), dtype=np.float32)


class ColourHistogram:
    """Count the colours of a picture in 37 soft bins: 5 greys, 2 x 16 hues.

    After Swain & Ballard, "Color Indexing" (IJCV 1991), with three changes:
    neighbouring bins share a pixel in proportion (no jump at a border); how much
    of a pixel goes into the hues rises with its chroma, so that the hue of an
    almost grey pixel, which is noise, counts for little; and counts are compared
    by their roots (Hellinger; Arandjelovic & Zisserman, CVPR 2012).
    """

    greys = (0.1, 0.95)
    """L of the first and the last of the five grey bins."""
    lights = (0.35, 0.75)
    """L of the dark and the light hues."""
    pale, vivid = 0.06, 0.16
    """Chroma of the 16 pale bins, and from where on only the 16 vivid ones count."""
    hues = 8
    spread = 1.0
    """Of the weight around the middle that the embedder gives."""
    dim = 5 + 4 * hues

    def __call__(self, lab: Float, weight: Float) -> Float:
        """Return (37,) float32, length 1, of (3, n) Oklab pixels that count (n,). Any thread."""
        light, chroma = lab[0], np.hypot(lab[1], lab[2])
        colour = np.clip(chroma / self.pale, 0, 1)
        strong = np.clip((chroma - self.pale) / (self.vivid - self.pale), 0, 1)
        dark = 1 - np.clip((light - self.lights[0]) / (self.lights[1] - self.lights[0]), 0, 1)
        turn = np.arctan2(lab[2], lab[1]) * np.float32(self.hues / (2 * np.pi))
        away = np.abs(turn - np.arange(self.hues, dtype=np.float32)[:, None])
        hue = np.maximum(0, 1 - np.minimum(away, np.abs(self.hues - away)))  # once around at most
        kinds = np.stack(
            [
                colour * (1 - strong) * dark,
                colour * (1 - strong) * (1 - dark),
                strong * dark,
                strong * (1 - dark),
            ]
        )
        step = (self.greys[1] - self.greys[0]) / 4
        place = np.clip((light - self.greys[0]) / step, 0, 4)
        grey = np.maximum(0, 1 - np.abs(place - np.arange(5, dtype=np.float32)[:, None]))
        counts = np.concatenate(
            [grey @ (weight - weight * colour), (kinds * weight @ hue.T).ravel()]
        )
        return np.asarray(np.sqrt(counts / counts.sum()), dtype=np.float32)
