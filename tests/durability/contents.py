"""What the traffic sends: every version of every item is something else, and can be told."""

from __future__ import annotations

import functools
import hashlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.client import Hnsw, IndexSpec, NewItem
from made_pictures import encoded, scene

VECTORS, PICTURES, KEPT = "vectors", "pictures", "kept"
"""Collections: of bare vectors; of pictures; of pictures whose originals are kept."""
DIM = 16
GRAPH = IndexSpec("faiss", Hnsw(m=8))
"""The index of the vectors: left to itself, "faiss" compares so few with each other."""
_SIDE = (56, 40)
_TURNED = 6
"""The EXIF orientation of a camera that was held upright."""


def vector(content: int) -> NDArray[np.float32]:
    """Return the one vector of a version."""
    return np.random.default_rng(content).standard_normal(DIM).astype(np.float32)


def upright(content: int) -> NDArray[np.uint8]:
    """Return the one picture of a version, as people see it."""
    return scene(content, *_SIDE)


@functools.lru_cache(4096)
def picture(content: int) -> bytes:
    """Return the file of a version; every fourth lies on its side and says so in EXIF."""
    pixels = upright(content)
    if content % 4:
        return encoded(pixels, "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = _TURNED
    file = io.BytesIO()
    Image.fromarray(np.rot90(pixels).copy()).save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue()


def seen(content: int) -> NDArray[np.uint8]:
    """Return the pixels of the file of a version, as people see them."""
    pixels = np.asarray(Image.open(io.BytesIO(picture(content))))
    return pixels if content % 4 else np.rot90(pixels, -1).copy()


def metadata(content: int, version: int) -> dict[str, object]:
    """Return what an item's metadata is at these versions of content and metadata."""
    return {"content": content, "version": version}


def hash_of(collection: str, content: int) -> str:
    """Return the SHA-256 of what is sent."""
    data = vector(content).tobytes() if collection == VECTORS else picture(content)
    return hashlib.sha256(data).hexdigest()


def new_item(collection: str, item_id: str, content: int) -> NewItem:
    """Return the item of a version, as it is first sent."""
    told = metadata(content, content)
    if collection == VECTORS:
        return NewItem(id=item_id, vector=vector(content), metadata=told)
    return NewItem(id=item_id, image=picture(content), metadata=told)
