"""Altered copies of pictures, as they are met in the wild."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _quarter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = max(1, picture.width // 4), max(1, picture.height // 4)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = round(picture.width * 0.8), round(picture.height * 0.8)
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _blur(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 150))


def _text(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    copy = picture.copy()
    ImageDraw.Draw(copy).text(
        (copy.width // 2, copy.height // 2),
        "SAMPLE TEXT",
        anchor="mm",
        font=ImageFont.load_default(size=max(8, copy.height // 7)),
        fill="white",
        stroke_width=max(1, copy.height // 80),
        stroke_fill="black",
    )
    return copy


CHANGES: dict[str, Change] = {
    "jpeg q10": lambda picture, rng: picture,
    "25 % size": _quarter,
    "crop to 80 %": _crop,
    "blur": _blur,
    "brighter": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(1.5),
    "darker": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(0.5),
    "5 degrees": lambda picture, rng: picture.rotate(5, Image.Resampling.BICUBIC),
    "grayscale": lambda picture, rng: picture.convert("L").convert("RGB"),
    "text over it": _text,
}
"""Crop: 80 % of each side, anywhere. Blur: sigma of 1/150 of the longer side. Brightness:
times 1.5 and 0.5. Rotation: same size, black corners. Text: a seventh of the height."""


def copies(picture: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield each change's name and the copy as a JPEG file (quality 10 or 90)."""
    for name, change in CHANGES.items():
        out = io.BytesIO()
        change(picture, rng).save(out, "JPEG", quality=10 if name == "jpeg q10" else 90)
        yield name, out.getvalue()
