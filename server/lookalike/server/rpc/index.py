"""IndexService: read wire, call the domain, write wire."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import grpc

from lookalike.backends.errors import CollectionNotFound, InvalidArgument
from lookalike.backends.types import IndexSpec, Metric
from lookalike.server.domain import CollectionInfo, Item, View
from lookalike.server.limits import Limits
from lookalike.server.rpc.access import Keys
from lookalike.server.rpc.export import send_export
from lookalike.server.rpc.interceptors import deadline_of
from lookalike.server.rpc.paging import page_size, read_token, write_token
from lookalike.server.rpc.ports import (
    Calibrations,
    Collection,
    Exporter,
    Ingest,
    Jobs,
    Library,
)
from lookalike.server.rpc.upload import Uploads
from lookalike.server.rpc.wire import VIEWS, check_batch, read_enum, read_metadata, read_name
from lookalike.server.rpc.wire_collections import (
    read_changed_index,
    read_collection,
    write_collection,
    write_job,
)
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.server.rpc.wire_items import read_item_id, write_item
from lookalike.server.rpc.writes import upsert
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import index_service_pb2_grpc

_PIECE_BYTES = 256 * 2**10
_PAGE_BYTES = 16 * 2**20
"""A page of items ends after this many bytes, though it may have more entries."""
_FULL_ITEMS = 64
"""Items with their vectors are fetched so many at a time: 8 MiB at the most dimensions."""


class IndexService(index_service_pb2_grpc.IndexServiceServicer):
    """Keeps collections of items and the indexes over them."""

    def __init__(
        self,
        library: Library,
        ingest: Ingest,
        jobs: Jobs,
        uploads: Uploads,
        limits: Limits,
        *,
        calibrations: Calibrations,
        exporter: Exporter,
        default_index: IndexSpec,
        default_deadline_s: float,
        keys: Keys | None = None,
    ) -> None:
        self._library = library
        self._ingest = ingest
        self._jobs = jobs
        self._uploads = uploads
        self._limits = limits
        self._calibrations = calibrations
        self._exporter = exporter
        self._default_index = default_index
        self._default_deadline_s = default_deadline_s
        self._keys = keys

    # ------------------------------------------------------------ collections

    def CreateCollection(
        self, request: pb.CreateCollectionRequest, context: grpc.ServicerContext
    ) -> pb.CreateCollectionResponse:
        """Make an empty collection."""
        config = read_collection(request.collection, self._limits, self._default_index)
        info = self._library.create_collection(config, request.exist_ok)
        return pb.CreateCollectionResponse(collection=write_collection(info))

    def GetCollection(
        self, request: pb.GetCollectionRequest, context: grpc.ServicerContext
    ) -> pb.GetCollectionResponse:
        """Describe one collection."""
        name = read_name(request.name, "name")
        info = self._library.describe(name)
        calibration = self._calibrations.of(name)
        return pb.GetCollectionResponse(collection=write_collection(info, calibration))

    def ListCollections(
        self, request: pb.ListCollectionsRequest, context: grpc.ServicerContext
    ) -> pb.ListCollectionsResponse:
        """List the collections by name."""
        size = page_size(request, self._limits)
        found = self._visible(read_token(request), size + 1, context)
        page = found[:size]
        more = len(found) > size
        return pb.ListCollectionsResponse(
            collections=[write_collection(info) for info in page],
            next_page_token=write_token(request, page[-1].record.config.name) if more else "",
        )

    def _visible(
        self, after: str, count: int, context: grpc.ServicerContext
    ) -> list[CollectionInfo]:
        """Return the collections that a caller's key is for, by name, `count` at most."""
        names = self._keys.collections(context.invocation_metadata()) if self._keys else None
        if names is None:
            return self._library.list_collections(after, count)
        found: list[CollectionInfo] = []
        for name in sorted(name for name in names if name > after):
            if len(found) < count:
                with suppress(CollectionNotFound):
                    found.append(self._library.describe(name))
        return found

    def DeleteCollection(
        self, request: pb.DeleteCollectionRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCollectionResponse:
        """Delete a collection with all its items."""
        if not request.name:
            raise InvalidArgument("Say which collection to delete, in `name`.", field="name")
        name = read_name(request.name, "name")
        return pb.DeleteCollectionResponse(
            deleted_count=self._library.delete_collection(name, request.missing_ok)
        )

    # ------------------------------------------------------------------ writes

    def UpsertItems(
        self, request: pb.UpsertItemsRequest, context: grpc.ServicerContext
    ) -> pb.UpsertItemsResponse:
        """Store items; those that fail have their errors in their places."""
        deadline = deadline_of(context, self._default_deadline_s)
        return upsert(self._ingest, request, self._limits, deadline, context)

    def UploadItems(
        self, request_iterator: Iterator[pb.UploadItemsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.UploadItemsResponse]:
        """Store any number of items over one stream."""
        return self._uploads.run(request_iterator, context)

    def UpdateItemMetadata(
        self, request: pb.UpdateItemMetadataRequest, context: grpc.ServicerContext
    ) -> pb.UpdateItemMetadataResponse:
        """Change an item's metadata."""
        item_id = read_item_id(request.id, self._limits, "id")
        metadata = read_metadata(request.metadata, self._limits, "metadata")
        item = self._collection(request.collection).update_metadata(
            item_id, metadata, request.replace
        )
        return pb.UpdateItemMetadataResponse(item=write_item(item, View.BASIC))

    def DeleteItems(
        self, request: pb.DeleteItemsRequest, context: grpc.ServicerContext
    ) -> pb.DeleteItemsResponse:
        """Delete items by id or by filter."""
        where = read_filter(request.filter, self._limits)
        if bool(request.ids) == request.HasField("filter"):
            raise InvalidArgument("Set exactly one of `ids` and `filter`.", field="ids")
        if not request.ids:
            if not where:
                raise InvalidArgument(
                    "The filter is empty, which would delete everything; DeleteCollection does "
                    "that.",
                    field="filter",
                )
            collection = self._collection(request.collection)
            count = collection.delete_where(where, dry_run=request.dry_run)
            return pb.DeleteItemsResponse(deleted_count=count)
        check_batch(len(request.ids), self._limits.max_delete_ids, "ids")
        for i, item_id in enumerate(request.ids):
            read_item_id(item_id, self._limits, f"ids[{i}]")
        collection = self._collection(request.collection)
        count = collection.delete(list(request.ids), dry_run=request.dry_run)
        return pb.DeleteItemsResponse(deleted_count=count)

    # ------------------------------------------------------------------- reads

    def GetItem(
        self, request: pb.GetItemRequest, context: grpc.ServicerContext
    ) -> pb.GetItemResponse:
        """Give one item."""
        item_id = read_item_id(request.id, self._limits, "id")
        view = read_enum(request.view, VIEWS, "view")
        item = self._collection(request.collection).get(item_id, view)
        return pb.GetItemResponse(item=write_item(item, view))

    def ListItems(
        self, request: pb.ListItemsRequest, context: grpc.ServicerContext
    ) -> pb.ListItemsResponse:
        """List items by id; a page ends early where its items are large."""
        size = page_size(request, self._limits)
        where = read_filter(request.filter, self._limits)
        view = read_enum(request.view, VIEWS, "view")
        after = read_token(request)
        collection = self._collection(request.collection)
        response = pb.ListItemsResponse()
        bytes_left = min(_PAGE_BYTES, self._limits.max_message_bytes // 2)
        at_once = min(size, _FULL_ITEMS) if view is View.FULL else size
        while True:
            found: list[Item] = collection.list(where, after, at_once + 1, view)
            for item in found[:at_once]:
                response.items.append(write_item(item, view))
                after = item.id
                bytes_left -= response.items[-1].ByteSize()
                if len(response.items) == size or bytes_left <= 0:
                    if item is not found[-1]:
                        response.next_page_token = write_token(request, after)
                    return response
            if len(found) <= at_once:
                return response

    def CountItems(
        self, request: pb.CountItemsRequest, context: grpc.ServicerContext
    ) -> pb.CountItemsResponse:
        """Count items."""
        where = read_filter(request.filter, self._limits)
        return pb.CountItemsResponse(count=self._collection(request.collection).count(where))

    def GetItemImage(
        self, request: pb.GetItemImageRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GetItemImageResponse]:
        """Give a stored file in pieces; a caller that does not read them is left behind."""
        item_id = read_item_id(request.id, self._limits, "id")
        image = self._collection(request.collection).image(item_id, request.original)
        first = pb.GetItemImageResponse(
            media_type=image.media_type,
            size_bytes=len(image.data),
            data=image.data[:_PIECE_BYTES],
        )
        if len(image.data) <= _PIECE_BYTES:
            yield first
            return
        patience = threading.Timer(self._default_deadline_s, context.cancel)
        patience.daemon = True
        patience.start()
        try:
            yield first
            for start in range(_PIECE_BYTES, len(image.data), _PIECE_BYTES):
                yield pb.GetItemImageResponse(data=image.data[start : start + _PIECE_BYTES])
        finally:
            patience.cancel()

    def ExportItems(
        self, request: pb.ExportItemsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportItemsResponse]:
        """Send all items of one state; a caller that does not read them is left behind."""
        return send_export(self._exporter, request, self._limits, self._uploads.check_open, context)

    # -------------------------------------------------------------------- jobs

    def RebuildIndex(
        self, request: pb.RebuildIndexRequest, context: grpc.ServicerContext
    ) -> pb.RebuildIndexResponse:
        """Ask for a new index."""
        name = read_name(request.collection, "collection")
        spec = None
        if request.HasField("index"):  # the domain puts in the collection's own metric
            own = self._library.describe(name).record.config.index or self._default_index
            spec = read_changed_index(request.index, self._default_index, own, Metric.COSINE)
        return pb.RebuildIndexResponse(
            job=write_job(self._jobs.rebuild(name, spec, request.reembed))
        )

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.GetJobResponse:
        """Say how a job is doing."""
        return pb.GetJobResponse(job=write_job(self._jobs.get(request.id)))

    def ListJobs(
        self, request: pb.ListJobsRequest, context: grpc.ServicerContext
    ) -> pb.ListJobsResponse:
        """List jobs, the newest first."""
        size = page_size(request, self._limits)
        name = read_name(request.collection, "collection") if request.collection else ""
        found = self._jobs.list(name, read_token(request), size + 1)
        page = found[:size]
        return pb.ListJobsResponse(
            jobs=[write_job(job) for job in page],
            next_page_token=write_token(request, page[-1].id) if len(found) > size else "",
        )

    def WatchJob(
        self, request: pb.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchJobResponse]:
        """Send a job's state now and when it changes, until it ends."""
        last = None
        for job in self._jobs.watch(request.id):
            self._uploads.check_open()
            if not context.is_active():
                return
            if job != last:
                yield pb.WatchJobResponse(job=write_job(job))
            last = job

    def CancelJob(
        self, request: pb.CancelJobRequest, context: grpc.ServicerContext
    ) -> pb.CancelJobResponse:
        """Ask a job to stop."""
        return pb.CancelJobResponse(job=write_job(self._jobs.cancel(request.id)))

    def _collection(self, name: str) -> Collection:
        return self._library.collection(read_name(name, "collection"))
