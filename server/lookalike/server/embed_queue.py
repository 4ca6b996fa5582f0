"""The queue in front of a model: many single calls in, few model calls out."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.embed.base import Embedder, PatchEmbedder, TextEmbedder
from lookalike.backends.errors import (
    Draining,
    Internal,
    LookalikeError,
    ModelLacksModality,
    Overloaded,
)
from lookalike.backends.types import Prepared, Vectors
from lookalike.server.admission import Spread
from lookalike.server.deadlines import is_over, over
from lookalike.server.domain import Embedded
from lookalike.server.pace import Pace

_log = logging.getLogger(__name__)

PatchGrid: TypeAlias = NDArray[np.float32]
"""(rows, columns, d) float32 of length 1: the patches of one picture."""

_BULK_TURN: Final = 8
"""While both kinds wait, every eighth batch is bulk: uploads are slowed, never starved."""
_BACKLOG: Final = 2
"""Batches of uploads that wait while one is computed; more would only take memory."""
_COMPANY: Final = 4
"""Uploads that are worth a call while others are being prepared: the built-in model's 1.5 ms for
one alone are 1.3 each in fours, and hardly less in more."""
_COMPANY_S: Final = 0.05
"""No upload waits longer for others that are being prepared."""
MANY_BYTES: Final = 256 * 2**20
_FIRST_RETRY_S: Final = 0.1
"""As long as no input was timed."""
_SMOOTHING: Final = 0.2
"""Weight of the newest batch in the mean time of one input."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Counters since the start, and what waits now."""

    batches: int
    """Calls of the model."""
    items: int
    """Inputs that got a vector, or the vectors of their patches."""
    failed: int
    """Inputs that the model could not embed."""
    expired: int
    """Inputs dropped at their turn: out of time, or cancelled."""
    waiting: int
    waiting_bulk: int
    """Of `waiting`, those of uploads."""


@dataclass(slots=True)
class _Waiting:
    input: Prepared | str
    deadline: float | None
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Bytes, nearly."""
        return 4 * len(self.input) if isinstance(self.input, str) else self.input.nbytes


@dataclass(slots=True, eq=False)
class _Lane:
    """Inputs of one kind, which can be computed together."""

    compute: Callable[[list[Any]], list[Any]]
    """Returns for each input a result or a LookalikeError."""
    waiting: deque[_Waiting] = field(default_factory=deque)


class EmbedQueue:
    """Owns the one thread that computes with an embedder.

    Whatever waits when the model gets free goes into its next call, up to
    `embedder.max_batch` inputs of one kind; no query ever waits for company, and an
    upload only for one that is `coming`. Queries go before uploads, whose calls are kept
    short while there are queries (`Pace`). `submit_image`, `submit_text`, `submit_patches`
    and `coming`: any thread. Callbacks of the futures run on the model's thread and must
    be brief.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        max_waiting: int,
        max_bytes: int = MANY_BYTES,
        name: str = "model",
    ) -> None:
        self._embedder = embedder
        self._reader = embedder if isinstance(embedder, TextEmbedder) else None
        self._seer = embedder if isinstance(embedder, PatchEmbedder) else None
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._bytes = 0
        """Of the queries that wait."""
        self._spread = Spread()
        self._changed = threading.Condition()
        self._images = _Lane(self._embed_images)
        self._texts = _Lane(self._embed_texts)
        self._patches = _Lane(self._embed_patches)
        self._bulk = _Lane(self._embed_images)
        self._queries = (self._images, self._texts, self._patches)
        self._coming, self._company = 0, _COMPANY
        """Uploads that are being prepared; how many that wait are worth a call meanwhile."""
        self._closing = False
        self._since_bulk = 0
        self._item_s = 0.0
        self._pace = Pace(embedder.max_batch)
        self._answering = False
        """Queries are being computed."""
        self._batches = self._items = self._failed = self._expired = 0
        self._thread = threading.Thread(target=self._run, name=f"embed-{name}", daemon=True)
        self._thread.start()

    def submit_image(
        self, prepared: Prepared, *, deadline: float | None, bulk: bool = False
    ) -> Future[Embedded]:
        """Queue one prepared picture; `deadline` in `time.monotonic()` seconds.

        `bulk` inputs wait behind all others, and the caller bounds their number.
        Raises Overloaded (with `retry_after_s`), also when those before it take all the
        time that is left, and Draining. The future raises DeadlineExceeded, Cancelled,
        Draining, or what the model raised for this input.
        """
        waiting = _Waiting(prepared, deadline)
        self._put(self._bulk if bulk else self._images, waiting, bounded=not bulk)
        return waiting.future

    def submit_text(self, text: str, *, deadline: float | None) -> Future[Embedded]:
        """Queue one text, as `submit_image` does; raises ModelLacksModality also."""
        if self._reader is None:
            raise ModelLacksModality(
                "The model embeds pictures only. Ask with a picture, or use a model with text."
            )
        waiting = _Waiting(text, deadline)
        self._put(self._texts, waiting, bounded=True)
        return waiting.future

    def submit_patches(self, prepared: Prepared, *, deadline: float | None) -> Future[PatchGrid]:
        """Queue one prepared picture for its patches, as `submit_image` does.

        The model must be a `PatchEmbedder`.
        """
        waiting = _Waiting(prepared, deadline)
        self._put(self._patches, waiting, bounded=True)
        return waiting.future

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Prepare an upload and submit it within: those that wait may wait for it."""
        with self._changed:
            self._coming += 1
        try:
            yield
        finally:
            with self._changed:
                self._coming -= 1
                if not self._coming:
                    self._changed.notify()

    @property
    def has_enough(self) -> bool:
        """Whether no upload need be prepared now: enough wait, or queries want the processor."""
        waiting = len(self._bulk.waiting)
        if waiting < self._embedder.max_batch:
            return False
        return waiting >= _BACKLOG * self._embedder.max_batch or self._answering

    @property
    def stats(self) -> QueueStats:
        with self._changed:
            bulk = len(self._bulk.waiting)
            waiting = self._asked() + bulk
            return QueueStats(
                self._batches, self._items, self._failed, self._expired, waiting, bulk
            )

    def close(self) -> None:
        """Finish the batch in hand, fail the rest with Draining, join the thread.

        Any thread but the model's own; more than once is fine. The embedder stays open.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _asked(self) -> int:
        return sum(len(lane.waiting) for lane in self._queries)

    def _put(self, lane: _Lane, waiting: _Waiting, *, bounded: bool) -> None:
        with self._changed:
            if self._closing:
                raise _draining()
            if bounded:
                self._check_room(waiting)
                self._bytes += waiting.size
            lane.waiting.append(waiting)
            if lane is not self._bulk:
                self._pace.asked()
            elif self._coming and 1 < len(lane.waiting) < self._company:
                return  # the model's thread knows of the first, and waits for the others
            self._changed.notify()

    def _check_room(self, more: _Waiting) -> None:
        """Raise Overloaded if a query would be one too many, or come too late."""
        count = self._asked()
        wait_s = count * self._item_s
        if count >= self._max_waiting:
            limit, what = self._max_waiting, "inputs"
        elif count and self._bytes + more.size > self._max_bytes:
            limit, what = self._max_bytes, "bytes of inputs"
        elif more.deadline is not None and 0 < more.deadline - time.monotonic() < wait_s:
            limit, what = count, "inputs for the time that is left"
        else:
            return
        retry_after_s = self._spread.of(wait_s or _FIRST_RETRY_S)
        raise Overloaded(
            f"{count} inputs wait for the model, and {limit} {what} are the most. Try again in "
            f"{retry_after_s * 1e3:.0f} ms.",
            retry_after_s=retry_after_s,
            limit=limit,
        )

    # ------------------------------------------------------------ the model's thread

    def _run(self) -> None:
        try:
            while (lane := self._next_lane()) is not None:
                if batch := self._take(lane):
                    self._embed(lane, batch)
        finally:
            self._drain()

    def _next_lane(self) -> _Lane | None:
        """Wait for work; return whose turn it is, None when closing."""
        with self._changed:
            while not self._closing:
                asked = [lane for lane in self._queries if lane.waiting]
                wait_s = self._wait_for_company_s()
                if wait_s == 0 and (not asked or self._since_bulk >= _BULK_TURN - 1):
                    self._since_bulk = 0
                    return self._bulk
                if asked:
                    self._since_bulk += 1 if self._bulk.waiting else 0
                    return min(asked, key=lambda lane: lane.waiting[0].since)
                self._changed.wait(wait_s)
            return None

    def _wait_for_company_s(self) -> float | None:
        """Return how long the uploads that wait may yet do so; None if there are none."""
        waiting = self._bulk.waiting
        if not waiting:
            return None
        self._company = min(_COMPANY, self._pace.most())
        is_enough = not self._coming or len(waiting) >= self._company
        return 0.0 if is_enough else max(0.0, waiting[0].since + _COMPANY_S - time.monotonic())

    def _take(self, lane: _Lane) -> list[_Waiting]:
        """Take up to a batch of those that still want an answer."""
        batch: list[_Waiting] = []
        most = self._pace.most() if lane is self._bulk else self._embedder.max_batch
        while len(batch) < most:
            with self._changed:
                if not lane.waiting:
                    break
                waiting = lane.waiting.popleft()
                self._bytes -= 0 if lane is self._bulk else waiting.size
            # Outside the lock: futures run their callbacks here, which may submit more.
            if not waiting.future.set_running_or_notify_cancel():
                self._count(expired=1)
            elif is_over(waiting.deadline):
                self._count(expired=1)
                waiting.future.set_exception(
                    over(waiting.deadline, "while the input waited for the model")
                )
            else:
                batch.append(waiting)
        return batch

    def _embed(self, lane: _Lane, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        self._answering = lane is not self._bulk
        try:
            results = lane.compute([waiting.input for waiting in batch])
        except Exception as error:
            if len(batch) > 1:
                # One input may be to blame: the others shall not suffer for it.
                _log.warning("a batch failed, embedding one by one items=%d", len(batch))
                for waiting in batch:
                    self._embed(lane, [waiting])
                return
            results = [self._failure(error)]
        finally:
            self._answering = False
        failed = sum(isinstance(result, LookalikeError) for result in results)
        end = time.monotonic()
        spent = (end - start) / len(batch)
        if lane is self._bulk or lane is self._images:
            self._pace.took(len(batch), end - start)
        with self._changed:
            self._item_s += (spent - self._item_s) * (_SMOOTHING if self._item_s else 1.0)
        self._count(batches=1, items=len(batch) - failed, failed=failed)
        for waiting, result in zip(batch, results, strict=True):
            if isinstance(result, LookalikeError):
                waiting.future.set_exception(result)
            elif isinstance(result, Embedded):
                waiting.future.set_result(replace(result, began=start, ended=end))
            else:
                waiting.future.set_result(result)

    def _embed_images(self, images: list[Prepared]) -> list[Embedded | LookalikeError]:
        return self._checked(self._embedder.embed_prepared(images), [False] * len(images))

    def _embed_texts(self, texts: list[str]) -> list[Embedded | LookalikeError]:
        assert self._reader is not None
        found = self._reader.embed_texts(texts)
        return self._checked(found.vectors, found.truncated)

    def _embed_patches(self, images: list[Prepared]) -> list[PatchGrid | LookalikeError]:
        assert self._seer is not None
        grids = self._seer.embed_patches(images)
        if grids.ndim != 4 or len(grids) != len(images) or 0 in grids.shape:
            raise Internal(f"The model gave patches of shape {grids.shape}.")
        return [
            np.array(grid, np.float32) if np.isfinite(grid).all() else _unusable() for grid in grids
        ]

    def _checked(
        self, vectors: Vectors, truncated: Sequence[bool]
    ) -> list[Embedded | LookalikeError]:
        if vectors.shape != (len(truncated), self._embedder.dim):
            raise Internal(f"The model gave vectors of shape {vectors.shape}.")
        usable = [bool(np.isfinite(vector).all() and vector.any()) for vector in vectors]
        return [
            # A copy, so that one vector does not keep its whole batch in memory.
            Embedded(np.array(vector, np.float32), cut) if ok else _unusable()
            for vector, ok, cut in zip(vectors, usable, truncated, strict=True)
        ]

    def _failure(self, error: Exception) -> LookalikeError:
        if isinstance(error, LookalikeError):
            return error
        _log.error("the model failed on an input", exc_info=error)
        failure = Internal("The model failed on this input. The server's log says more.")
        failure.__cause__ = error
        return failure

    def _drain(self) -> None:
        with self._changed:
            self._closing = True
            left: list[_Waiting] = []
            for lane in (*self._queries, self._bulk):
                left += lane.waiting
                lane.waiting.clear()
        for waiting in left:
            if waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(_draining())

    def _count(
        self, *, batches: int = 0, items: int = 0, failed: int = 0, expired: int = 0
    ) -> None:
        with self._changed:
            self._batches += batches
            self._items += items
            self._failed += failed
            self._expired += expired


def _draining() -> Draining:
    return Draining("The server is shutting down. Try again on another one, or in a while.")


def _unusable() -> Internal:
    return Internal(
        "The model gave no usable vector for this input: it is zero or not finite. "
        "If this happens for ordinary pictures, the checkpoint or its precision is at fault."
    )
