"""The way of an item in: check, read the picture, embed, store, answer."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lookalike.backends.errors import (
    Cancelled,
    IdMissing,
    InputsEmpty,
    Internal,
    InvalidArgument,
    ItemExists,
    LookalikeError,
)
from lookalike.backends.types import Metric, normalize
from lookalike.server.collection import Collection
from lookalike.server.digest import item_digest
from lookalike.server.domain import (
    Embedded,
    ExifMode,
    ImageRecord,
    Json,
    NewItem,
    Outcome,
    ReadyItem,
    Retention,
    Vector,
    WriteMode,
    WriteResult,
)
from lookalike.server.images import exif
from lookalike.server.library import Library
from lookalike.server.pictures import Pictures

_log = logging.getLogger(__name__)

_THUMBNAIL_SIDE = 256


@dataclass(slots=True)
class _Task:
    """One item on its way; `finish` is called once, from any thread."""

    collection: Collection
    item: NewItem
    mode: WriteMode
    deadline: float | None
    bulk: bool
    finish: Callable[[WriteResult], None]
    exif: ExifMode = ExifMode.NONE
    sha256: str = ""
    digest: bytes = b""
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
            and self.collection.record.config.retention is not Retention.NONE
        )

    @property
    def key(self) -> tuple[int, str]:
        return (self.collection.number, self.item.id)


class Ingest:
    """Stores items and says of each what became of it. Any thread.

    Items of different ids go their way side by side; items of one id one after
    the other in the order they came, so that the later one wins.
    """

    def __init__(self, library: Library, pictures: Pictures) -> None:
        self._library = library
        self._pictures = pictures
        self._lock = threading.Lock()
        self._under_way: dict[tuple[int, str], deque[_Task]] = {}

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
        done: Callable[[int, WriteResult], None],
        exif: ExifMode = ExifMode.NONE,
    ) -> None:
        """Store items; call `done(i, result)` once for each, from any thread, in any order.

        Returns before they are stored. `deadline` in `time.monotonic()` seconds
        bounds the waiting for a reader and for the model, not the writing.

        Raises CollectionNotFound, CollectionLoading, ReadOnly; never for one item's fault.
        """
        self._library.check_writable()
        if not items:
            raise InputsEmpty("There is nothing to store: send at least one item.", field="items")
        target = self._library.collection(collection, create=True)
        ready: list[_Task] = []
        for i, item in enumerate(items):
            task = _Task(target, item, mode, deadline, bulk, partial(done, i), exif)
            if (error := self._identify(task)) is not None:
                task.finish(WriteResult(item.id, Outcome.FAILED, error))
            elif self._takes_turn(task):
                ready.append(task)
        self._start(ready)

    def _identify(self, task: _Task) -> LookalikeError | None:
        """Give the task its id and digest; return what is wrong with it."""
        item = task.item
        try:
            vector = None if item.vector is None else task.collection.accept(item.vector)
            if item.image is not None:
                task.sha256 = hashlib.sha256(item.image).hexdigest()
            elif vector is None:
                raise InputsEmpty("The item has neither an image nor a vector.")
            elif item.stored is not None and item.stored.image is not None:
                task.image = _without_pictures(item.stored.image)
            if not item.id and not task.sha256:
                raise IdMissing("An item without an image needs an id.", field="id")
        except LookalikeError as error:
            return error
        task.item = replace(item, id=item.id or f"sha256:{task.sha256}", vector=vector)
        task.digest = item_digest(task.sha256, vector, item.metadata, task.exif)
        if item.stored is not None and item.stored.digest:
            task.digest = item.stored.digest
        return None

    # ------------------------------------------------- one id at a time

    def _takes_turn(self, task: _Task) -> bool:
        with self._lock:
            if (queue := self._under_way.get(task.key)) is not None:
                queue.append(task)
                return False
            self._under_way[task.key] = deque()
            return True

    def _finish(self, task: _Task, result: WriteResult) -> None:
        while True:
            with self._lock:
                queue = self._under_way[task.key]
                following = queue.popleft() if queue else None
                if following is None:
                    del self._under_way[task.key]
            task.finish(result)
            if following is None:
                return
            try:  # on another thread: a thousand items of one id must not pile up one stack
                self._pictures.submit(partial(self._start, [following]), deadline=None, bulk=True)
                return
            except LookalikeError as error:
                task = following
                result = WriteResult(task.item.id, Outcome.FAILED, error)

    def _fail(self, task: _Task, error: BaseException) -> None:
        self._finish(task, WriteResult(task.item.id, Outcome.FAILED, _as_domain(error)))

    # --------------------------------------------------------- the steps

    def _start(self, tasks: list[_Task]) -> None:
        """Send pictures to their readers, bare vectors to the store in one piece."""
        bare: list[_Task] = []
        for task in tasks:
            if not task.has_picture:
                bare.append(task)
                continue
            try:
                self._pictures.submit(
                    partial(self._read, task), deadline=task.deadline, bulk=task.bulk
                ).add_done_callback(partial(self._was_read, task))
            except LookalikeError as error:
                self._fail(task, error)
        if bare:
            self._store_bare(bare)

    def _store_bare(self, tasks: list[_Task]) -> None:
        fresh: list[_Task] = []
        items: list[ReadyItem] = []
        for task in tasks:
            try:
                known = self._known(task)
            except Exception as error:
                self._fail(task, error)
                continue
            if known is not None:
                self._finish(task, known)
                continue
            assert task.item.vector is not None
            fresh.append(task)
            items.append(_ready(task, task.item.vector))
        if fresh:
            self._put(fresh, items)

    def _read(self, task: _Task) -> Future[Embedded] | Vector | WriteResult:
        """Read one picture on a thread of the pool; return what comes next."""
        if (known := self._known(task)) is not None:
            return known
        collection, item = task.collection, task.item
        if item.image is None:
            return self._take_over(task)
        model = None if item.vector is not None else collection.model()
        picture = self._pictures.read(item.image, model)
        retention = collection.record.config.retention
        if retention is not Retention.NONE:
            task.thumbnail = self._pictures.thumbnail(picture)
        task.image = ImageRecord(
            width=picture.width,
            height=picture.height,
            media_type=picture.media_type,
            size_bytes=len(item.image),
            sha256=task.sha256,
            has_thumbnail=task.thumbnail is not None,
            has_original=retention is Retention.ORIGINAL,
        )
        if task.exif is not ExifMode.NONE:
            task.item = replace(item, metadata=_with_exif(item, task.image, task.exif))
        if model is None:
            assert item.vector is not None
            return item.vector
        prepared = model.prepare(picture.image)
        return model.submit_image(prepared, deadline=task.deadline, bulk=task.bulk)

    def _take_over(self, task: _Task) -> Vector:
        """Look at a thumbnail that the item brings; its reader's thread."""
        stored, vector = task.item.stored, task.item.vector
        assert stored is not None
        assert stored.image is not None
        assert stored.thumbnail is not None
        assert vector is not None
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
        task.image = replace(_without_pictures(stored.image), has_thumbnail=True)
        return vector

    def _known(self, task: _Task) -> WriteResult | None:
        """Answer at once, before any work, where the item that is there decides."""
        item_id = task.item.id
        if (stored := task.collection.digest(item_id)) is None:
            return None
        match task.mode:
            case WriteMode.SKIP_EXISTING:
                return WriteResult(item_id, Outcome.SKIPPED)
            case _ if stored == task.digest:  # also with CREATE_ONLY: sending again is safe
                return WriteResult(item_id, Outcome.UNCHANGED)
            case WriteMode.CREATE_ONLY:
                error = ItemExists(f"There is an item {item_id!r} already.", id=item_id)
                return WriteResult(item_id, Outcome.FAILED, error)
        return None

    def _was_read(
        self, task: _Task, future: Future[Future[Embedded] | Vector | WriteResult]
    ) -> None:
        try:
            outcome = future.result()
        except BaseException as error:
            self._fail(task, error)
            return
        match outcome:
            case WriteResult() as known:
                self._finish(task, known)
            case Future() as embedding:
                embedding.add_done_callback(partial(self._was_embedded, task))
            case vector:
                self._put([task], [_ready(task, vector)])

    def _was_embedded(self, task: _Task, future: Future[Embedded]) -> None:
        try:
            vector = future.result().vector
            if task.collection.record.config.metric is Metric.COSINE:
                vector = normalize(vector[np.newaxis])[0]
        except BaseException as error:
            self._fail(task, error)
            return
        self._put([task], [_ready(task, vector)])

    def _put(self, tasks: list[_Task], items: list[ReadyItem]) -> None:
        try:
            written = tasks[0].collection.put(items, tasks[0].mode)
        except Exception as error:
            for task in tasks:
                self._fail(task, error)
            return
        written.add_done_callback(partial(self._were_written, tasks))

    def _were_written(self, tasks: list[_Task], future: Future[list[WriteResult]]) -> None:
        if (error := future.exception()) is not None:
            for task in tasks:
                self._fail(task, error)
            return
        for task, result in zip(tasks, future.result(), strict=True):
            self._finish(task, result)


def _ready(task: _Task, vector: Vector) -> ReadyItem:
    keeps_original = task.image is not None and task.image.has_original
    return ReadyItem(
        id=task.item.id,
        vector=vector,
        metadata=task.item.metadata,
        digest=task.digest,
        image=task.image,
        thumbnail=task.thumbnail,
        original=task.item.image if keeps_original else None,
    )


def _without_pictures(image: ImageRecord) -> ImageRecord:
    return replace(image, has_thumbnail=False, has_original=False)


def _with_exif(item: NewItem, image: ImageRecord, mode: ExifMode) -> Json:
    """Return the item's metadata with what its picture says; what it brings goes first."""
    assert item.image is not None
    own = item.metadata.get("exif", {})
    if not isinstance(own, Mapping):
        return item.metadata
    found = exif.read(item.image, position=mode is ExifMode.WITH_POSITION)
    size = {"width": float(image.width), "height": float(image.height)}
    return {**item.metadata, "exif": {**found, **size, **own}}


def _as_domain(error: BaseException) -> LookalikeError:
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, CancelledError):
        return Cancelled("The item was given up before it was stored; send it again.")
    _log.error("an item failed in a way that nobody expected", exc_info=error)
    return Internal("The item failed by a defect of the server; its log has the details.")
