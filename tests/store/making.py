"""Things that the tests of the store make."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np

from lookalike.server.domain import (
    CollectionConfig,
    CollectionRecord,
    ImageRecord,
    Json,
    ReadyItem,
    Vector,
    WriteMode,
    WriteResult,
)
from lookalike.server.store import Store, Transaction

T = TypeVar("T")
DIM = 4


def vector(*values: float, dim: int = DIM) -> Vector:
    """Return a vector that begins with the values and goes on with zeros."""
    made = np.zeros(dim, np.float32)
    made[: len(values)] = values
    return made


def item(
    item_id: str,
    value: float | Vector = 1.0,
    metadata: Json | None = None,
    *,
    thumbnail: bytes | None = None,
    original: bytes | None = None,
) -> ReadyItem:
    """Return an item whose digest is over all that it has."""
    made = value if isinstance(value, np.ndarray) else vector(value)
    image = None
    if thumbnail is not None or original is not None:
        data = original or b""
        sha256 = hashlib.sha256(data).hexdigest()
        image = ImageRecord(
            640, 480, "image/png", len(data), sha256, thumbnail is not None, original is not None
        )
    told = repr((made.tobytes(), sorted((metadata or {}).items()), thumbnail, original))
    return ReadyItem(
        id=item_id,
        vector=made,
        metadata=metadata or {},
        digest=hashlib.sha256(told.encode()).digest(),
        image=image,
        thumbnail=thumbnail,
        original=original,
    )


def do(store: Store, op: Callable[[Transaction], T]) -> T:
    """Run an operation and wait for it."""
    return store.write(op).result(timeout=30)


def create(store: Store, name: str = "default", dim: int = DIM) -> CollectionRecord:
    """Make a collection."""
    return do(store, lambda t: t.create_collection(CollectionConfig(name, dimension=dim), "space"))


def put(
    store: Store, number: int, items: Iterable[ReadyItem], mode: WriteMode = WriteMode.UPSERT
) -> list[WriteResult]:
    """Store items in one operation."""
    made = list(items)
    return do(store, lambda t: t.put(number, made, mode))


def putting(number: int, *items: ReadyItem) -> Callable[[Transaction], list[WriteResult]]:
    """Return the operation that stores the items."""
    return lambda t: t.put(number, items, WriteMode.UPSERT)


def deleting(number: int, *ids: str) -> Callable[[Transaction], int]:
    """Return the operation that deletes the ids."""
    return lambda t: t.delete(number, ids)


def new_digest(old: bytes, metadata: Json) -> bytes:
    """Return a digest that depends on both."""
    return hashlib.sha256(old + repr(sorted(metadata.items())).encode()).digest()
