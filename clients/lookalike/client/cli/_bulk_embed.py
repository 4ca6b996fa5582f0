"""Many pictures to vectors: batches of Embed, some of them under way, over one or more servers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lookalike.client import Client, Embeddings
from lookalike.client._files import FoundFile
from lookalike.client._pictures import read_file
from lookalike.client._vectors import FloatMatrix
from lookalike.client.errors import ImageTooLarge, LookalikeError, Overloaded, Unavailable

BATCH_ITEMS = 32
BATCH_BYTES = 8 * 2**20
REQUESTS_UNDER_WAY = 4
"""At each server: one that it computes, one that it reads, and two on their way."""
PATIENCE_S = 60.0
"""How long a server that is full is asked again, and one that is not there waited for."""
_REST_S = 2.0
"""How long a server that is not there gets nothing, while others are."""

Keep = Callable[[Sequence[str], FloatMatrix, str], None]
"""Takes ids, (n, dim) float32 vectors in the same order, and the model's fingerprint."""


@dataclass(frozen=True, slots=True)
class _Batch:
    files: list[FoundFile]
    pictures: list[bytes]


class BulkEmbed:
    """Embeds files; all the callbacks are called on the caller's thread, in the files' order.

    With several servers each batch goes to one that has the least to do; what a server
    that went away had, the others take over.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        model: str,
        *,
        keep: Keep,
        failed: Callable[[FoundFile, LookalikeError], None],
        done: Callable[[int], None],
    ) -> None:
        self._model = model
        self._keep = keep
        self._failed = failed
        self._done = done
        self._under_way = REQUESTS_UNDER_WAY * len(clients)
        self._max_image_bytes = _max_image_bytes(clients)
        self._free: SimpleQueue[Client] = SimpleQueue()
        """A client for each request that may be under way."""
        for _ in range(REQUESTS_UNDER_WAY):
            for client in clients:
                self._free.put(client)
        self._has_others = len(clients) > 1

    def run(self, files: Iterable[FoundFile]) -> None:
        """Embed all of them. Raises LookalikeError if no server answers any more."""
        under_way: deque[tuple[_Batch, Future[Embeddings]]] = deque()
        with ThreadPoolExecutor(self._under_way, "lookalike-embed") as pool:
            try:
                for batch in self._batches(files):
                    if len(under_way) == self._under_way:
                        self._take(*under_way.popleft())
                    under_way.append((batch, pool.submit(self._embed, batch)))
                while under_way:
                    self._take(*under_way.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

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
            client = self._client(deadline)
            rest_s = 0.0
            try:
                return client.embed(images=batch.pictures, model=self._model, strict=False)
            except (Overloaded, Unavailable) as error:
                pause_s = max(error.retry_after_s or 0.0, min(2 * pause_s, 5.0))
                if time.monotonic() + pause_s > deadline:
                    raise
                rest_s = _REST_S if self._has_others else pause_s
            finally:
                if rest_s:
                    # On this thread, which has nothing else to do: with others there is a
                    # client left for each of the other threads.
                    time.sleep(rest_s)
                self._free.put(client)

    def _client(self, deadline: float) -> Client:
        try:
            return self._free.get(timeout=max(0.1, deadline - time.monotonic()))
        except Empty:
            raise Unavailable("No server has answered for a minute.") from None

    def _take(self, batch: _Batch, answer: Future[Embeddings]) -> None:
        embeddings = answer.result()
        good = [i for i in range(len(batch.files)) if i not in embeddings.errors]
        if good:
            ids = [batch.files[i].id for i in good]
            self._keep(ids, embeddings.vectors[good], embeddings.model.fingerprint)
        for i, error in embeddings.errors.items():
            self._failed(batch.files[i], error)
        self._done(len(batch.files))


def _max_image_bytes(clients: Sequence[Client]) -> int:
    """Return what all servers take that answer. Raises Unavailable if none does."""
    found: list[int] = []
    for client in clients:
        try:
            found.append(client.info().limits.max_image_bytes or 32 * 2**20)
        except Unavailable:
            if client is clients[-1] and not found:
                raise
    return min(found)
