"""Many files to vectors, with several requests under way so that the server never waits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lookalike.client import Client, Embeddings
from lookalike.client._files import FoundFile
from lookalike.client._pictures import read_file
from lookalike.client._vectors import FloatMatrix
from lookalike.client.errors import ImageTooLarge, LookalikeError, Overloaded

BATCH_ITEMS = 32
BATCH_BYTES = 8 * 2**20
REQUESTS_UNDER_WAY = 4
PATIENCE_S = 60.0
"""How long a server that is full is asked again."""


@dataclass(frozen=True, slots=True)
class _Batch:
    files: list[FoundFile]
    pictures: list[bytes]


class BulkEmbed:
    """Embeds files; `failed(file, error)` and `done(count)` are called on the caller's thread."""

    def __init__(
        self,
        client: Client,
        model: str,
        *,
        failed: Callable[[FoundFile, LookalikeError], None],
        done: Callable[[int], None],
    ) -> None:
        self._client = client
        self._model = model
        self._failed = failed
        self._done = done
        self._max_image_bytes = client.info().limits.max_image_bytes or 32 * 2**20
        self._ids: list[str] = []
        self._vectors: list[FloatMatrix] = []

    def run(self, files: Iterable[FoundFile]) -> tuple[list[str], FloatMatrix]:
        """Return the ids and (n, dim) float32 in the same order, without what failed."""
        under_way: deque[tuple[_Batch, Future[Embeddings]]] = deque()
        with ThreadPoolExecutor(REQUESTS_UNDER_WAY, "lookalike-embed") as pool:
            for batch in self._batches(files):
                if len(under_way) == REQUESTS_UNDER_WAY:
                    self._take(*under_way.popleft())
                under_way.append((batch, pool.submit(self._embed, batch)))
            while under_way:
                self._take(*under_way.popleft())
        if not self._vectors:
            return [], np.empty((0, 0), dtype=np.float32)
        return self._ids, np.concatenate(self._vectors)

    def _batches(self, files: Iterable[FoundFile]) -> Iterator[_Batch]:
        batch, size = _Batch([], []), 0
        for file in files:
            try:
                data = self._read(file)
            except LookalikeError as error:
                self._failed(file, error)
                self._done(1)
                continue
            if batch.files and (len(batch.files) == BATCH_ITEMS or size + len(data) > BATCH_BYTES):
                yield batch
                batch, size = _Batch([], []), 0
            batch.files.append(file)
            batch.pictures.append(data)
            size += len(data)
        if batch.files:
            yield batch

    def _read(self, file: FoundFile) -> bytes:
        if file.error is not None:
            raise file.error
        data = read_file(file.path, self._max_image_bytes)
        if len(data) > self._max_image_bytes:
            raise ImageTooLarge(
                f"The image file has more than {self._max_image_bytes} bytes, which is the "
                "most that the server takes."
            )
        return data

    def _embed(self, batch: _Batch) -> Embeddings:
        """Run on a thread of the pool."""
        deadline, pause_s = time.monotonic() + PATIENCE_S, 0.1
        while True:
            try:
                return self._client.embed(images=batch.pictures, model=self._model, strict=False)
            except Overloaded as error:
                pause_s = max(error.retry_after_s or 0.0, min(2 * pause_s, 5.0))
                if time.monotonic() + pause_s > deadline:
                    raise
                time.sleep(pause_s)

    def _take(self, batch: _Batch, answer: Future[Embeddings]) -> None:
        embeddings = answer.result()
        good = [i for i in range(len(batch.files)) if i not in embeddings.errors]
        if good:
            self._ids += [batch.files[i].id for i in good]
            self._vectors.append(embeddings.vectors[good])
        for i, error in embeddings.errors.items():
            self._failed(batch.files[i], error)
        self._done(len(batch.files))
