"""The readers of pictures: one decoder, one size for every way in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from lookalike.server.images import Decoded, decode, thumbnail
from lookalike.server.limits import Limits
from lookalike.server.models import LoadedModel
from lookalike.server.work_pool import WorkPool

T = TypeVar("T")

THUMBNAIL_SIDE = 256
"""Shorter side in pixels that a thumbnail wants to be cut from."""


class Pictures:
    """Reads pictures on as many threads as there are cores. Any thread.

    Pillow's C code and numpy's large operations release the interpreter lock, so
    reading scales with the threads.
    """

    def __init__(self, limits: Limits, *, threads: int) -> None:
        self._limits = limits
        self._pool = WorkPool(threads, max_waiting=limits.embed_queue_items, name="picture")

    def submit(
        self, call: Callable[[], T], *, deadline: float | None, bulk: bool = False
    ) -> Future[T]:
        """Run work on a picture on a reader's thread. Raises Overloaded, Draining."""
        return self._pool.submit(call, deadline=deadline, bulk=bulk)

    def read(self, data: bytes, model: LoadedModel | None) -> Decoded:
        """Decode a picture, no larger than `model` and a thumbnail need.

        The size depends on the model alone, so that a picture has one vector,
        whether it is stored or searched with.

        Raises ImageUndecodable, ImageFormatUnsupported, ImageTooLarge.
        """
        wanted = THUMBNAIL_SIDE if model is None else model.decode_side
        side = max(wanted, THUMBNAIL_SIDE) if wanted else 0
        return decode(data, max_pixels=self._limits.max_image_pixels, side=side)

    def thumbnail(self, picture: Decoded) -> bytes:
        """Return a JPEG of at most 256 x 256 px."""
        return thumbnail(picture.image)

    def close(self) -> None:
        """Finish what runs, refuse what waits."""
        self._pool.close()
