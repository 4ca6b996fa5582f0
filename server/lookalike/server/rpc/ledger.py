"""What is under way in one upload stream, and what its client must still be told."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from lookalike.backends.errors import Unavailable
from lookalike.server.deadlines import Until
from lookalike.server.domain import Outcome, WriteResult
from lookalike.server.rpc.wire_items import OUTCOMES, write_result
from lookalike.v1 import index_service_pb2 as pb

_RETRY_S = 1.0
_ACKS_PER_MESSAGE = 256
"""Some kilobytes: over a connection that breaks all the time one of them gets through."""


@dataclass(slots=True)
class _Entry:
    """An item that is not done with; `counted` = it has a place in the window."""

    epoch: int
    size: int
    weight: int
    """Its part of the window's places; 0 while it has none."""


@dataclass(frozen=True, slots=True)
class Window:
    """How much of one stream may be under way."""

    items: int
    """Items with a picture."""
    bytes: int
    vectors: int = 0
    """Items without one, if there are no others; 0: as many as `items`."""

    @property
    def places(self) -> int:
        return max(self.items, self.vectors, 1)

    def weight(self, *, picture: bool) -> int:
        """Return how many places an item takes."""
        return self.places // max(1, self.items) if picture else 1


class Ledger:
    """The accounts between the thread that reads a stream and the one that answers it.

    The reader reserves places in the window, begins items, asks for flushes and
    closes; any thread ends items; the answering thread takes messages. An item
    keeps its places until its acknowledgement is taken, so a client that does not
    read is not read from either; its bytes are free once it has ended.
    """

    def __init__(self, window: Window, idle_s: float | None = None) -> None:
        self.failures_only = False
        self._idle_s = idle_s
        self._quiet_since = time.monotonic()
        self.window = window
        self.until = Until(math.inf)
        """Comes when nobody listens any more: what was not begun by then never is."""
        self._changed = threading.Condition()
        self._entries: dict[int, _Entry] = {}
        self._epoch = 0
        self._outstanding: Counter[int] = Counter()
        """Items under way by epoch; a flush ends an epoch. Keys rise."""
        self._places = 0
        self._bytes = 0
        self._counts: Counter[str] = Counter()
        self._started: pb.UploadItemsResponse | None = None
        self._may_tell = False
        self._draining: pb.UploadItemsResponse | None = None
        self._acks: list[tuple[int, WriteResult]] = []
        self._acked_places = 0
        """Places of the items in `_acks`, free when these are taken."""
        self._flushes: deque[tuple[int, int]] = deque()
        self._closed = False
        self._summed_up = False
        self._failure: Exception | None = None

    # ------------------------------------------------------------- the reader

    @property
    def stopped(self) -> bool:
        """True once nobody listens any more."""
        return self.until.left

    @property
    def waiting_flushes(self) -> int:
        """Flushes that were not answered."""
        return len(self._flushes)

    def start(self, message: pb.UploadItemsResponse) -> None:
        """Say the first message; nothing else is told before it."""
        with self._changed:
            self._started = message
            self._changed.notify_all()

    def reserve(self, sizes: Sequence[int], weights: Sequence[int]) -> int:
        """Wait for room, take places for the first n of these items, return n >= 1.

        An item larger than the whole window gets through when nothing else is
        under way. Waits until a quarter of the window is free, so that items go on
        in groups. Returns 0 if the stream was stopped.
        """
        group = min(sum(weights), max(weights[0], self.window.places // 4))
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or self._has_room(group))
            if self.stopped:
                return 0
            count = 0
            while count < len(sizes) and (count == 0 or self._has_room(weights[count])):
                self._places += weights[count]
                self._bytes += sizes[count]
                count += 1
            return count

    def _has_room(self, places: int) -> bool:
        return (
            self._places + places <= self.window.places or not self._places
        ) and self._bytes < self.window.bytes

    def begin(self, seqs: Sequence[int], sizes: Sequence[int], weights: Sequence[int]) -> None:
        """Enter items of so many bytes, for which places were reserved."""
        with self._changed:
            for seq, size, weight in zip(seqs, sizes, weights, strict=True):
                self._entries[seq] = _Entry(self._epoch, size, weight)
            self._outstanding[self._epoch] += len(seqs)

    def release(self, seq: int) -> None:
        """Give up an item's places, though the item is not done with."""
        with self._changed:
            entry = self._entries[seq]
            self._places -= entry.weight
            self._bytes -= entry.size
            entry.weight = 0
            self._changed.notify_all()

    def regain(self, seq: int, size: int, weight: int) -> None:
        """Give an item whose places were given up those that were reserved for it."""
        with self._changed:
            entry = self._entries[seq]
            entry.size, entry.weight = size, weight

    def forget(self, seqs: Sequence[int]) -> None:
        """Drop items that nobody will be told of, because the stream fails."""
        with self._changed:
            for seq in seqs:
                if (entry := self._entries.pop(seq, None)) is not None:
                    self._settle(entry)
                    self._places -= entry.weight
            self._changed.notify_all()

    def flush(self, token: int) -> None:
        """Ask for a word when all items begun so far have ended."""
        with self._changed:
            self._flushes.append((token, self._epoch))
            self._epoch += 1
            self._changed.notify_all()

    def close(self, failure: Exception | None = None) -> None:
        """Say that nothing more will be read; `failure` is raised after the last acknowledgement."""
        with self._changed:
            self._closed = True
            self._failure = failure
            self._changed.notify_all()

    def heard(self) -> None:
        """Say that the client has sent something."""
        self._quiet_since = time.monotonic()

    # -------------------------------------------------------------- any thread

    def end(self, seqs: Sequence[int], results: Sequence[WriteResult]) -> None:
        """Enter what became of some items."""
        with self._changed:
            for seq, result in zip(seqs, results, strict=True):
                if (entry := self._entries.pop(seq, None)) is None:
                    continue
                self._settle(entry)
                self._counts[result.outcome._value_] += 1
                if self.failures_only and result.outcome is not Outcome.FAILED:
                    self._places -= entry.weight
                    self._quiet_since = time.monotonic()
                else:
                    self._acked_places += entry.weight
                    self._acks.append((seq, result))
            self._changed.notify_all()

    def _settle(self, entry: _Entry) -> None:
        if entry.weight:
            self._bytes -= entry.size
        self._outstanding[entry.epoch] -= 1
        if not self._outstanding[entry.epoch]:
            del self._outstanding[entry.epoch]

    def drain(self, grace_s: float) -> None:
        """Tell the client that the server goes down."""
        with self._changed:
            self._draining = pb.UploadItemsResponse(
                draining=pb.UploadDraining(grace_seconds=grace_s)
            )
            self._changed.notify_all()

    def stop(self) -> None:
        """Wake everyone and say nothing more: the client has gone."""
        with self._changed:
            self.until.leave()
            self._changed.notify_all()

    # ---------------------------------------------------- the answering thread

    def take(self) -> list[pb.UploadItemsResponse]:
        """Wait for something to tell and return it; [] at the end of the stream.

        Raises the failure that the reader closed with, when all else was told; Unavailable
        if the client has sent nothing for too long, and has had all that it may wait for.
        """
        with self._changed:
            while not self.stopped:
                if messages := self._ready():
                    return messages
                if self._closed and not self._entries:
                    return self._end()
                self._changed.wait(self._patience_s())
            return []

    def _patience_s(self) -> float | None:
        """Return how long to wait for a word of the client; None: it waits for the server."""
        now = time.monotonic()
        if self._idle_s is None or self._closed:
            return None
        if self._places:
            self._quiet_since = now
            return None
        left_s = self._quiet_since + self._idle_s - now
        if left_s <= 0:
            raise Unavailable(
                f"The upload has sent nothing for {self._idle_s:g} s and was ended to make room "
                "for others. All that it sent is acknowledged; go on with another.",
                retry_after_s=_RETRY_S,
            )
        return left_s

    def _ready(self) -> list[pb.UploadItemsResponse]:
        messages = []
        if self._started is not None:
            messages.append(self._started)
            self._started, self._may_tell = None, True
        if not self._may_tell:
            return []
        acks, self._acks = self._acks, []
        self._places -= self._acked_places
        self._acked_places = 0
        if acks:
            self._quiet_since = time.monotonic()  # for this the client may have waited
            self._changed.notify_all()  # the reader may go on
        for i in range(0, len(acks), _ACKS_PER_MESSAGE):
            messages.append(_write_acks(acks[i : i + _ACKS_PER_MESSAGE]))
        while self._flushes and not self._is_outstanding(self._flushes[0][1]):
            token, _ = self._flushes.popleft()
            flushed = pb.UploadFlushed(token=token, counts=self._write_counts())
            messages.append(pb.UploadItemsResponse(flushed=flushed))
        if self._draining is not None:
            messages.append(self._draining)
            self._draining = None
        return messages

    def _is_outstanding(self, epoch: int) -> bool:
        return any(key <= epoch for key in self._outstanding)

    def _end(self) -> list[pb.UploadItemsResponse]:
        if self._failure is not None:
            raise self._failure
        if self._summed_up:
            return []
        self._summed_up = True
        return [pb.UploadItemsResponse(summary=pb.UploadSummary(counts=self._write_counts()))]

    def _write_counts(self) -> pb.UploadCounts:
        return pb.UploadCounts(
            created=self._counts["created"],
            updated=self._counts["updated"],
            unchanged=self._counts["unchanged"],
            skipped=self._counts["skipped"],
            failed=self._counts["failed"],
        )


def _write_acks(acks: Sequence[tuple[int, WriteResult]]) -> pb.UploadItemsResponse:
    message = pb.UploadItemsResponse()
    told = message.acks.acks
    for seq, result in acks:
        ack = told.add(seq=seq)
        if result.error is not None:
            ack.result.CopyFrom(write_result(result, "item"))
            continue
        ack.result.id = result.id
        ack.result.outcome = OUTCOMES[result.outcome._value_]
    return message
