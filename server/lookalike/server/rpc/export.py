"""ExportItems: all items of one state, in messages of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc

from lookalike.backends.errors import Cancelled
from lookalike.server.domain import CollectionInfo, CollectionState, View
from lookalike.server.export import Export
from lookalike.server.limits import Limits
from lookalike.server.rpc.ports import Exporter
from lookalike.server.rpc.wire import read_name
from lookalike.server.rpc.wire_collections import write_collection
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.server.rpc.wire_items import write_item
from lookalike.server.store import Exported
from lookalike.v1 import index_service_pb2 as pb

_AIM_BYTES = 512 * 2**10
"""A message of items is sent when it has so many bytes; one item has at most a few more."""
_PIECE_BYTES = 256 * 2**10


def send_export(
    exporter: Exporter,
    request: pb.ExportItemsRequest,
    limits: Limits,
    check_open: Callable[[], None],
    context: grpc.ServicerContext,
) -> Iterator[pb.ExportItemsResponse]:
    """Send a collection as it is now; it ends when the caller goes or the server does.

    Raises InvalidArgument, FilterInvalid, CollectionNotFound, DataLoss,
    ResourceExhausted.
    """
    name = read_name(request.collection, "collection")
    where = read_filter(request.filter, limits)
    with exporter.export(name, where, images=not request.without_images) as export:
        yield pb.ExportItemsResponse(start=_write_start(export))
        end = pb.ExportEnd()
        for message in _batches(export.items, end):
            check_open()
            if not context.is_active():
                raise Cancelled("The caller has gone.")
            yield message
        yield pb.ExportItemsResponse(end=end)


def _batches(items: Iterator[Exported], end: pb.ExportEnd) -> Iterator[pb.ExportItemsResponse]:
    """Yield items and originals; count them in `end`."""
    batch, size = pb.ExportBatch(), 0
    for exported in items:
        message = _write_item(exported)
        batch.items.append(message)
        size += message.ByteSize()
        end.item_count += 1
        end.thumbnail_count += exported.thumbnail is not None
        end.original_count += exported.original is not None
        if size >= _AIM_BYTES or exported.original is not None:
            yield pb.ExportItemsResponse(batch=batch)
            batch, size = pb.ExportBatch(), 0
        if exported.original is not None:
            data = exported.original.data
            for start in range(0, len(data), _PIECE_BYTES):
                yield pb.ExportItemsResponse(original=data[start : start + _PIECE_BYTES])
    if batch.items:
        yield pb.ExportItemsResponse(batch=batch)


def _write_start(export: Export) -> pb.ExportStart:
    info = CollectionInfo(export.record, CollectionState.READY, export.item_count)
    return pb.ExportStart(
        seq=export.seq,
        collection=write_collection(info),
        store_id=export.store_id,
        server_version=export.server_version,
    )


def _write_item(exported: Exported) -> pb.ExportedItem:
    original = exported.original
    return pb.ExportedItem(
        item=write_item(exported.item, View.FULL),
        digest=exported.digest,
        thumbnail=exported.thumbnail or b"",
        original_bytes=0 if original is None else len(original.data),
    )
