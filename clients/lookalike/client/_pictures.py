"""Pictures of any kind as the bytes of an image file."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.client.errors import FileUnreadable, InvalidArgument, PillowMissing

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Picture: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[Any] | PillowImage"
)
"""A path, the bytes of an image file, a Pillow image, or (h, w[, 1, 3 or 4]) uint8."""


def picture_bytes(picture: Picture) -> bytes:
    """Return the bytes of an image file; pictures in memory become PNG.

    Raises:
        FileUnreadable: there is no such file, or it cannot be read.
        InvalidArgument: an array of another shape or type.
        PillowMissing: a picture in memory, and Pillow is not installed.
        TypeError: none of the kinds that this takes.
    """
    if isinstance(picture, (str, os.PathLike)):
        return read_file(Path(picture))
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, np.ndarray):
        return _png_of_array(picture)
    if hasattr(picture, "save") and hasattr(picture, "mode"):
        return _png_of_pillow(picture)
    raise TypeError(
        f"A picture must be a path, bytes, a Pillow image or an array, not a "
        f"{type(picture).__name__}."
    )


def read_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Return a file's content; at most `max_bytes` + 1 of it, so that none fills the memory.

    Raises:
        FileUnreadable: with the operating system's reason.
    """
    try:
        with path.open("rb") as file:
            return file.read() if max_bytes is None else file.read(max_bytes + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise FileUnreadable(f"{path} cannot be read: {why}.") from None
    except ValueError as error:  # a NUL in the name
        raise FileUnreadable(f"{path!r} cannot be read: {error}.") from None


def _pillow() -> Any:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise PillowMissing(
            "Sending a picture from memory needs Pillow. Install it (pip install pillow), "
            "or pass the path or the bytes of an image file."
        ) from None
    return PIL


def _png_of_array(array: NDArray[Any]) -> bytes:
    pixels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    shape_is_right = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not shape_is_right or 0 in pixels.shape:
        raise InvalidArgument(
            f"An array picture must be (height, width), or with 1, 3 or 4 channels, of uint8; "
            f"this is {array.shape} of {array.dtype}.",
            field="image",
        )
    return _png_of_pillow(_pillow().Image.fromarray(np.ascontiguousarray(pixels)))


def _png_of_pillow(picture: Any) -> bytes:
    upright = _pillow().ImageOps.exif_transpose(picture)
    if upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        upright = upright.convert("RGB")
    out = io.BytesIO()
    # Level 1: a PNG that is sent once is not worth the time of a small one.
    upright.save(out, format="PNG", compress_level=1)
    return out.getvalue()
