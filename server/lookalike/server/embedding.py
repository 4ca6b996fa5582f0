"""Inputs to vectors, and nothing stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from lookalike.backends.errors import DeadlineExceeded, LookalikeError
from lookalike.server.domain import Embedded, ModelInfo
from lookalike.server.models import LoadedModel, Models
from lookalike.server.pictures import Pictures

T = TypeVar("T")


class Embedding:
    """Embeds pictures and texts for whoever asks. Any thread."""

    def __init__(self, models: Models, pictures: Pictures) -> None:
        self._models = models
        self._pictures = pictures

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
                return model.submit_text(item, deadline=deadline).result
            return self._start_picture(model, item, deadline)
        except LookalikeError as error:
            return raiser(error)

    def _start_picture(
        self, model: LoadedModel, data: bytes, deadline: float | None
    ) -> Callable[[], Embedded]:
        def read() -> Future[Embedded]:
            prepared = model.prepare(self._pictures.read(data, model).image)
            return model.submit_image(prepared, deadline=deadline)

        reading = self._pictures.submit(read, deadline=deadline)
        return lambda: reading.result().result()


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
