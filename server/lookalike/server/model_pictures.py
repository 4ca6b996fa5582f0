"""Reads photographs of a folder, to calibrate a model with or to compare it on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lookalike.backends.errors import LookalikeError, ModelInvalid
from lookalike.backends.types import RgbImage
from lookalike.server.images import decode
from lookalike.server.limits import Limits

_log = logging.getLogger(__name__)

CALIBRATION: Final = 128
"""Pictures to calibrate with: ranges of activations, which more pictures hardly move."""
_SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def picture_files(folder: Path, most: int) -> list[Path]:
    """Return up to `most` picture files below a folder, spread evenly over them by name."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    count = min(most, len(found))
    return [found[index * len(found) // count] for index in range(count)]


def pictures(files: Sequence[Path], side: int = 0) -> Iterator[RgbImage]:
    """Decode files one after another, leaving out those that are no pictures.

    `side` as for `decode`. Your own files: they are decoded in this process.
    """
    limits = Limits()
    for path in files:
        try:
            if path.stat().st_size <= limits.max_image_bytes:
                data = path.read_bytes()
                yield decode(data, max_pixels=limits.max_image_pixels, side=side).image
        except (LookalikeError, OSError) as error:
            _log.debug("a file is left out: %s", type(error).__name__)


def calibration_pictures(folder: Path) -> list[RgbImage]:
    """Return pictures of a folder to calibrate with. Raises ModelInvalid if there are none."""
    found = list(pictures(picture_files(folder, CALIBRATION), side=512))
    if not found:
        raise ModelInvalid(
            "The folder of calibration has no pictures. Name one with some hundred photographs."
        )
    return found
