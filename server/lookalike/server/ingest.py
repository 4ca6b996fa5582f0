"""The way of an item in: check, read the picture, embed, store, answer."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeAlias

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
from lookalike.server.known_vectors import KnownVectors, of_known
from lookalike.server.library import Library
from lookalike.server.limits import Limits
from lookalike.server.pictures import Pictures, with_exif

_log = logging.getLogger(__name__)

_THUMBNAIL_SIDE = 256


Done: TypeAlias = Callable[[Sequence[int], Sequence[WriteResult]], None]
"""Told the places of some items in their call, and what became of each."""


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """What the items of one call have in common."""

    collection: Collection
    mode: WriteMode
    deadline: float | None
    bulk: bool
    exif: ExifMode
    done: Done


@dataclass(slots=True, eq=False)
class _Task:
    """One item on its way; its call is told once what became of it, on any thread."""

    call: _Call
    place: int
    item: NewItem
    id: str
    key: tuple[int, str]
    """Its collection's number and its id: what one at a time may be stored of."""
    sha256: str
    vector: Vector | None
    """As the collection keeps it."""
    metadata: Json
    digest: bytes
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
            and self.call.collection.record.config.retention is not Retention.NONE
        )


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
        self._under_way: dict[tuple[int, str], deque[_Task] | None] = {}
        """Those that wait for their turn, by what they wait for."""

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
        bounds the waiting for a reader and for the model, not the writing.

        Raises CollectionNotFound, CollectionLoading, ReadOnly; never for one item's fault.
        """
        self._library.check_writable()
        if not items:
            raise InputsEmpty("There is nothing to store: send at least one item.", field="items")
        target = self._library.collection(collection, create=True)
        call = _Call(target, mode, deadline, bulk, exif, done)
        self._start(self._taking_turns(self._identified(call, items)))

    def _identified(self, call: _Call, items: Sequence[NewItem]) -> list[_Task]:
        """Give the items ids and digests; those that have none for a reason fail here."""
        brought = [item.vector for item in items if item.vector is not None]
        accepted = iter(call.collection.accept_all(brought))
        tasks: list[_Task] = []
        failed: dict[int, WriteResult] = {}
        for place, item in enumerate(items):
            vector = None if item.vector is None else next(accepted)
            try:
                if isinstance(vector, LookalikeError):
                    raise vector
                tasks.append(_identify(call, place, item, vector))
            except LookalikeError as error:
                failed[place] = WriteResult(item.id, Outcome.FAILED, error)
        if failed:
            call.done(list(failed), list(failed.values()))
        return tasks

    # ------------------------------------------------- one id at a time

    def _taking_turns(self, tasks: Sequence[_Task]) -> list[_Task]:
        """Return those whose turn it is now; the others start when it is."""
        ready: list[_Task] = []
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

    def _finish(self, tasks: Sequence[_Task], results: Sequence[WriteResult]) -> None:
        """Tell the calls, then let those start that waited for these."""
        while tasks:
            following: list[_Task] = []
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

    def _fail(self, tasks: Sequence[_Task], error: BaseException) -> None:
        known = _as_domain(error)
        self._finish(tasks, [WriteResult(task.id, Outcome.FAILED, known) for task in tasks])

    # --------------------------------------------------------- the steps

    def _start(self, tasks: Sequence[_Task]) -> None:
        """Send pictures to their readers, bare vectors to the store in one piece a call."""
        for _, mine in groupby(tasks, lambda task: task.call):
            bare: list[_Task] = []
            for task in mine:
                if task.has_picture:
                    self._send_to_reader(task)
                else:
                    bare.append(task)
            if bare:  # whether an id is there already is found out as it is stored
                self._put(bare)

    def _send_to_reader(self, task: _Task) -> None:
        call = task.call
        try:
            self._pictures.submit(
                partial(self._read, task), deadline=call.deadline, bulk=call.bulk
            ).add_done_callback(partial(self._was_read, task))
        except LookalikeError as error:
            self._fail([task], error)

    def _read(self, task: _Task) -> Future[Embedded] | WriteResult | None:
        """Read one picture on a thread of the pool; return what comes next."""
        if (told := self._known(task)) is not None:
            return told
        collection, item = task.call.collection, task.item
        if item.image is None:
            self._take_over(task)
            return None
        model = None if task.vector is not None else collection.model()
        known = None if model is None else self._vectors.find(model, task.sha256)
        retention = collection.record.config.retention
        picture = None
        if known is None or retention is not Retention.NONE:
            picture = self._pictures.read(item.image, None if known is not None else model)
            if retention is not Retention.NONE:
                task.thumbnail = self._pictures.thumbnail(picture)
        seen = picture or known
        assert seen is not None
        task.image = ImageRecord(
            width=seen.width,
            height=seen.height,
            media_type=seen.media_type,
            size_bytes=len(item.image),
            sha256=task.sha256,
            has_thumbnail=task.thumbnail is not None,
            has_original=retention is Retention.ORIGINAL,
        )
        call = task.call
        if call.exif is not ExifMode.NONE:
            task.metadata = with_exif(item.metadata, item.image, seen.width, seen.height, call.exif)
        if model is None:
            return None
        if known is not None:
            return of_known(known)
        assert picture is not None
        prepare = partial(model.prepare, picture.image)
        return self._vectors.embed(
            model, task.sha256, picture, prepare, deadline=call.deadline, bulk=call.bulk
        )

    def _take_over(self, task: _Task) -> None:
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
        task.image = replace(_without_pictures(stored.image), has_thumbnail=True)

    def _known(self, task: _Task) -> WriteResult | None:
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

    def _was_read(self, task: _Task, future: Future[Future[Embedded] | WriteResult | None]) -> None:
        try:
            outcome = future.result()
        except BaseException as error:
            self._fail([task], error)
            return
        match outcome:
            case WriteResult() as known:
                self._finish([task], [known])
            case Future() as embedding:
                embedding.add_done_callback(partial(self._was_embedded, task))
            case None:
                self._put([task])

    def _was_embedded(self, task: _Task, future: Future[Embedded]) -> None:
        try:
            vector = future.result().vector
            if task.call.collection.record.config.metric is Metric.COSINE:
                vector = normalize(vector[np.newaxis])[0]
        except BaseException as error:
            self._fail([task], error)
            return
        task.vector = vector
        self._put([task])

    def _put(self, tasks: Sequence[_Task]) -> None:
        """Store items of one call."""
        call = tasks[0].call
        try:
            written = call.collection.put([_ready(task) for task in tasks], call.mode)
        except Exception as error:
            self._fail(tasks, error)
            return
        written.add_done_callback(partial(self._were_written, tasks))

    def _were_written(self, tasks: Sequence[_Task], future: Future[list[WriteResult]]) -> None:
        if (error := future.exception()) is not None:
            self._fail(tasks, error)
            return
        self._finish(tasks, future.result())


def _identify(call: _Call, place: int, item: NewItem, vector: Vector | None) -> _Task:
    """Give an item its id and digest. Raises InputsEmpty, IdMissing."""
    sha256, item_id = "", item.id
    if item.image is not None:
        sha256 = hashlib.sha256(item.image).hexdigest()
        item_id = item_id or f"sha256:{sha256}"
    elif vector is None:
        raise InputsEmpty("The item has neither an image nor a vector.")
    elif not item_id:
        raise IdMissing("An item without an image needs an id.", field="id")
    stored = item.stored
    if stored is not None and stored.digest:
        digest = stored.digest
    else:
        digest = item_digest(sha256, vector, item.metadata, call.exif)
    image = None
    if item.image is None and stored is not None and stored.image is not None:
        image = _without_pictures(stored.image)
    key = (call.collection.number, item_id)
    return _Task(call, place, item, item_id, key, sha256, vector, item.metadata, digest, image)


def _call_of(told: tuple[_Task, WriteResult]) -> _Call:
    return told[0].call


def _ready(task: _Task) -> ReadyItem:
    assert task.vector is not None
    keeps_original = task.image is not None and task.image.has_original
    return ReadyItem(
        id=task.id,
        vector=task.vector,
        metadata=task.metadata,
        digest=task.digest,
        image=task.image,
        thumbnail=task.thumbnail,
        original=task.item.image if keeps_original else None,
    )


def _without_pictures(image: ImageRecord) -> ImageRecord:
    return replace(image, has_thumbnail=False, has_original=False)


def _as_domain(error: BaseException) -> LookalikeError:
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, CancelledError):
        return Cancelled("The item was given up before it was stored; send it again.")
    _log.error("an item failed in a way that nobody expected", exc_info=error)
    return Internal("The item failed by a defect of the server; its log has the details.")
