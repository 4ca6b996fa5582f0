"""UpsertItems: many items in, one answer when the last of them is done with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import grpc

from lookalike.backends.errors import Cancelled, DeadlineExceeded, LookalikeError
from lookalike.server.domain import NewItem, Outcome, WriteResult
from lookalike.server.limits import Limits
from lookalike.server.rpc.ports import Ingest
from lookalike.server.rpc.wire import EXIF_MODES, WRITE_MODES, check_batch, read_enum, read_name
from lookalike.server.rpc.wire_items import read_items, short_id, write_result
from lookalike.v1 import index_service_pb2 as pb


class _Results:
    """The results of one call as they come in, from any thread and in any order."""

    def __init__(self, count: int) -> None:
        self.found: list[WriteResult | None] = [None] * count
        self.cancelled = False
        self._missing = count
        self._changed = threading.Condition()

    def put(self, places: Iterable[int], results: Iterable[WriteResult]) -> None:
        with self._changed:
            for i, result in zip(places, results, strict=True):
                self._missing -= self.found[i] is None
                self.found[i] = result
            if not self._missing:
                self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            self.cancelled = True
            self._changed.notify_all()

    def wait(self, deadline: float) -> bool:
        """Wait for the last result; False if time ran out or the caller left."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.cancelled or not self._missing, deadline - time.monotonic()
            )
            return not self._missing


def upsert(
    ingest: Ingest,
    request: pb.UpsertItemsRequest,
    limits: Limits,
    deadline: float,
    context: grpc.ServicerContext,
) -> pb.UpsertItemsResponse:
    """Store the items of a request and wait for all of them.

    Raises what concerns the whole call: InputsEmpty, BatchTooLarge,
    CollectionNotFound, DeadlineExceeded, Cancelled.
    """
    check_batch(len(request.items), limits.max_batch_size, "items")
    name = read_name(request.collection, "collection")
    mode = read_enum(request.write_mode, WRITE_MODES, "write_mode")
    exif = read_enum(request.exif, EXIF_MODES, "exif")
    results = _Results(len(request.items))
    good: list[tuple[int, NewItem]] = []
    for i, item in enumerate(read_items(request.items, limits, lambda i: f"items[{i}]")):
        if isinstance(item, LookalikeError):
            item_id = short_id(request.items[i].id, limits)
            results.put([i], [WriteResult(item_id, Outcome.FAILED, item)])
        else:
            good.append((i, item))
    if good:
        context.add_callback(results.cancel)
        ingest.submit(
            name,
            [item for _, item in good],
            mode,
            deadline=deadline,
            bulk=False,
            done=lambda places, written: results.put([good[j][0] for j in places], written),
            exif=exif,
        )
    if not results.wait(deadline):
        if results.cancelled and time.monotonic() < deadline:
            raise Cancelled("The caller has left.")
        raise DeadlineExceeded(
            "The time ran out before every item was stored; some may be. Sending the same items "
            "again does no harm."
        )
    written = [
        write_result(result, f"items[{i}]")
        for i, result in enumerate(results.found)
        if result is not None
    ]
    failed = sum(result.HasField("error") for result in written)
    return pb.UpsertItemsResponse(results=written, failed_count=failed)
