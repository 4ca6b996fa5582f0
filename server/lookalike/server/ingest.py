"""The way of an item in: check, read the picture, embed, store, answer."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby

import numpy as np

from lookalike.backends.errors import (
    Cancelled,
    InputsEmpty,
    Internal,
    InvalidArgument,
    ItemExists,
    LookalikeError,
)
from lookalike.backends.types import Metric, normalize
from lookalike.server.deadlines import is_over, over
from lookalike.server.domain import (
    Embedded,
    ExifMode,
    ImageRecord,
    NewItem,
    Outcome,
    Retention,
    WriteMode,
    WriteResult,
)
from lookalike.server.gathered_writes import GatheredWrites
from lookalike.server.ingest_tasks import (
    Call,
    Done,
    Task,
    bytes_of,
    identify,
    without_pictures,
    write,
)
from lookalike.server.known_vectors import KnownVectors, of_known
from lookalike.server.library import Library
from lookalike.server.limits import Limits
from lookalike.server.models import LoadedModel
from lookalike.server.pictures import Pictures, with_exif
from lookalike.server.vector_cache import Known

_log = logging.getLogger(__name__)

_THUMBNAIL_SIDE = 256


class Ingest:
    """Stores items and says of each what became of it. Any thread.

    Items of different ids go their way side by side; items of one id one after
    the other in the order they came, so that the later one wins.
    """

    def __init__(
        self, library: Library, pictures: Pictures, vectors: KnownVectors | None = None
    ) -> None:
        self._library = library
        self._pictures = pictures
        self._vectors = vectors or KnownVectors(None, Limits())
        self._lock = threading.Lock()
        self._under_way: dict[tuple[int, str], deque[Task] | None] = {}
        """Those that wait for their turn, by what they wait for."""
        self._embedded = GatheredWrites(write, wrote=self._finish, failed=self._fail, size=bytes_of)

    @property
    def under_way(self) -> int:
        """Ids that are being stored at the moment."""
        return len(self._under_way)

    def submit(
        self,
        collection: str,
        items: Sequence[NewItem],
        mode: WriteMode,
        *,
        deadline: float | None,
        bulk: bool,
        done: Done,
        exif: ExifMode = ExifMode.NONE,
    ) -> None:
        """Store items; `done` hears once of each, of some at a time, from any thread, in any order.

        Returns before they are stored. `deadline` in `time.monotonic()` seconds
        bounds the waiting for a reader, for the model and for one's turn; what a model
        has seen is written all the same, so that work over a bad connection adds up.

        Raises CollectionNotFound, CollectionLoading, ReadOnly; never for one item's fault.
        """
        self._library.check_writable()
        if not items:
            raise InputsEmpty("There is nothing to store: send at least one item.", field="items")
        target = self._library.collection(collection, create=True)
        call = Call(target, mode, deadline, bulk, exif, done)
        self._start(self._taking_turns(self._identified(call, items)))

    def _identified(self, call: Call, items: Sequence[NewItem]) -> list[Task]:
        """Give the items ids and digests; those that have none for a reason fail here."""
        brought = [item.vector for item in items if item.vector is not None]
        accepted = iter(call.collection.accept_all(brought))
        tasks: list[Task] = []
        failed: dict[int, WriteResult] = {}
        for place, item in enumerate(items):
            vector = None if item.vector is None else next(accepted)
            try:
                if isinstance(vector, LookalikeError):
                    raise vector
                tasks.append(identify(call, place, item, vector))
            except LookalikeError as error:
                failed[place] = WriteResult(item.id, Outcome.FAILED, error)
        if failed:
            call.done(list(failed), list(failed.values()))
        return tasks

    # ------------------------------------------------- one id at a time

    def _taking_turns(self, tasks: Sequence[Task]) -> list[Task]:
        """Return those whose turn it is now; the others start when it is."""
        ready: list[Task] = []
        with self._lock:
            for task in tasks:
                if task.key not in self._under_way:
                    self._under_way[task.key] = None
                    ready.append(task)
                elif (queue := self._under_way[task.key]) is not None:
                    queue.append(task)
                else:
                    self._under_way[task.key] = deque([task])
        return ready

    def _finish(self, tasks: Sequence[Task], results: Sequence[WriteResult]) -> None:
        """Tell the calls, then let those start that waited for these."""
        while tasks:
            following: list[Task] = []
            with self._lock:
                for task in tasks:
                    if queue := self._under_way[task.key]:
                        following.append(queue.popleft())
                    else:
                        del self._under_way[task.key]
            for call, mine in groupby(zip(tasks, results, strict=True), _call_of):
                told = list(mine)
                call.done([task.place for task, _ in told], [result for _, result in told])
            if not following:
                return
            try:  # on another thread: a thousand items of one id must not pile up one stack
                self._pictures.submit(partial(self._start, following), deadline=None, bulk=True)
                return
            except LookalikeError as error:
                tasks = following
                results = [WriteResult(task.id, Outcome.FAILED, error) for task in tasks]

    def _fail(self, tasks: Sequence[Task], error: BaseException) -> None:
        known = _as_domain(error)
        self._finish(tasks, [WriteResult(task.id, Outcome.FAILED, known) for task in tasks])

    # --------------------------------------------------------- the steps

    def _start(self, tasks: Sequence[Task]) -> None:
        """Send pictures to their readers, bare vectors to the store in one piece a call."""
        for call, mine in groupby(tasks, lambda task: task.call):
            bare: list[Task] = []
            for task in mine:
                if task.has_picture:
                    self._start_picture(task)
                else:
                    bare.append(task)
            if bare and is_over(call.deadline):
                self._fail(bare, over(call.deadline, "before the items were stored"))
            elif bare:  # whether an id is there already is found out as it is stored
                self._put(bare)

    def _start_picture(self, task: Task) -> None:
        """Send a picture to its reader, unless the item that is there decides.

        Asked here, item after item of a call, and not by the readers in between: the
        store answers in a tenth of the time what it is asked before the next commit.
        """
        call = task.call
        try:
            told = self._known(task)
            if told is None:
                self._pictures.submit(
                    partial(self._read, task), deadline=call.deadline, bulk=call.bulk
                ).add_done_callback(partial(self._was_read, task))
        except Exception as error:
            self._fail([task], error)
            return
        if told is not None:
            self._finish([task], [told])

    def _read(self, task: Task) -> Future[Embedded] | None:
        """Read one picture on a thread of the pool; return what comes next."""
        collection, item = task.call.collection, task.item
        if item.image is None:
            self._take_over(task)
            return None
        model = None if task.vector is not None else collection.model()
        known = None if model is None else self._vectors.find(model, task.sha256)
        with nullcontext() if model is None or known or not task.call.bulk else model.coming():
            return self._look(task, item.image, model, known)

    def _look(
        self, task: Task, data: bytes, model: LoadedModel | None, known: Known | None
    ) -> Future[Embedded] | None:
        """Look at a picture as far as its model and its collection need; have it embedded."""
        retention = task.call.collection.record.config.retention
        picture = None
        if known is None or retention is not Retention.NONE:
            picture = self._pictures.read(data, None if known is not None else model)
            if retention is not Retention.NONE:
                task.thumbnail = self._pictures.thumbnail(picture)
        seen = picture or known
        assert seen is not None
        task.image = ImageRecord(
            width=seen.width,
            height=seen.height,
            media_type=seen.media_type,
            size_bytes=len(data),
            sha256=task.sha256,
            has_thumbnail=task.thumbnail is not None,
            has_original=retention is Retention.ORIGINAL,
        )
        call = task.call
        if call.exif is not ExifMode.NONE:
            task.metadata = with_exif(task.item.metadata, data, seen.width, seen.height, call.exif)
        if model is None:
            return None
        if known is not None:
            return of_known(known)
        assert picture is not None
        prepare = partial(model.prepare, picture.image)
        return self._vectors.embed(
            model, task.sha256, picture, prepare, deadline=call.deadline, bulk=call.bulk
        )

    def _take_over(self, task: Task) -> None:
        """Look at a thumbnail that the item brings; its reader's thread."""
        stored = task.item.stored
        assert stored is not None
        assert stored.image is not None
        assert stored.thumbnail is not None
        picture = self._pictures.read(stored.thumbnail, None)
        if (
            picture.media_type != "image/jpeg"
            or max(picture.width, picture.height) > _THUMBNAIL_SIDE
        ):
            raise InvalidArgument(
                f"A thumbnail is a JPEG of at most {_THUMBNAIL_SIDE} x {_THUMBNAIL_SIDE} pixels.",
                field="stored.thumbnail",
            )
        task.thumbnail = stored.thumbnail
        task.image = replace(without_pictures(stored.image), has_thumbnail=True)

    def _known(self, task: Task) -> WriteResult | None:
        """Answer at once, before any work, where the item that is there decides."""
        item_id = task.id
        if (stored := task.call.collection.digest(item_id)) is None:
            return None
        match task.call.mode:
            case WriteMode.SKIP_EXISTING:
                return WriteResult(item_id, Outcome.SKIPPED)
            case _ if stored == task.digest:  # also with CREATE_ONLY: sending again is safe
                return WriteResult(item_id, Outcome.UNCHANGED)
            case WriteMode.CREATE_ONLY:
                error = ItemExists(f"There is an item {item_id!r} already.", id=item_id)
                return WriteResult(item_id, Outcome.FAILED, error)
        return None

    def _was_read(self, task: Task, future: Future[Future[Embedded] | None]) -> None:
        try:
            embedding = future.result()
        except BaseException as error:
            self._fail([task], error)
            return
        if embedding is None:
            self._put([task])
        else:
            embedding.add_done_callback(partial(self._was_embedded, task))

    def _was_embedded(self, task: Task, future: Future[Embedded]) -> None:
        try:
            vector = future.result().vector
            if task.call.collection.record.config.metric is Metric.COSINE:
                vector = normalize(vector[np.newaxis])[0]
        except BaseException as error:
            self._fail([task], error)
            return
        task.vector = vector
        self._embedded.add((task.call.collection, task.call.mode), task)

    def _put(self, tasks: Sequence[Task]) -> None:
        """Store items of one call."""
        try:
            written = write(tasks)
        except Exception as error:
            self._fail(tasks, error)
            return
        written.add_done_callback(partial(self._were_written, tasks))

    def _were_written(self, tasks: Sequence[Task], future: Future[list[WriteResult]]) -> None:
        if (error := future.exception()) is not None:
            self._fail(tasks, error)
            return
        self._finish(tasks, future.result())


def _call_of(told: tuple[Task, WriteResult]) -> Call:
    return told[0].call


def _as_domain(error: BaseException) -> LookalikeError:
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, CancelledError):
        return Cancelled("The item was given up before it was stored; send it again.")
    _log.error("an item failed in a way that nobody expected", exc_info=error)
    return Internal("The item failed by a defect of the server; its log has the details.")
