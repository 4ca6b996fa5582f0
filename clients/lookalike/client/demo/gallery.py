"""Renders a gallery worth searching in: things in many colours, lights and places, and copies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.client.demo._objects import Rgb, Thing, things
from lookalike.client.demo._render import Ground, Light, Sight, View

if TYPE_CHECKING:
    from PIL import Image

_COLORS: dict[str, Rgb] = {
    "red": (0.68, 0.05, 0.04),
    "blue": (0.04, 0.17, 0.58),
    "yellow": (0.88, 0.56, 0.03),
    "green": (0.07, 0.38, 0.12),
    "orange": (0.85, 0.27, 0.02),
    "purple": (0.29, 0.08, 0.42),
    "pink": (0.85, 0.28, 0.42),
    "white": (0.85, 0.84, 0.8),
    "black": (0.04, 0.04, 0.05),
    "turquoise": (0.03, 0.48, 0.47),
}
_LIGHTS: dict[str, tuple[Rgb, Rgb]] = {
    "neutral": ((0.95, 0.92, 0.87), (0.36, 0.38, 0.42)),
    "warm": ((1.25, 0.83, 0.46), (0.38, 0.3, 0.27)),
    "cold": ((0.6, 0.78, 1.05), (0.25, 0.36, 0.52)),
}
_DIRECTIONS = (
    (0.7, 1.0, 0.5),
    (-0.9, 0.9, 0.6),
    (0.3, 1.3, 0.9),
    (-0.5, 1.1, -0.2),
    (1.2, 0.8, 0.2),
)
_GROUNDS: dict[str, Ground] = {
    "studio": Ground("plain", (0.74, 0.72, 0.69), (0.6, 0.58, 0.56), (0.52, 0.54, 0.57)),
    "wood": Ground("wood", (0.5, 0.29, 0.14), (0.29, 0.15, 0.06), (0.5, 0.43, 0.36)),
    "checker": Ground("checker", (0.8, 0.79, 0.76), (0.2, 0.23, 0.3), (0.32, 0.4, 0.5)),
    "grass": Ground("grass", (0.16, 0.36, 0.09), (0.27, 0.5, 0.13), (0.42, 0.62, 0.85)),
    "night": Ground("plain", (0.1, 0.1, 0.16), (0.05, 0.05, 0.09), (0.05, 0.06, 0.12)),
    "stripes": Ground("stripes", (0.78, 0.62, 0.5), (0.6, 0.33, 0.27), (0.75, 0.6, 0.52)),
}
_VIEWS = 2
_PAINTS = 2
"""Of each view: another colour, light and ground."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One file of the gallery."""

    id: str
    """Its path below the folder, with slashes."""
    path: Path
    metadata: dict[str, object]
    """object, colour, light, background, kind, price, tags; copy_of and transform of copies."""


def render_gallery(folder: Path, *, seed: int = 7) -> list[Picture]:
    """Write the gallery's pictures below a folder and return them; the same for the same seed.

    JPEG and PNG, 320 x 240: renders first, then altered copies of some. Needs Pillow,
    which comes with lookalike[server]. Raises OSError.
    """
    rng = random.Random(seed)
    renders = [picture for thing in things() for picture in _render_thing(folder, thing, rng)]
    originals = [renders[i] for i in range(0, len(renders), _VIEWS * _PAINTS)]
    names = list(_TRANSFORMS)
    copies = []
    for i, original in enumerate(originals):
        # Every transform comes in turn, two for each thing.
        for name in (names[2 * i % len(names)], names[(2 * i + 1) % len(names)]):
            copies.append(_copy(folder, original, name))
    return renders + copies


def _render_thing(folder: Path, thing: Thing, rng: random.Random) -> list[Picture]:
    """Render one thing from several views, each in several paints."""
    from PIL import Image

    pictures: list[Picture] = []
    colors = rng.sample(list(_COLORS), _VIEWS * _PAINTS)
    turn = rng.uniform(0.3, 0.8)
    for view in range(_VIEWS):
        sight = Sight(
            thing,
            View(
                turn if view == 0 else -turn - rng.uniform(0.1, 0.5),
                rng.uniform(0.2, 0.45),
                rng.uniform(1.12, 1.45),
                (rng.uniform(-0.12, 0.12), rng.uniform(-0.03, 0.03)),
            ),
        )
        direction = rng.choice(_DIRECTIONS)
        lights = rng.sample(list(_LIGHTS), _PAINTS)
        grounds = rng.sample(list(_GROUNDS), _PAINTS)
        for light, ground in zip(lights, grounds, strict=True):
            color = colors[len(pictures)]
            pixels = sight.paint(
                _COLORS[color], Light(direction, *_LIGHTS[light]), _GROUNDS[ground]
            )
            ending = "png" if len(pictures) == _PAINTS else "jpg"
            name = f"{thing.name}/{color}-{light}-{ground}.{ending}"
            metadata: dict[str, object] = {
                "object": thing.name,
                "colour": color,
                "light": light,
                "background": ground,
                "kind": "render",
                "price": round(thing.price * rng.uniform(0.8, 1.4), 2),
                "tags": list(thing.tags),
            }
            _save(Image.fromarray(pixels), folder / name)
            pictures.append(Picture(name, folder / name, metadata))
    return pictures


def _save(image: Image.Image, path: Path, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        image.save(path, "PNG", compress_level=4)
    else:
        image.save(path, "JPEG", quality=quality)


def _copy(folder: Path, original: Picture, transform: str) -> Picture:
    from PIL import Image

    name = f"copies/{original.metadata['object']}-{transform}.jpg"
    with Image.open(original.path, formats=["JPEG", "PNG"]) as image:
        altered = _TRANSFORMS[transform](image.convert("RGB"))
    _save(altered, folder / name, quality=10 if transform == "jpeg-10" else 90)
    metadata = {
        **original.metadata,
        "kind": "copy",
        "copy_of": original.id,
        "transform": transform,
    }
    return Picture(name, folder / name, metadata)


def _crop(image: Image.Image) -> Image.Image:
    """Keep 80 % of each side."""
    width, height = image.size
    return image.crop((width // 8, height // 10, width // 8 + width * 4 // 5, height * 9 // 10))


def _gray(image: Image.Image) -> Image.Image:
    return image.convert("L").convert("RGB")


def _lettered(image: Image.Image) -> Image.Image:
    """Lay a ribbon with words over the picture."""
    from PIL import ImageDraw, ImageFont

    out = image.copy()
    draw = ImageDraw.Draw(out)
    draw.rectangle((0, 184, 320, 222), fill=(250, 250, 250))
    draw.text((160, 203), "SUMMER SALE", (200, 30, 40), ImageFont.load_default(24), anchor="mm")
    return out


def _brightness(factor: float) -> Callable[[Image.Image], Image.Image]:
    def apply(image: Image.Image) -> Image.Image:
        return image.point([min(255, int(value * factor)) for value in range(256)] * 3)

    return apply


def _tilted(image: Image.Image) -> Image.Image:
    """Turn by 5 degrees and cut the corners off."""
    from PIL import Image

    width, height = image.size
    turned = image.rotate(5, Image.Resampling.BICUBIC)
    return turned.crop((width // 16, height // 14, width * 15 // 16, height * 13 // 14))


def _small(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def _blurred(image: Image.Image) -> Image.Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(2.5))


_TRANSFORMS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "crop-80": _crop,
    "jpeg-10": lambda image: image,
    "gray": _gray,
    "text": _lettered,
    "darker": _brightness(0.55),
    "brighter": _brightness(1.45),
    "turned-5": _tilted,
    "half-size": _small,
    "blurred": _blurred,
}
