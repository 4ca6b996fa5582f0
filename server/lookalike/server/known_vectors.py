"""Pictures are embedded once: what is known, what is under way, and how often that helped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeAlias

from lookalike.backends.types import Prepared
from lookalike.server.domain import Embedded
from lookalike.server.images import Decoded
from lookalike.server.limits import Limits
from lookalike.server.models import LoadedModel
from lookalike.server.vector_cache import Known, VectorCache

_Key: TypeAlias = tuple[str, str, int]
"""A space, the SHA-256 of a file in hex, and which deadline the embedding has."""


class KnownVectors:
    """Vectors of pictures that were embedded before, by their file's bytes. Any thread.

    `cache` None: nothing is kept, but files that come at the same time are still
    embedded once.
    """

    def __init__(self, cache: VectorCache | None, limits: Limits) -> None:
        self._cache = cache
        self._most_pixels = limits.max_image_pixels
        self._lock = threading.Lock()
        self._under_way: dict[_Key, Future[Embedded]] = {}
        self._reused = 0

    @property
    def reused(self) -> int:
        """Pictures that needed no model, since the start."""
        return self._reused

    def close(self) -> None:
        """Know nothing any more, and leave the disk alone; more than once is fine."""
        if self._cache is not None:
            self._cache.close()

    def find(self, model: LoadedModel, sha256: str) -> Known | None:
        """Return what is known of a file, if it may come in by the limits of today."""
        if self._cache is None:
            return None
        known = self._cache.find(model.space, sha256)
        if known is None or known.width * known.height > self._most_pixels:
            return None
        with self._lock:
            self._reused += 1
        return known

    def embed(
        self,
        model: LoadedModel,
        sha256: str,
        picture: Decoded,
        prepare: Callable[[], Prepared],
        *,
        deadline: float | None,
        bulk: bool,
    ) -> Future[Embedded]:
        """Embed a picture that `find` did not know, and remember it.

        One of the same bytes that is with the model already is waited for, if both have
        the very same deadline, as those of one call do: so neither fails by the other's.
        Raises as `prepare` and `submit_image`.
        """
        key = (model.space, sha256, id(deadline))  # which lives as long as it is in the queue
        with self._lock:
            if (first := self._under_way.get(key)) is not None:
                self._reused += 1
                return first
            shared = self._under_way[key] = Future()
        # One of the same bytes may have come back from the model since `find`.
        if (known := self.find(model, sha256)) is not None:
            return self._settle(key, shared, of_known(known))
        try:
            embedding = model.submit_image(prepare(), deadline=deadline, bulk=bulk)
        except BaseException as error:
            self._forget(key)
            shared.set_exception(error)
            raise
        embedding.add_done_callback(partial(self._was_embedded, key, picture, shared))
        return shared

    def _was_embedded(
        self,
        key: _Key,
        picture: Decoded,
        shared: Future[Embedded],
        embedding: Future[Embedded],
    ) -> None:
        """Runs on the model's thread."""
        if self._cache is not None and not embedding.cancelled() and not embedding.exception():
            vector = embedding.result().vector
            known = Known(vector, picture.width, picture.height, picture.media_type)
            self._cache.add(*key[:2], known)
        self._settle(key, shared, embedding)

    def _settle(
        self, key: _Key, shared: Future[Embedded], embedding: Future[Embedded]
    ) -> Future[Embedded]:
        """Tell those who share an embedding what became of it."""
        self._forget(key)
        if embedding.cancelled():
            shared.cancel()
        elif (failure := embedding.exception()) is not None:
            shared.set_exception(failure)
        else:
            shared.set_result(embedding.result())
        return shared

    def _forget(self, key: _Key) -> None:
        with self._lock:
            self._under_way.pop(key, None)


def of_known(known: Known) -> Future[Embedded]:
    """Return a Future that has its result."""
    future: Future[Embedded] = Future()
    now = time.monotonic()
    future.set_result(Embedded(known.vector, began=now, ended=now))
    return future
