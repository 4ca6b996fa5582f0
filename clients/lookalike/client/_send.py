"""Items to the messages of an upload stream: batches for small ones, chunks for large."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from lookalike.client._calls import NewItem, item_bytes
from lookalike.client._files import Entry
from lookalike.client._pictures import Picture, picture_bytes, read_file
from lookalike.client._results import WriteOutcome, WriteResult
from lookalike.client._vectors import length_delimited, varint
from lookalike.client.errors import (
    ImageTooLarge,
    InvalidArgument,
    LookalikeError,
    MetadataTooLarge,
)
from lookalike.v1 import index_service_pb2, types_pb2

AIM_BYTES = 512 * 2**10
"""A message of many items is sent when it has this many; the protos ask for 256 KiB to 1 MiB."""
MAX_BYTES = 2**20 - 2**10
"""No message has more, which leaves room for its own framing in 1 MiB."""
CHUNK_BYTES = 256 * 2**10
MAX_ITEMS = 1024
LINGER_S = 0.005
"""How long a message waits for more items while the source is still giving some."""

_SEQ, _ITEM, _CHUNKED, _ITEMS = b"\x08", b"\x12", b"\x18\x01", b"\n"
"""Tags of UploadItem's seq, item, and chunked with its value; of UploadBatch's items. The
messages of a batch are put together from the wire form of their items: no copies of
pictures from message to message, and 1.5 us an item instead of 8."""


@dataclass(slots=True)
class Pending:
    """An item on its way: with the picture inside, or with `chunks` of it to follow."""

    message: bytes
    """ItemInput as it goes over the wire."""
    source: str
    size: int
    """Bytes, the picture's included."""
    image_bytes: int
    chunks: bytes | None = None


FLUSH, END = object(), object()
Outbox: TypeAlias = "SimpleQueue[tuple[int, Pending] | object]"
"""(seq, item), or FLUSH: send what you have, or END: close this side."""


def prepare(entry: Entry, max_image_bytes: int) -> Pending | WriteResult:
    """Read an item's picture and make its frame; or say why it cannot be sent."""
    item, error = entry.item, entry.error
    if error is None:
        try:
            return _prepared(item, entry.source, max_image_bytes)
        except LookalikeError as reason:
            error = reason
        except (TypeError, ValueError) as reason:  # of protobuf: no UTF-8, too long
            error = InvalidArgument(f"The item cannot be sent: {reason}")
    return WriteResult(item.id, WriteOutcome.FAILED, error, entry.source)


def _prepared(item: NewItem, source: str, max_image_bytes: int) -> Pending:
    message = item_bytes(item)
    if len(message) > MAX_BYTES // 2:
        raise MetadataTooLarge("The item's metadata and vector have too many bytes to be sent.")
    if item.image is None:
        return Pending(message, source, len(message), 0)
    data = _image_data(item.image, max_image_bytes)
    size = len(message) + len(data)
    if size > MAX_BYTES - 2**10:
        return Pending(message, source, size, len(data), chunks=data)
    image = length_delimited(types_pb2.Image.DATA_FIELD_NUMBER, data)
    message += length_delimited(index_service_pb2.ItemInput.IMAGE_FIELD_NUMBER, image)
    return Pending(message, source, size, len(data))


def _image_data(image: Picture, max_image_bytes: int) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        data = read_file(Path(image), max_image_bytes)
    else:
        data = picture_bytes(image)
    if len(data) > max_image_bytes:
        raise ImageTooLarge(
            f"The image file has more than {max_image_bytes} bytes, which is the most that "
            "the server takes. Send a smaller copy.",
            field="image",
        )
    return data


def messages(
    start: index_service_pb2.UploadStart, outbox: Outbox, stop: threading.Event
) -> Iterator[bytes]:
    """Give the messages of one stream until END, or `stop`. gRPC's thread runs this."""
    yield index_service_pb2.UploadItemsRequest(start=start).SerializeToString()
    collector = _Collector(outbox)
    while not collector.is_at_end and not stop.is_set():
        batch = collector.batch()
        if not batch or stop.is_set():
            continue
        yield _batch_message(batch)
        seq, last = batch[-1]
        if last.chunks is not None:
            yield from _chunk_messages(seq, last.chunks)


def _batch_message(batch: list[tuple[int, Pending]]) -> bytes:
    v1 = index_service_pb2
    parts: list[bytes] = []
    for seq, pending in batch:
        item = _SEQ + varint(seq) + _ITEM + varint(len(pending.message)) + pending.message
        if pending.chunks is not None:
            item += _CHUNKED
        parts += (_ITEMS, varint(len(item)), item)
    return length_delimited(v1.UploadItemsRequest.BATCH_FIELD_NUMBER, b"".join(parts))


def _chunk_messages(seq: int, data: bytes) -> Iterator[bytes]:
    v1 = index_service_pb2
    for offset in range(0, len(data), CHUNK_BYTES):
        piece = data[offset : offset + CHUNK_BYTES]
        is_last = offset + CHUNK_BYTES >= len(data)
        chunk = v1.UploadChunk(seq=seq, offset=offset, data=piece, last=is_last)
        yield v1.UploadItemsRequest(chunk=chunk).SerializeToString()


class _Collector:
    """Takes items from an outbox in batches for one message each."""

    def __init__(self, outbox: Outbox) -> None:
        self.is_at_end = False
        self._outbox = outbox
        self._next: tuple[int, Pending] | None = None
        """The item that did not fit into the last batch."""

    def batch(self) -> list[tuple[int, Pending]]:
        """Wait for items; a chunked one is the last of its batch. May be empty."""
        batch: list[tuple[int, Pending]] = []
        size, deadline = 0, 0.0
        while True:
            one = self._take(deadline if batch else None)
            if one is None:
                return batch
            in_frame = len(one[1].message) + 64
            if batch and (size + in_frame > MAX_BYTES or len(batch) == MAX_ITEMS):
                self._next = one
                return batch
            deadline = deadline or time.monotonic() + LINGER_S
            batch.append(one)
            size += in_frame
            if size >= AIM_BYTES or one[1].chunks is not None:
                return batch

    def _take(self, deadline: float | None) -> tuple[int, Pending] | None:
        """Return the next item; None for FLUSH, END, or when the deadline is over."""
        if self._next is not None:
            one, self._next = self._next, None
            return one
        try:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            got = self._outbox.get(timeout=wait_s)
        except Empty:
            return None
        if got is END:
            self.is_at_end = True
        return got if isinstance(got, tuple) else None
