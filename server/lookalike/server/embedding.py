"""Inputs to vectors, and nothing stored."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from lookalike.backends.errors import DeadlineExceeded, LookalikeError
from lookalike.backends.types import RgbImage
from lookalike.server.deadlines import is_over, outcome, over
from lookalike.server.domain import Embedded, ModelInfo, Region
from lookalike.server.known_vectors import KnownVectors, of_known
from lookalike.server.models import LoadedModel, Models
from lookalike.server.pictures import Pictures

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A picture, or the part of it that was asked for, as its reader saw it."""

    picture: RgbImage | None
    """None unless it was to be kept."""
    began: float
    """When a reader took it up and had it ready for the model, in `time.monotonic()` seconds."""
    ended: float


class Embedding:
    """Embeds pictures and texts for whoever asks. Any thread."""

    def __init__(
        self, models: Models, pictures: Pictures, vectors: KnownVectors | None = None
    ) -> None:
        self._models = models
        self._pictures = pictures
        self._vectors = vectors

    def embed(
        self, model: str, inputs: Sequence[str | bytes], *, deadline: float | None
    ) -> tuple[ModelInfo, list[Embedded | LookalikeError]]:
        """Embed texts (str) and image files (bytes); one result or error for each.

        Vectors are as the model gives them, not normalised. Raises ModelNotFound,
        ModelInvalid, BackendUnavailable.
        """
        loaded = self._models.get(model)
        results = gather([self.start(loaded, item, deadline) for item in inputs])
        info = next(known for known in self._models.list() if known.name == loaded.name)
        return info, results

    def start(
        self, model: LoadedModel, item: str | bytes, deadline: float | None
    ) -> Callable[[], Embedded]:
        """Begin to embed one input; the returned call waits for it and gives or raises.

        Begin all inputs of a request before waiting for the first, so that they
        make one batch.
        """
        try:
            if isinstance(item, str):
                embedding = model.submit_text(item, deadline=deadline)
                return lambda: outcome(embedding, deadline)
            wait = self.start_picture(model, lambda: item, deadline, size=len(item))
            return lambda: wait()[1]
        except LookalikeError as error:
            return raiser(error)

    def start_picture(
        self,
        model: LoadedModel,
        load: Callable[[], bytes],
        deadline: float | None,
        *,
        region: Region | None = None,
        keep: bool = False,
        size: int = 0,
    ) -> Callable[[], tuple[Seen, Embedded]]:
        """Begin to embed a picture, or a part of it; `load` gives its file on a reader's thread.

        `size`: bytes of the file, if it is in memory. The returned call waits, no longer
        than until the deadline, and gives or raises; with `keep` it gives the pixels
        too. Raises Overloaded, Draining.
        """

        def read() -> tuple[Seen, Future[Embedded]]:
            began = time.monotonic()
            data = load()
            if self._vectors is not None and region is None and not keep:
                known = self._vectors.find(model, hashlib.sha256(data).hexdigest())
                if known is not None:
                    return Seen(None, began, time.monotonic()), of_known(known)
            picture = self._pictures.read(data, model, region).image
            prepared = model.prepare(picture)
            seen = Seen(picture if keep else None, began, time.monotonic())
            if is_over(deadline):
                raise over(deadline, "while the picture was read")
            return seen, model.submit_image(prepared, deadline=deadline)

        def wait() -> tuple[Seen, Embedded]:
            seen, embedding = outcome(reading, deadline)
            return seen, outcome(embedding, deadline)

        reading = self._pictures.submit(read, deadline=deadline, size=size)
        return wait

    def start_reading(
        self, load: Callable[[], bytes], deadline: float | None, model: LoadedModel | None = None
    ) -> Callable[[], Seen]:
        """Begin to read a picture that needs no vector, as `start_picture` does.

        No larger than a thumbnail needs, or as large as `model` wants it.
        """

        def read() -> Seen:
            began = time.monotonic()
            picture = self._pictures.read(load(), model).image
            return Seen(picture, began, time.monotonic())

        reading = self._pictures.submit(read, deadline=deadline)
        return lambda: outcome(reading, deadline)


def raiser(error: LookalikeError) -> Callable[[], Embedded]:
    """Return a call that raises `error`."""

    def give() -> Embedded:
        raise error

    return give


def gather(calls: Sequence[Callable[[], T]]) -> list[T | LookalikeError]:
    """Wait for each call; put its error in its place."""
    results: list[T | LookalikeError] = []
    for call in calls:
        try:
            results.append(call())
        except LookalikeError as error:
            results.append(error)
        except TimeoutError:
            results.append(DeadlineExceeded("The time ran out."))
    return results
