"""Files that come in pieces: put together, bounded, and checked when complete."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from lookalike.backends.errors import (
    ChecksumMismatch,
    ChunkOutOfOrder,
    ImageUndecodable,
    Overloaded,
)
from lookalike.server.domain import NewItem
from lookalike.server.limits import Limits, check_image_bytes
from lookalike.v1 import index_service_pb2 as pb

_RETRY_S = 5.0


class ByteBudget:
    """Memory that all streams together may use for unfinished files. Any thread."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Take `size` bytes; False, and nothing taken, if there are not so many."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._free += size


@dataclass(slots=True)
class Unfinished:
    """A chunked item whose last piece has not come. `item` None: it has failed already."""

    item: NewItem | None = None
    sha256: str = ""
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)


class Assembly:
    """The unfinished chunked items of one stream. The reader's thread only.

    An item stays until its last piece even after it has failed, so that the rest
    of its pieces are known for what they are.
    """

    def __init__(self, limits: Limits, budget: ByteBudget) -> None:
        self._limits = limits
        self._budget = budget
        self._unfinished: dict[int, Unfinished] = {}

    def __len__(self) -> int:
        return len(self._unfinished)

    def announce(self, seq: int) -> Unfinished:
        """Expect pieces of an item; it counts as failed until its `item` is set."""
        found = self._unfinished[seq] = Unfinished()
        return found

    def find(self, seq: int) -> Unfinished:
        """Return an announced item. Raises ChunkOutOfOrder if there is none."""
        if (found := self._unfinished.get(seq)) is None:
            raise ChunkOutOfOrder(
                f"There is no unfinished chunked item {seq}.", field="chunk.seq", seq=seq
            )
        return found

    def alive(self) -> Iterator[tuple[int, Unfinished, NewItem]]:
        """Iterate over those that have not failed."""
        for seq, unfinished in self._unfinished.items():
            if unfinished.item is not None:
                yield seq, unfinished, unfinished.item

    def append(self, unfinished: Unfinished, chunk: pb.UploadChunk) -> None:
        """Add a piece. Raises ChunkOutOfOrder, ImageTooLarge, Overloaded."""
        if chunk.offset != unfinished.size:
            raise ChunkOutOfOrder(
                f"The piece begins at {chunk.offset}, but {unfinished.size} bytes came before it.",
                field="chunk.offset",
                expected=unfinished.size,
                actual=chunk.offset,
            )
        data = chunk.data
        check_image_bytes(unfinished.size + len(data), self._limits, "item.image")
        if not self._budget.take(len(data)):
            raise Overloaded(
                "Too many bytes wait in unfinished chunked items; send this one again when "
                "others are complete.",
                retry_after_s=_RETRY_S,
            )
        unfinished.size += len(data)
        unfinished.pieces.append(data)

    def fail(self, unfinished: Unfinished) -> None:
        """Let go of what came of an item; its further pieces are passed over."""
        self._budget.give(unfinished.size)
        unfinished.item, unfinished.size = None, 0
        unfinished.pieces.clear()

    def finish(self, seq: int) -> None:
        """Expect nothing more of an item."""
        self.fail(self._unfinished.pop(seq))

    def clear(self) -> None:
        """Let go of everything."""
        for seq in list(self._unfinished):
            self.finish(seq)


def put_together(unfinished: Unfinished, item: NewItem) -> NewItem:
    """Return the item with its whole file. Raises ImageUndecodable, ChecksumMismatch."""
    image = b"".join(unfinished.pieces)
    if not image:
        raise ImageUndecodable("The image file is empty.", field="item.image")
    check_sha256(image, unfinished.sha256)
    return replace(item, image=image)


def check_sha256(image: bytes, expected: str) -> None:
    """Raise ChecksumMismatch unless the file has this SHA-256 ("" = whatever it is)."""
    if not expected:
        return
    actual = hashlib.sha256(image).hexdigest()
    if actual != expected:
        raise ChecksumMismatch(
            "The file that came has another SHA-256 than was announced; send it again.",
            field="sha256",
            expected=expected,
            actual=actual,
        )
