"""IndexService.UploadItems: one thread reads, the call's own thread answers.

What ends a stream (its status says why, after the acknowledgements of what was
under way):
  * a first message that is not `start`, or a second `start`;
  * a message without content, a batch without items or with too many;
  * a seq that does not rise: nothing of its batch is taken in;
  * a chunk of an item that was not announced as chunked, or is complete;
  * more unfinished chunked items, or unanswered flushes, than are allowed;
  * a collection that is not there, or not any more.
What only fails its item (the acknowledgement says why, the stream goes on):
  * everything about the item itself: id, picture, vector, metadata, sha256;
  * a chunk at the wrong offset, a chunked file that is too large or never
    completed; the item's further chunks are passed over until its last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

import grpc

from lookalike.backends.errors import (
    Draining,
    ImageUndecodable,
    InvalidArgument,
    LookalikeError,
    SeqNotIncreasing,
    TooManyUploads,
    UploadNotStarted,
)
from lookalike.server.domain import ExifMode, NewItem, Outcome, WriteMode, WriteResult
from lookalike.server.limits import Limits
from lookalike.server.rpc.chunks import (
    Assembly,
    ByteBudget,
    Unfinished,
    check_sha256,
    put_together,
)
from lookalike.server.rpc.ledger import Ledger, Window
from lookalike.server.rpc.ports import Ingest, Library
from lookalike.server.rpc.traffic import Traffic
from lookalike.server.rpc.wire import EXIF_MODES, WRITE_MODES, check_batch, read_enum, read_name
from lookalike.server.rpc.wire_items import read_item, read_items, read_sha256, short_id
from lookalike.v1 import index_service_pb2 as pb

_MAX_FLUSHES = 1000
_RETRY_S = 5.0
_PIECE_ITEMS = 64
"""So many at a time while there are searches: reading 64 vectors of 512 takes about 1 ms."""


class Uploads:
    """The upload streams of a server: how many there are, and how they end. Any thread."""

    def __init__(
        self,
        library: Library,
        ingest: Ingest,
        limits: Limits,
        traffic: Traffic | None = None,
        *,
        idle_s: float | None = None,
    ) -> None:
        """A stream that is silent for `idle_s` seconds, and waits for nothing, is ended."""
        self._library = library
        self._ingest = ingest
        self._limits = limits
        self._idle_s = idle_s
        self._traffic = traffic or Traffic()
        self._budget = ByteBudget(limits.max_uploads * limits.upload_window_bytes)
        self._lock = threading.Lock()
        self._ledgers: set[Ledger] = set()
        self._draining = False

    @property
    def count(self) -> int:
        """Streams that are open."""
        return len(self._ledgers)

    def run(
        self, requests: Iterator[pb.UploadItemsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.UploadItemsResponse]:
        """Serve one stream. Raises TooManyUploads, Draining, and whatever ends the stream."""
        limits = self._limits
        ledger = Ledger(
            Window(
                limits.upload_window_items,
                limits.upload_window_bytes,
                limits.upload_window_vectors,
            ),
            self._idle_s,
        )
        self._enter(ledger)
        try:
            if not context.add_callback(ledger.stop):
                return
            reader = _Reader(
                self._library, self._ingest, self._limits, self._budget, ledger, self._traffic
            )
            threading.Thread(
                target=reader.run, args=(requests,), name="upload-reader", daemon=True
            ).start()
            while messages := ledger.take():
                for message in messages:
                    if ledger.stopped:
                        return
                    yield message
        finally:
            ledger.stop()
            with self._lock:
                self._ledgers.discard(ledger)

    def drain(self, grace_s: float) -> None:
        """Refuse new streams and ask the open ones to end within `grace_s` seconds."""
        with self._lock:
            self._draining = True
            ledgers = list(self._ledgers)
        for ledger in ledgers:
            ledger.drain(grace_s)

    def cut(self) -> None:
        """End the streams that did not end when they were asked to, with Draining."""
        with self._lock:
            ledgers = list(self._ledgers)
        for ledger in ledgers:
            ledger.close(_going_down())

    def resume(self) -> None:
        """Take new streams again, after `drain`."""
        with self._lock:
            self._draining = False

    def check_open(self) -> None:
        """Raise Draining if the server is going down: lasting calls end then."""
        if self._draining:
            raise _going_down()

    def _enter(self, ledger: Ledger) -> None:
        with self._lock:
            self.check_open()
            if len(self._ledgers) >= self._limits.max_uploads:
                raise TooManyUploads(
                    f"{len(self._ledgers)} uploads are open, which is the most. Try again when "
                    "one has ended, or use UpsertItems.",
                    retry_after_s=_RETRY_S,
                    limit=self._limits.max_uploads,
                )
            self._ledgers.add(ledger)


class _Reader:
    """The reading side of one stream, on a thread of its own."""

    def __init__(
        self,
        library: Library,
        ingest: Ingest,
        limits: Limits,
        budget: ByteBudget,
        ledger: Ledger,
        traffic: Traffic,
    ) -> None:
        self._library = library
        self._ingest = ingest
        self._limits = limits
        self._ledger = ledger
        self._traffic = traffic
        self._weights = [ledger.window.weight(picture=picture) for picture in (False, True)]
        self._collection = ""
        self._mode = WriteMode.UPSERT
        self._exif = ExifMode.NONE
        self._last_seq = 0
        self._chunked = Assembly(limits, budget)

    def run(self, requests: Iterator[pb.UploadItemsRequest]) -> None:
        """Read to the end of the stream, or to what ends it."""
        failure: Exception | None = None
        try:
            self._start(next(requests, None))
            for message in requests:
                self._ledger.heard()
                if self._ledger.stopped:
                    break
                self._handle(message)
            self._fail_unfinished()
        except grpc.RpcError:  # the client has gone
            self._ledger.stop()
        except Exception as error:  # raised again on the thread of the call
            failure = error
        finally:
            self._ledger.forget([seq for seq, _, _ in self._chunked.alive()])
            self._chunked.clear()
            self._ledger.close(failure)

    # ---------------------------------------------------------------- messages

    def _start(self, message: pb.UploadItemsRequest | None) -> None:
        if message is None or message.WhichOneof("message") != "start":
            raise UploadNotStarted(
                "The first message of an upload must be `start`.", field="message"
            )
        start = message.start
        self._collection = read_name(start.collection, "start.collection")
        self._mode = read_enum(start.write_mode, WRITE_MODES, "start.write_mode")
        self._exif = read_enum(start.exif, EXIF_MODES, "start.exif")
        self._library.collection(self._collection, create=True)
        self._ledger.failures_only = start.failures_only
        self._ledger.start(
            pb.UploadItemsResponse(
                started=pb.UploadStarted(
                    window_items=self._limits.upload_window_items,
                    window_bytes=self._limits.upload_window_bytes,
                    max_message_bytes=self._limits.max_message_bytes,
                    max_image_bytes=self._limits.max_image_bytes,
                    window_vectors=self._limits.upload_window_vectors,
                )
            )
        )

    def _handle(self, message: pb.UploadItemsRequest) -> None:
        match message.WhichOneof("message"):
            case "batch":
                self._take_batch(message.batch.items)
            case "chunk":
                self._take_chunk(message.chunk)
            case "flush":
                if self._ledger.waiting_flushes >= _MAX_FLUSHES:
                    raise InvalidArgument(
                        f"{_MAX_FLUSHES} flushes wait for their answer already.", field="flush"
                    )
                self._ledger.flush(message.flush.token)
            case "start":
                raise InvalidArgument("`start` comes once, as the first message.", field="start")
            case None:
                raise InvalidArgument(
                    "The message is empty; set one of batch, chunk, flush.", field="message"
                )

    def _take_batch(self, items: Sequence[pb.UploadItem]) -> None:
        check_batch(len(items), self._limits.max_upload_batch, "batch.items")
        self._check_unfinished(sum(item.chunked for item in items))
        self._check_seqs(items)
        sizes = [item.ByteSize() for item in items]
        weights = [self._weights[item.chunked or item.item.HasField("image")] for item in items]
        taken = 0
        while taken < len(items):
            most = taken + (_PIECE_ITEMS if self._traffic.busy else len(items))
            count = self._ledger.reserve(sizes[taken:most], weights[taken:most])
            if count == 0:
                return
            began = time.monotonic()
            group = slice(taken, taken + count)
            self._ledger.begin([item.seq for item in items[group]], sizes[group], weights[group])
            self._take_group(items[group])
            self._traffic.give_way(time.monotonic() - began)
            taken += count

    def _check_unfinished(self, more: int) -> None:
        if len(self._chunked) + more > self._limits.max_open_chunked:
            raise InvalidArgument(
                f"{len(self._chunked) + more} chunked items would be unfinished; "
                f"{self._limits.max_open_chunked} is the most. Finish some before the next.",
                field="batch.items",
                limit=self._limits.max_open_chunked,
            )

    def _check_seqs(self, items: Sequence[pb.UploadItem]) -> None:
        last = self._last_seq
        for i, item in enumerate(items):
            if item.seq <= last:
                raise SeqNotIncreasing(
                    f"The seq {item.seq} follows {last}; each must be greater than the one "
                    "before it, and the first at least 1.",
                    field=f"batch.items[{i}].seq",
                    seq=item.seq,
                )
            last = item.seq
        self._last_seq = last

    def _take_group(self, items: Sequence[pb.UploadItem]) -> None:
        """Take in items that were begun."""
        whole: list[pb.UploadItem] = []
        for item in items:
            if not item.chunked:
                whole.append(item)
                continue
            try:
                self._announce(item)
            except LookalikeError as error:
                self._fail(item.seq, error, item.item.id)
        ready: list[tuple[int, NewItem]] = []
        read = read_items([item.item for item in whole], self._limits, lambda _: "item")
        for item, new in zip(whole, read, strict=True):
            try:
                if isinstance(new, LookalikeError):
                    raise new
                if item.sha256:
                    _check_image(new, item.sha256)
                ready.append((item.seq, new))
            except LookalikeError as error:
                self._fail(item.seq, error, item.item.id)
        self._submit(ready)

    # ------------------------------------------------------------------ chunks

    def _announce(self, item: pb.UploadItem) -> None:
        unfinished = self._chunked.announce(item.seq)
        unfinished.sha256 = read_sha256(item.sha256, "sha256")
        unfinished.item = read_item(item.item, self._limits, "item", chunked=True)
        # Its pieces have a budget of their own: in the window, they could fill it
        # and keep out the very piece that would complete them.
        self._ledger.release(item.seq)

    def _take_chunk(self, chunk: pb.UploadChunk) -> None:
        unfinished = self._chunked.find(chunk.seq)
        if unfinished.item is not None:
            try:
                self._chunked.append(unfinished, chunk)
            except LookalikeError as error:
                self._fail(chunk.seq, error, unfinished.item.id)
                self._chunked.fail(unfinished)
        if chunk.last:
            if unfinished.item is not None:
                self._complete(chunk.seq, unfinished, unfinished.item)
            self._chunked.finish(chunk.seq)

    def _complete(self, seq: int, unfinished: Unfinished, item: NewItem) -> None:
        weight = self._weights[True]
        if not self._ledger.reserve([unfinished.size], [weight]):
            return
        self._ledger.regain(seq, unfinished.size, weight)
        try:
            whole = put_together(unfinished, item)
        except LookalikeError as error:
            self._fail(seq, error, item.id)
        else:
            self._submit([(seq, whole)])

    def _fail_unfinished(self) -> None:
        """Fail what the client left unfinished when it closed its side."""
        for seq, unfinished, item in self._chunked.alive():
            error = ImageUndecodable(
                f"The upload ended after {unfinished.size} bytes, before the last piece.",
                field="item.image",
            )
            self._fail(seq, error, item.id)

    # ----------------------------------------------------------------- onwards

    def _submit(self, ready: Sequence[tuple[int, NewItem]]) -> None:
        if not ready:
            return
        seqs = [seq for seq, _ in ready]
        try:
            self._ingest.submit(
                self._collection,
                [item for _, item in ready],
                self._mode,
                deadline=self._ledger.until,
                bulk=True,
                done=partial(self._done, seqs),
                exif=self._exif,
            )
        except Exception:
            self._ledger.forget(seqs)
            raise

    def _done(
        self, seqs: Sequence[int], places: Sequence[int], results: Sequence[WriteResult]
    ) -> None:
        began = time.monotonic()
        self._ledger.end([seqs[i] for i in places], results)
        self._traffic.give_way(time.monotonic() - began)  # the writer's thread, as a rule

    def _fail(self, seq: int, error: LookalikeError, item_id: str) -> None:
        failed = WriteResult(short_id(item_id, self._limits), Outcome.FAILED, error)
        self._ledger.end([seq], [failed])


def _going_down() -> Draining:
    return Draining("The server is going down; call again when it is back.", retry_after_s=_RETRY_S)


def _check_image(new: NewItem, sha256: str) -> None:
    expected = read_sha256(sha256, "sha256")
    if new.image is None:
        raise InvalidArgument("A sha256 is of an image, and there is none.", field="sha256")
    check_sha256(new.image, expected)
