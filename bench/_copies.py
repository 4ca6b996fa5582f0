"""Altered copies of pictures, as they are met in the wild."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _quarter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = max(1, picture.width // 4), max(1, picture.height // 4)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _crop(picture: Image.Image, rng: np.random.Generator, share: float = 0.8) -> Image.Image:
    width = max(1, round(picture.width * share))
    height = max(1, round(picture.height * share))
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


def _border(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put it on a page of one colour, off the middle, as a screenshot shows it."""
    wide, high = round(picture.width * 1.3), round(picture.height * 1.4)
    page = Image.new("RGB", (wide, high), tuple(int(c) for c in rng.integers(0, 256, 3)))
    left = int(rng.integers(0, wide - picture.width + 1))
    top = int(rng.integers(0, high - picture.height + 1))
    page.paste(picture, (left, top))
    return page


def _all_at_once(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    turned = _crop(picture, rng).rotate(5, Image.Resampling.BICUBIC)
    return ImageOps.mirror(_text(turned, rng))


CHANGES: dict[str, Change] = {
    "jpeg q10": lambda picture, rng: picture,
    "jpeg q30": lambda picture, rng: picture,
    "25 % size": _quarter,
    "crop to 80 %": _crop,
    "crop to 50 %": lambda picture, rng: _crop(picture, rng, 0.5),
    "blur": _blur,
    "brighter": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(1.5),
    "darker": lambda picture, rng: ImageEnhance.Brightness(picture).enhance(0.5),
    "5 degrees": lambda picture, rng: picture.rotate(5, Image.Resampling.BICUBIC),
    "grayscale": lambda picture, rng: picture.convert("L").convert("RGB"),
    "text over it": _text,
    "mirrored": lambda picture, rng: ImageOps.mirror(picture),
    "border": _border,
    "all at once": _all_at_once,
}
"""Crop: 80 or 50 % of each side, anywhere. Blur: sigma of 1/150 of the longer side. Brightness:
times 1.5 and 0.5. Rotation: same size, black corners. Text: a seventh of the height.
Border: 0.3 of the width and 0.4 of the height, of one colour. All at once: cropped to 80 %,
turned, captioned, mirrored, quality 20."""
_QUALITY = {"jpeg q10": 10, "jpeg q30": 30, "all at once": 20}


def copies(picture: Image.Image, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield each change's name and the copy as a JPEG file (quality 90 if its name says no other)."""
    for name, change in CHANGES.items():
        out = io.BytesIO()
        change(picture, rng).save(out, "JPEG", quality=_QUALITY.get(name, 90))
        yield name, out.getvalue()
