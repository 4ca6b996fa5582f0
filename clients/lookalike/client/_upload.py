"""The client's side of IndexService.UploadItems: window, chunks, recovery.

Threads: the caller's thread takes items from the source, reads files and hears what
became of them; gRPC's own thread builds messages and sends them (`_send.messages`); a
third one receives. They share two queues and nothing else. What is not acknowledged is
kept, which the window bounds, and is sent again when the stream breaks.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from lookalike.client import _results as results
from lookalike.client._channel import Connection
from lookalike.client._files import Entry
from lookalike.client._send import END, FLUSH, Outbox, Pending, messages, prepare
from lookalike.client._status import error_of_call, is_from_server
from lookalike.client._wire import write_result
from lookalike.client.errors import (
    LookalikeError,
    Overloaded,
    ServerUnavailable,
    TooManyUploads,
    Unavailable,
)
from lookalike.v1 import index_service_pb2

DEFAULT_WINDOW_ITEMS = 256
DEFAULT_WINDOW_BYTES = 64 * 2**20
DEFAULT_MAX_IMAGE_BYTES = 32 * 2**20
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 3.0
LONGEST_ASKED_PAUSE_S = 30.0

_BREAKS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)
"""How a connection that was cut looks to a stream, if no server explains itself."""


class Uploader:
    """One upload, over as many streams as it takes. The caller's thread only."""

    def __init__(
        self,
        connection: Connection,
        *,
        collection: str,
        mode: Any,
        exif: Any,
        progress: Callable[[results.UploadProgress], None] | None,
        on_result: Callable[[results.WriteResult], None] | None,
        patience_s: float,
    ) -> None:
        self._connection = connection
        self._start = index_service_pb2.UploadStart(
            collection=collection, write_mode=mode, exif=exif
        )
        self._progress = progress
        self._on_result = on_result
        self._patience_s = patience_s
        self._report = results.UploadReport()
        self._done_bytes = 0
        self._again: deque[Pending] = deque()
        """Prepared items without an answer: of a stream that broke, or held back."""
        self._entries: Iterator[Entry] = iter(())
        self._max_image_bytes = DEFAULT_MAX_IMAGE_BYTES
        self._was_started = False
        self._failed_streams = 0
        """Streams in a row that ended before any item was answered."""
        self._sign_of_life = time.monotonic()

    def run(self, entries: Iterator[Entry]) -> results.UploadReport:
        """Upload them all; raises LookalikeError if the server stays away or refuses."""
        begin = time.monotonic()
        self._entries = entries
        self._sign_of_life = begin
        while not self._one_stream():
            self._report.reconnects += 1
        self._report.seconds = time.monotonic() - begin
        return self._report

    # ------------------------------------------------------------ one stream

    def _one_stream(self) -> bool:
        """Send what there is over a new stream; True if all items are answered."""
        stream = _Stream(self._connection, self._start)
        try:
            self._drive(stream)
        finally:
            stream.close()
            self._again.extendleft(reversed(stream.waiting.values()))
        if stream.error is not None:
            self._refuse(stream.error)
        if self._was_started:
            self._fill()
            if not self._again:
                return True
        self._pause(stream.error)
        return False

    def _drive(self, stream: _Stream) -> None:
        """Send and listen until the stream has ended."""
        while not stream.is_started and not stream.is_over:
            self._hear(stream)
        while not stream.is_over:
            if stream.has_news:
                self._hear(stream)
                continue
            if not stream.is_draining:
                self._fill()
            if stream.is_draining or not self._again:
                stream.finish()
                self._hear(stream)
            elif stream.has_room(self._again[0]):
                stream.send(self._again.popleft())
            else:
                stream.flush()
                self._hear(stream)

    def _hear(self, stream: _Stream) -> None:
        """Take one answer of the server, waiting for it."""
        response = stream.receive()
        match response.WhichOneof("message") if response is not None else None:
            case "started":
                self._was_started = True
                self._max_image_bytes = response.started.max_image_bytes or DEFAULT_MAX_IMAGE_BYTES
            case "acks":
                self._sign_of_life, self._failed_streams = time.monotonic(), 0
                for ack in response.acks.acks:
                    pending = stream.answered(ack.seq)
                    if pending is not None:
                        self._done(write_result(ack.result, pending.source), pending.image_bytes)
                self._tell()

    # ---------------------------------------------------------------- items

    def _fill(self) -> None:
        if not self._again:
            pending = self._next()
            if pending is not None:
                self._again.append(pending)

    def _next(self) -> Pending | None:
        """Prepare the next item; those that cannot be sent fail on the way."""
        for entry in self._entries:
            prepared = prepare(entry, self._max_image_bytes)
            if isinstance(prepared, Pending):
                return prepared
            self._done(prepared, 0)
            self._tell()
        return None

    def _done(self, result: results.WriteResult, image_bytes: int) -> None:
        report, self._done_bytes = self._report, self._done_bytes + image_bytes
        match result.outcome:
            case results.WriteOutcome.CREATED:
                report.created += 1
            case results.WriteOutcome.UPDATED:
                report.updated += 1
            case results.WriteOutcome.UNCHANGED:
                report.unchanged += 1
            case results.WriteOutcome.SKIPPED:
                report.skipped += 1
            case results.WriteOutcome.FAILED | results.WriteOutcome.UNKNOWN:
                report.failed += 1
                report.failures.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def _tell(self) -> None:
        if self._progress is not None:
            report = self._report
            self._progress(results.UploadProgress(report.total, report.failed, self._done_bytes))

    # ------------------------------------------------------------- recovery

    def _refuse(self, error: grpc.RpcError) -> None:
        """Raise unless another stream may do better."""
        cause = error_of_call(error, self._connection.address)
        if is_from_server(error):
            may_pass = isinstance(cause, (Unavailable, TooManyUploads, Overloaded))
        else:
            # At the first try, a server that is not there is a mistake of the caller.
            may_pass = self._was_started and error.code() in _BREAKS
        if not may_pass:
            raise cause

    def _pause(self, error: grpc.RpcError | None) -> None:
        """Wait before the next stream, or raise if there was no sign of life for too long."""
        self._failed_streams += 1
        pause_s = min(FIRST_PAUSE_S * 2 ** (self._failed_streams - 1), LONGEST_PAUSE_S)
        pause_s *= random.uniform(0.7, 1.3)
        cause: LookalikeError = ServerUnavailable(
            f"The server at {self._connection.address} ends every upload early; look at its log."
        )
        if error is not None:
            cause = error_of_call(error, self._connection.address)
            pause_s = max(pause_s, min(cause.retry_after_s or 0.0, LONGEST_ASKED_PAUSE_S))
        if time.monotonic() + pause_s > self._sign_of_life + self._patience_s:
            raise cause
        time.sleep(pause_s)


class _Stream:
    """One UploadItems stream. All methods are the caller's thread only."""

    def __init__(self, connection: Connection, start: index_service_pb2.UploadStart) -> None:
        self.waiting: dict[int, Pending] = {}
        """Sent and not answered, by seq, in order."""
        self.is_started = self.is_draining = self.is_over = False
        self.error: grpc.RpcError | None = None
        self._outbox: Outbox = SimpleQueue()
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._is_finished = False
        self._seqs = itertools.count(1)
        self._bytes = 0
        self._places_taken = 0
        self._places, self._window_bytes = DEFAULT_WINDOW_ITEMS, DEFAULT_WINDOW_BYTES
        self._picture_weight = 1
        self._stop = threading.Event()
        self._call = connection.upload()(messages(start, self._outbox, self._stop))
        self._receiver = threading.Thread(
            target=self._receive_all, name="lookalike-upload-acks", daemon=True
        )
        self._receiver.start()

    @property
    def has_news(self) -> bool:
        return not self._inbox.empty()

    def has_room(self, pending: Pending) -> bool:
        """Whether the window has room; for one item of any size it has when empty."""
        if not self.waiting:
            return True
        has_place = self._places_taken + self._weight(pending) <= self._places
        return has_place and self._bytes + pending.size <= self._window_bytes

    def _weight(self, pending: Pending) -> int:
        return self._picture_weight if pending.image_bytes else 1

    def send(self, pending: Pending) -> None:
        seq = next(self._seqs)
        self.waiting[seq] = pending
        self._bytes += pending.size
        self._places_taken += self._weight(pending)
        self._outbox.put((seq, pending))

    def answered(self, seq: int) -> Pending | None:
        pending = self.waiting.pop(seq, None)
        if pending is not None:
            self._bytes -= pending.size
            self._places_taken -= self._weight(pending)
        return pending

    def flush(self) -> None:
        """Have what is in the outbox sent now, since nothing more comes for a while."""
        self._outbox.put(FLUSH)

    def finish(self) -> None:
        """Close this side after what is in the outbox."""
        if not self._is_finished:
            self._is_finished = True
            self._outbox.put(END)

    def receive(self) -> Any:
        """Return the next message; None once the stream has ended."""
        response = self._inbox.get()
        if response is None or isinstance(response, grpc.RpcError):
            self.is_over, self.error = True, response
            return None
        match response.WhichOneof("message"):
            case "started":
                self.is_started = True
                pictures = response.started.window_items or DEFAULT_WINDOW_ITEMS
                self._places = max(pictures, response.started.window_vectors)
                self._picture_weight = self._places // pictures
                self._window_bytes = response.started.window_bytes or DEFAULT_WINDOW_BYTES
            case "draining":
                self.is_draining = True
                self._stop.set()  # what is not on its way yet takes the next stream
        return response

    def close(self) -> None:
        """End the stream, at once if it has not ended, and both threads with it."""
        self._stop.set()
        self._outbox.put(END)
        self._call.cancel()
        self._receiver.join()

    def _receive_all(self) -> None:
        try:
            for response in self._call:
                self._inbox.put(response)
            self._inbox.put(None)
        except grpc.RpcError as error:
            self._inbox.put(error)
