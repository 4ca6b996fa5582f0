"""Items on their way into a collection, and what the store gets of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeAlias

from lookalike.backends.errors import IdMissing, InputsEmpty
from lookalike.server.collection import Collection
from lookalike.server.digest import item_digest
from lookalike.server.domain import (
    ExifMode,
    ImageRecord,
    Json,
    NewItem,
    ReadyItem,
    Retention,
    Vector,
    WriteMode,
    WriteResult,
)

Done: TypeAlias = Callable[[Sequence[int], Sequence[WriteResult]], None]
"""Told the places of some items in their call, and what became of each."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What the items of one call have in common."""

    collection: Collection
    mode: WriteMode
    deadline: float | None
    bulk: bool
    exif: ExifMode
    done: Done


@dataclass(slots=True, eq=False)
class Task:
    """One item on its way; its call is told once what became of it, on any thread."""

    call: Call
    place: int
    item: NewItem
    id: str
    key: tuple[int, str]
    """Its collection's number and its id: what one at a time may be stored of."""
    sha256: str
    vector: Vector | None
    """As the collection keeps it."""
    metadata: Json
    digest: bytes
    image: ImageRecord | None = None
    thumbnail: bytes | None = None

    @property
    def has_picture(self) -> bool:
        """Whether a reader has something to do: an image, or a thumbnail to be kept."""
        stored = self.item.stored
        return self.item.image is not None or (
            stored is not None
            and stored.image is not None
            and stored.thumbnail is not None
            and self.call.collection.record.config.retention is not Retention.NONE
        )


def identify(call: Call, place: int, item: NewItem, vector: Vector | None) -> Task:
    """Give an item its id and digest. Raises InputsEmpty, IdMissing."""
    sha256, item_id = "", item.id
    if item.image is not None:
        sha256 = hashlib.sha256(item.image).hexdigest()
        item_id = item_id or f"sha256:{sha256}"
    elif vector is None:
        raise InputsEmpty("The item has neither an image nor a vector.")
    elif not item_id:
        raise IdMissing("An item without an image needs an id.", field="id")
    stored = item.stored
    if stored is not None and stored.digest:
        digest = stored.digest
    else:
        digest = item_digest(sha256, vector, item.metadata, call.exif)
    image = None
    if item.image is None and stored is not None and stored.image is not None:
        image = without_pictures(stored.image)
    key = (call.collection.number, item_id)
    return Task(call, place, item, item_id, key, sha256, vector, item.metadata, digest, image)


def write(tasks: Sequence[Task]) -> Future[list[WriteResult]]:
    """Begin to store items of one collection and mode. Raises what `Collection.put` does."""
    call = tasks[0].call
    return call.collection.put([_ready(task) for task in tasks], call.mode)


def bytes_of(task: Task) -> int:
    """Return the bytes of the picture that an item holds in memory."""
    return len(task.item.image or b"")


def _ready(task: Task) -> ReadyItem:
    assert task.vector is not None
    keeps_original = task.image is not None and task.image.has_original
    return ReadyItem(
        id=task.id,
        vector=task.vector,
        metadata=task.metadata,
        digest=task.digest,
        image=task.image,
        thumbnail=task.thumbnail,
        original=task.item.image if keeps_original else None,
    )


def without_pictures(image: ImageRecord) -> ImageRecord:
    """Return what is known of a picture of which nothing is kept."""
    return replace(image, has_thumbnail=False, has_original=False)
