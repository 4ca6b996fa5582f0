"""Embeds a whole collection anew from its originals, while the old vectors answer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import IO

import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import FailedPrecondition
from lookalike.backends.types import Keys, Metric, Progress, Vectors, normalize
from lookalike.server.collection import Collection
from lookalike.server.domain import NO_MODEL, Embedded, Retention
from lookalike.server.models import LoadedModel, Models
from lookalike.server.pictures import Pictures
from lookalike.server.store import Store

_CHUNK = 64
"""Pictures under way at once: some model batches, and little memory."""


class Reembed:
    """Carries a collection over to the model as the server has it now. Job thread only."""

    def __init__(self, store: Store, models: Models, pictures: Pictures) -> None:
        self._store = store
        self._models = models
        self._pictures = pictures

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

        If `progress` raises, nothing has changed. Raises FailedPrecondition if an
        item has no original, and the errors of images and models.
        """
        number = collection.number
        model = self._models.get(collection.record.config.model)
        done = np.zeros(0, np.int64)
        with tempfile.TemporaryFile(dir=self._store.directory) as file:
            while True:
                missing = np.setdiff1d(self._store.keys(number), done)
                self._embed(collection, model, missing, len(done), progress, file)
                done = np.concatenate([done, missing])
                file.flush()
                vectors: Vectors = np.memmap(file, np.float32, "r", shape=(len(done), model.dim))
                reach("reembed.swap.before")
                if collection.replace_vectors(done, vectors, model.space):
                    reach("reembed.swap.after")
                    return

    def _embed(
        self,
        collection: Collection,
        model: LoadedModel,
        keys: Keys,
        before: int,
        progress: Progress,
        file: IO[bytes],
    ) -> None:
        for start in range(0, len(keys), _CHUNK):
            progress("embedding", before + start, before + len(keys))
            chunk = keys[start : start + _CHUNK]
            vectors = self._vectors(collection, model, chunk.tolist())
            file.write(np.ascontiguousarray(vectors, np.float32).tobytes())

    def _vectors(self, collection: Collection, model: LoadedModel, keys: Sequence[int]) -> Vectors:
        reading = [
            self._pictures.submit(
                partial(self._read, collection, model, key), deadline=None, bulk=True
            )
            for key in keys
        ]
        vectors = np.stack([future.result().result().vector for future in reading])
        return normalize(vectors) if collection.record.config.metric is Metric.COSINE else vectors

    def _read(self, collection: Collection, model: LoadedModel, key: int) -> Future[Embedded]:
        if (original := self._store.image(key, True)) is None:
            raise FailedPrecondition(
                f"An item of the collection {collection.name!r} has no original to embed anew. "
                "Send it again with its picture, or delete it.",
                collection=collection.name,
            )
        picture = self._pictures.read(original.data, model)
        return model.submit_image(model.prepare(picture.image), deadline=None, bulk=True)
