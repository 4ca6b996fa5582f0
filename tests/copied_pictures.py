"""Pictures full of things, copies of them as they are met in the wild, and lookalikes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

Pixels = NDArray[np.uint8]


def things(seed: int, moved: float = 0.0, width: int = 320, height: int = 240) -> Pixels:
    """Return 90 things strewn over a shaded ground; `moved`: each by so many pixels at most.

    The same seed with another `moved` is another photograph of the same things.
    """
    rng, hand = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    shades = rng.integers(40, 216, (3, 3, 3)).astype(np.uint8)
    picture = Image.fromarray(shades).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(90):
        x, y = rng.uniform(0, (width, height)) + hand.uniform(-moved, moved, 2)
        w, h = rng.uniform(4, 28, 2)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=colour)
    return np.asarray(picture)


def _crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = round(picture.width * 0.8), round(picture.height * 0.8)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _text(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    copy = picture.copy()
    ImageDraw.Draw(copy).text(
        (copy.width // 2, copy.height // 2),
        "SAMPLE TEXT",
        anchor="mm",
        font=ImageFont.load_default(size=copy.height // 7),
        fill="white",
        stroke_width=2,
        stroke_fill="black",
    )
    return copy


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "saved anew": lambda picture, rng: picture,
    "smaller": lambda picture, rng: picture.resize((picture.width // 3, picture.height // 3)),
    "larger": lambda picture, rng: picture.resize((picture.width * 2, picture.height * 2)),
    "cropped": _crop,
    "grey": lambda picture, rng: ImageOps.grayscale(picture).convert("RGB"),
    "written on": _text,
    "darker": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(0.6),
    "brighter": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(1.3),
    "framed": lambda picture, rng: ImageOps.expand(picture, 14, (250, 250, 245)),
    "squeezed": lambda picture, rng: picture.resize((200, 200)),
}


def altered(pixels: Pixels, change: str, seed: int = 0) -> bytes:
    """Return a JPEG file of a changed copy; quality 10 for one that was saved anew."""
    copy = CHANGES[change](Image.fromarray(pixels), np.random.default_rng([seed, 2]))
    out = io.BytesIO()
    copy.save(out, "JPEG", quality=10 if change == "saved anew" else 85)
    return out.getvalue()
