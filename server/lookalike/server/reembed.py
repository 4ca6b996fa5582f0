"""Embeds a whole collection anew from its originals, while the old vectors answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import CollectionNotFound, FailedPrecondition
from lookalike.backends.types import Keys, Metric, Progress, normalize
from lookalike.server.carried import Carried, sweep
from lookalike.server.collection import Collection
from lookalike.server.domain import NO_MODEL, Embedded, Item, Retention, View
from lookalike.server.models import LoadedModel, Models
from lookalike.server.pictures import Pictures
from lookalike.server.store import Store

_log = logging.getLogger(__name__)

_CHUNK = 64
"""Pictures under way at once: some model batches, and little memory."""
_LISTED_AT_ONCE = 1024


class Reembed:
    """Carries a collection over to the model as the server has it now. Job thread only.

    The new vectors gather in a file of the data folder, so that a job that was cut
    off, by a kill or a cancel, goes on where it was when it is asked for again.
    """

    def __init__(self, store: Store, models: Models, pictures: Pictures) -> None:
        self._store = store
        self._models = models
        self._pictures = pictures
        self._folder = store.directory / "reembed"
        self._sweep()

    def check(self, collection: Collection) -> None:
        """Raise FailedPrecondition unless originals are kept, or ModelNotFound."""
        config = collection.record.config
        if config.model == NO_MODEL or config.retention is not Retention.ORIGINAL:
            raise FailedPrecondition(
                f"The collection {collection.name!r} keeps no originals to embed anew. "
                "Make a collection with IMAGE_RETENTION_ORIGINAL and send the pictures again.",
                field="reembed",
            )
        self._models.get(config.model)

    def run(self, collection: Collection, progress: Progress) -> None:
        """Embed every picture, then swap all vectors in one commit.

        If `progress` raises, nothing has changed, and the next run goes on from there.
        Raises FailedPrecondition if an item has no original, DiskFull, and the errors
        of images and models.
        """
        model = self._models.get(collection.record.config.model)
        identity = f"{self._store.uuid}/{collection.number}/{model.space}"
        carried = Carried.open(self._folder, collection.number, identity, model.dim)
        try:
            while True:
                missing = self._missing(collection, carried)
                if len(missing):
                    self._embed(collection, model, missing, carried, progress)
                    continue
                reach("reembed.swap.before")
                if collection.replace_vectors(carried.keys, carried.vectors(), model.space):
                    reach("reembed.swap.after")
                    carried.remove()
                    return
        except CollectionNotFound:
            carried.remove()
            raise
        finally:
            carried.close()

    def _sweep(self) -> None:
        """Remove what a run left that was cut off after its swap, or whose collection went."""
        try:
            if self._folder.is_dir():
                numbers = [record.number for record in self._store.collections()]
                sweep(self._folder, {number: self._store.keys(number) for number in numbers})
        except OSError as error:
            _log.warning("files of a reembed could not be removed: %s", error.strerror)

    def _missing(self, collection: Collection, carried: Carried) -> Keys:
        """Return the live keys that have no new vector of their present picture."""
        marks: dict[int, int] = {}
        keys = self._store.keys(collection.number)
        for start in range(0, len(keys), _LISTED_AT_ONCE):
            marks |= self._marks(keys[start : start + _LISTED_AT_ONCE])
        return carried.missing(marks)

    def _marks(self, keys: Keys) -> dict[int, int]:
        """Return what tells each key's picture from others; keys that are gone are missing."""
        items = self._store.fetch(keys.tolist(), View.BASIC)
        return {key: _mark(item) for key, item in sorted(items.items())}

    def _embed(
        self,
        collection: Collection,
        model: LoadedModel,
        missing: Keys,
        carried: Carried,
        progress: Progress,
    ) -> None:
        before = int(np.count_nonzero(carried.keys >= 0))
        for start in range(0, len(missing), _CHUNK):
            progress("embedding", before + start, before + len(missing))
            # Marked before it is read: a picture replaced meanwhile is seen by its mark.
            marks = self._marks(missing[start : start + _CHUNK])
            vectors = dict(self._vectors(collection, model, list(marks)))
            if vectors:
                rows = np.stack(list(vectors.values()))
                if collection.record.config.metric is Metric.COSINE:
                    rows = normalize(rows)
                carried.add({key: marks[key] for key in vectors}, rows)
                reach("reembed.chunk.kept")

    def _vectors(
        self, collection: Collection, model: LoadedModel, keys: list[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the keys that are still there, with their vectors."""
        reading = [
            self._pictures.submit(
                partial(self._read, collection, model, key), deadline=None, bulk=True
            )
            for key in keys
        ]
        for key, future in zip(keys, reading, strict=True):
            if (embedding := future.result()) is not None:
                yield key, embedding.result().vector

    def _read(
        self, collection: Collection, model: LoadedModel, key: int
    ) -> Future[Embedded] | None:
        """Begin to embed an item's picture; None if the item has gone meanwhile."""
        if (original := self._store.image(key, True)) is None:
            if not self._store.fetch([key], View.ID):
                return None
            raise FailedPrecondition(
                f"An item of the collection {collection.name!r} has no original to embed anew. "
                "Send it again with its picture, or delete it.",
                collection=collection.name,
            )
        picture = self._pictures.read(original.data, model)
        return model.submit_image(model.prepare(picture.image), deadline=None, bulk=True)


def _mark(item: Item) -> int:
    return int(item.image.sha256[:16], 16) if item.image is not None else 0
