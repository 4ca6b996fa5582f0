"""The readers of pictures: one decoder, one size for every way in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

import numpy as np

from lookalike.backends.errors import InvalidArgument
from lookalike.backends.types import RgbImage
from lookalike.server.domain import ExifMode, Json, Region
from lookalike.server.images import Decode, Decoded, decode, exif, thumbnail
from lookalike.server.limits import Limits
from lookalike.server.models import LoadedModel
from lookalike.server.work_pool import WorkPool

T = TypeVar("T")

THUMBNAIL_SIDE = 256
"""Shorter side in pixels that a thumbnail wants to be cut from."""
LEAST_REGION_SIDE = 16
"""Pixels of the full picture; less shows nothing that could be recognised."""


class Pictures:
    """Reads pictures on as many threads as there are cores. Any thread.

    Pillow's C code and numpy's large operations release the interpreter lock, so
    reading scales with the threads. One more is there for those who wait for an
    answer. Bulk work pauses while `hold` says that what was read is not wanted yet.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        threads: int,
        decode: Decode = decode,
        hold: Callable[[], bool] = lambda: False,
        patience_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._limits = limits
        self._decode = decode
        self._pool = WorkPool(
            threads + 1,
            max_waiting=limits.embed_queue_items,
            max_bytes=limits.embed_queue_bytes,
            name="picture",
            hold=hold,
            patience_s=patience_s,
        )

    def submit(
        self,
        call: Callable[[], T],
        *,
        deadline: float | None,
        bulk: bool = False,
        size: int = 0,
    ) -> Future[T]:
        """Run work on a picture of `size` bytes on a reader's thread.

        Raises Overloaded, Draining.
        """
        return self._pool.submit(call, deadline=deadline, bulk=bulk, size=size)

    def read(self, data: bytes, model: LoadedModel | None, region: Region | None = None) -> Decoded:
        """Decode a picture, or a part of it, no larger than `model` and a thumbnail need.

        The size depends on the model alone, so that a picture has one vector,
        whether it is stored or searched with. A part keeps as many pixels as the
        model wants of a whole picture; `width` and `height` are those of the whole.

        Raises what decoding raises, and InvalidArgument (field "region") for a part of
        less than 16 pixels a side.
        """
        wanted = THUMBNAIL_SIDE if model is None else model.decode_side
        side = max(wanted, THUMBNAIL_SIDE) if wanted else 0
        if region is not None:
            side = math.ceil(side / min(region.width, region.height))
        picture = self._decode(data, max_pixels=self._limits.max_image_pixels, side=side)
        if region is None:
            return picture
        return replace(picture, image=_cut(picture, region))

    def thumbnail(self, picture: Decoded) -> bytes:
        """Return a JPEG of at most 256 x 256 px."""
        return thumbnail(picture.image)

    def close(self) -> None:
        """Finish what runs, refuse what waits."""
        self._pool.close()


def with_exif(metadata: Json, data: bytes, width: int, height: int, mode: ExifMode) -> Json:
    """Return an item's metadata with what its picture's file says; what it brings goes first."""
    own = metadata.get("exif", {})
    if not isinstance(own, Mapping):
        return metadata
    found = exif.read(data, position=mode is ExifMode.WITH_POSITION)
    size = {"width": float(width), "height": float(height)}
    return {**metadata, "exif": {**found, **size, **own}}


def _cut(picture: Decoded, region: Region) -> RgbImage:
    """Return a copy of a part; at least one pixel, however far the picture was shrunk."""
    width, height = round(region.width * picture.width), round(region.height * picture.height)
    if min(width, height) < LEAST_REGION_SIDE:
        raise InvalidArgument(
            f"The region is {width} x {height} pixels of a picture of {picture.width} x "
            f"{picture.height}; {LEAST_REGION_SIDE} a side is the least. Choose a larger one.",
            field="region",
            limit=LEAST_REGION_SIDE,
        )
    rows, columns, _ = picture.image.shape
    left, right = _edges(region.left, region.width, columns)
    top, bottom = _edges(region.top, region.height, rows)
    return np.ascontiguousarray(picture.image[top:bottom, left:right])


def _edges(start: float, length: float, pixels: int) -> tuple[int, int]:
    first = min(round(start * pixels), pixels - 1)
    return first, min(max(round((start + length) * pixels), first + 1), pixels)
