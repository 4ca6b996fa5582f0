"""A throw-away server of the v1 protocol, strict about it and able to misbehave on order."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from client.fake_answers import FakeAnswers
from lookalike.client import vector_array, vector_message
from lookalike.v1 import (
    embed_service_pb2,
    embed_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
    types_pb2,
)

DIM = 8
V1 = index_service_pb2


def vector_of(data: bytes) -> Any:
    """A unit vector that is a function of the bytes."""
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def abort(context: Any, code: int, reason: str, message: str, retry_s: float | None = None) -> None:
    """Fail a call as the real server does: Status with ErrorInfo."""
    status = status_pb2.Status(code=code, message=message)
    details: list[Any] = [
        error_details_pb2.ErrorInfo(reason=reason, domain="lookalike", metadata={"a": "b"})
    ]
    if retry_s is not None:
        delay = duration_pb2.Duration(nanos=int(retry_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    violation = error_details_pb2.BadRequest.FieldViolation(field="items[3].vector")
    details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))


@dataclass
class Script:
    """What goes wrong; each number is used up by the stream or call that it hits."""

    break_after_items: list[int] = field(default_factory=list)
    """For each next stream: store so many items, acknowledge all but the last, then break."""
    drain_after_items: list[int] = field(default_factory=list)
    refuse_streams: list[tuple[int, str]] = field(default_factory=list)
    """(code, reason) with which the next streams are refused."""
    window_items: int = 16
    window_bytes: int = 4 * 2**20
    window_vectors: int = 0
    max_image_bytes: int = 32 * 2**20
    ack_delay_s: float = 0.0


@dataclass
class Seen:
    """What the server saw."""

    message_sizes: list[int] = field(default_factory=list)
    items_per_message: list[int] = field(default_factory=list)
    streams: int = 0
    items_of_stream: list[int] = field(default_factory=list)
    """Items that arrived whole, by stream."""
    embedded: int = 0
    calls: list[Any] = field(default_factory=list)


class FakeServer(
    FakeAnswers,
    index_service_pb2_grpc.IndexServiceServicer,
    search_service_pb2_grpc.SearchServiceServicer,
    embed_service_pb2_grpc.EmbedServiceServicer,
    system_service_pb2_grpc.SystemServiceServicer,
):
    """Items in a dict by (collection, id): (ItemInput, digest)."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], Any] = {}
        self.collections: dict[str, Any] = {"default": V1.Collection(name="default")}
        self.groups = []
        self.script = Script()
        self.seen = Seen()
        self.fail: tuple[int, str, str] | None = None
        self.unavailable_times = 0
        self.call_delay_s = 0.0
        self.health = b"\x08\x01"
        self._lock = threading.Lock()
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 * 2**20)],
        )
        index_service_pb2_grpc.add_IndexServiceServicer_to_server(self, self._server)
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(self, self._server)
        embed_service_pb2_grpc.add_EmbedServiceServicer_to_server(self, self._server)
        system_service_pb2_grpc.add_SystemServiceServicer_to_server(self, self._server)
        check: Any = grpc.unary_unary_rpc_method_handler(lambda request, context: self.health)
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})]
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    # ---------------------------------------------------------------- writes

    def store(self, collection: str, item: Any, mode: int) -> Any:
        data = item.image.data if item.HasField("image") else b""
        if data.startswith(b"bad"):
            error = types_pb2.Error(
                code=3, reason="IMAGE_UNDECODABLE", message="The picture is damaged."
            )
            return V1.WriteResult(id=item.id, outcome=V1.WRITE_OUTCOME_FAILED, error=error)
        item_id = item.id or "sha256:" + hashlib.sha256(data).hexdigest()
        digest = hashlib.sha256(item.SerializeToString(deterministic=True)).digest()
        with self._lock:
            old = self.items.get((collection, item_id))
            if old is not None and old[1] == digest:
                return V1.WriteResult(id=item_id, outcome=V1.WRITE_OUTCOME_UNCHANGED)
            if old is not None and mode == V1.WRITE_MODE_SKIP_EXISTING:
                return V1.WriteResult(id=item_id, outcome=V1.WRITE_OUTCOME_SKIPPED)
            self.seen.embedded += 1
            kept = V1.ItemInput()
            kept.CopyFrom(item)
            kept.id = item_id
            self.items[(collection, item_id)] = (kept, digest)
        done = V1.WRITE_OUTCOME_CREATED if old is None else V1.WRITE_OUTCOME_UPDATED
        return V1.WriteResult(id=item_id, outcome=done)

    def UpsertItems(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        results = [self.store(request.collection, i, request.write_mode) for i in request.items]
        failed = sum(r.outcome == V1.WRITE_OUTCOME_FAILED for r in results)
        return V1.UpsertItemsResponse(results=results, failed_count=failed)

    def UploadItems(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        script, seen = self.script, self.seen
        seen.streams += 1
        seen.items_of_stream.append(0)
        if script.refuse_streams:
            abort(context, *script.refuse_streams.pop(0), "Not now.", 0.05)
        break_after = script.break_after_items.pop(0) if script.break_after_items else -1
        drain_after = script.drain_after_items.pop(0) if script.drain_after_items else -1
        first = next(requests)
        assert first.HasField("start"), first
        seen.calls.append(first)
        started = V1.UploadStarted(
            window_items=script.window_items,
            window_bytes=script.window_bytes,
            window_vectors=script.window_vectors,
            max_message_bytes=2**20,
            max_image_bytes=script.max_image_bytes,
        )
        yield V1.UploadItemsResponse(started=started)
        for done, (seq, item) in enumerate(self._uploaded(requests), 1):
            seen.items_of_stream[-1] += 1
            if script.ack_delay_s:
                time.sleep(script.ack_delay_s)
            result = self.store(first.start.collection, item, first.start.write_mode)
            if done == break_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            ack = V1.UploadAck(seq=seq, result=result)
            yield V1.UploadItemsResponse(acks=V1.UploadAcks(acks=[ack]))
            if done == drain_after:
                yield V1.UploadItemsResponse(draining=V1.UploadDraining(grace_seconds=5))
        yield V1.UploadItemsResponse(summary=V1.UploadSummary())

    def _uploaded(self, requests: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        open_items: dict[int, Any] = {}
        last_seq = 0
        for request in requests:
            self.seen.message_sizes.append(request.ByteSize())
            match request.WhichOneof("message"):
                case "batch":
                    self.seen.items_per_message.append(len(request.batch.items))
                    for one in request.batch.items:
                        assert one.seq > last_seq
                        last_seq = one.seq
                        if one.chunked:
                            assert not one.item.HasField("image")
                            open_items[one.seq] = (one.item, bytearray())
                            assert len(open_items) <= 16
                        else:
                            yield one.seq, one.item
                case "chunk":
                    item, data = open_items[request.chunk.seq]
                    assert request.chunk.offset == len(data)
                    data += request.chunk.data
                    if request.chunk.last:
                        del open_items[request.chunk.seq]
                        item.image.data = bytes(data)
                        yield request.chunk.seq, item

    # ----------------------------------------------------------------- reads

    def _maybe_fail(self, request: Any, context: Any) -> None:
        self.seen.calls.append(request)
        time.sleep(self.call_delay_s)
        if self.unavailable_times:
            self.unavailable_times -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
        if self.fail is not None:
            abort(context, *self.fail)

    def _item(self, stored: Any, full: bool) -> Any:
        item = types_pb2.Item(id=stored.id, metadata=stored.metadata)
        if stored.HasField("image"):
            item.image.CopyFrom(types_pb2.ImageInfo(width=4, height=3, media_type="image/png"))
        if full:
            item.vector.CopyFrom(vector_message(vector_of(stored.image.data)))
        return item

    def _all(self, collection: str) -> list[Any]:
        return [v[0] for (c, _), v in sorted(self.items.items()) if c == collection]

    def GetItem(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        stored = self.items.get((request.collection, request.id))
        if stored is None:
            abort(context, 5, "ITEM_NOT_FOUND", f'There is no item "{request.id}".')
        assert stored is not None
        full = request.view == types_pb2.ITEM_VIEW_FULL
        return V1.GetItemResponse(item=self._item(stored[0], full))

    def ListItems(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        after, size = request.page_token, request.page_size or 100
        found = [i for i in self._all(request.collection) if i.id > after]
        page = [self._item(i, False) for i in found[:size]]
        token = page[-1].id if len(found) > size else ""
        return V1.ListItemsResponse(items=page, next_page_token=token)

    def CountItems(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        return V1.CountItemsResponse(count=len(self._all(request.collection)))

    def UpdateItemMetadata(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        stored = self.items[(request.collection, request.id)][0]
        stored.metadata.MergeFrom(request.metadata)
        return V1.UpdateItemMetadataResponse(item=self._item(stored, False))

    def DeleteItems(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        ids = [i for i in request.ids if (request.collection, i) in self.items]
        if not request.dry_run:
            for item_id in ids:
                del self.items[(request.collection, item_id)]
        return V1.DeleteItemsResponse(deleted_count=len(ids))

    def ExportItems(self, request: Any, context: Any) -> Iterator[Any]:
        items = [kept for (name, _), (kept, _) in self.items.items() if name == request.collection]
        collection = V1.Collection(name=request.collection, dimension=DIM, item_count=len(items))
        yield V1.ExportItemsResponse(start=V1.ExportStart(collection=collection))
        for kept in items:
            item = types_pb2.Item(id=kept.id, metadata=kept.metadata, vector=kept.vector)
            yield V1.ExportItemsResponse(batch=V1.ExportBatch(items=[V1.ExportedItem(item=item)]))
        yield V1.ExportItemsResponse(end=V1.ExportEnd(item_count=len(items)))

    def GetItemImage(self, request: Any, context: Any) -> Iterator[Any]:
        self._maybe_fail(request, context)
        stored = self.items.get((request.collection, request.id))
        if stored is None:
            abort(context, 5, "IMAGE_NOT_RETAINED", "There is no such picture.")
        assert stored is not None
        data = stored[0].image.data
        yield V1.GetItemImageResponse(media_type="image/png", size_bytes=len(data), data=data[:5])
        yield V1.GetItemImageResponse(data=data[5:])

    def Search(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        return self._answer(request)

    def _answer(self, request: Any) -> Any:
        match request.WhichOneof("query"):
            case None:
                query = vector_of(request.parts[0].SerializeToString())
            case "image":
                query = vector_of(request.image.data)
            case "text":
                query = vector_of(request.text.encode())
            case "vector":
                query = vector_array(request.vector)
            case _:
                query = vector_of(self.items[(request.collection, request.item_id)][0].image.data)
        hits = [
            search_service_pb2.SearchHit(
                score=float(vector_of(i.image.data) @ query), item=self._item(i, False)
            )
            for i in self._all(request.collection)
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.item.id))
        self.judge(request, hits)
        info = search_service_pb2.SearchInfo(exact=True, total_ms=1.0)
        return search_service_pb2.SearchResponse(hits=hits[: request.limit], info=info)

    def BatchSearch(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        return search_service_pb2.BatchSearchResponse(
            results=[self._result(query) for query in request.queries]
        )

    def StreamSearch(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            self._maybe_fail(request.search, context)
            yield search_service_pb2.StreamSearchResponse(
                tag=request.tag, result=self._result(request.search)
            )

    def _result(self, query: Any) -> Any:
        if query.text == "bad":
            error = types_pb2.Error(code=9, reason="MODEL_LACKS_MODALITY", message="No text.")
            return search_service_pb2.BatchSearchResult(error=error)
        return search_service_pb2.BatchSearchResult(response=self._answer(query))

    def Embed(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        results = []
        for one in request.inputs:
            data = one.image.data if one.HasField("image") else one.text.encode()
            if data.startswith(b"bad"):
                error = types_pb2.Error(code=3, reason="IMAGE_UNDECODABLE", message="Damaged.")
                results.append(embed_service_pb2.EmbedResult(error=error))
            else:
                vector = vector_message(vector_of(data))
                results.append(embed_service_pb2.EmbedResult(vector=vector))
        model = embed_service_pb2.Model(name="fake", dimension=DIM, fingerprint="f/1")
        return embed_service_pb2.EmbedResponse(results=results, model=model)

    def GetModel(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")

    def ListModels(self, request: Any, context: Any) -> Any:
        modalities: Any = [1, 2, 77]
        model = embed_service_pb2.Model(name="fake", dimension=DIM, modalities=modalities)
        if not request.page_token:
            return embed_service_pb2.ListModelsResponse(models=[model], next_page_token="2")
        return embed_service_pb2.ListModelsResponse(models=[model])

    # ------------------------------------------------- collections and jobs

    def CreateCollection(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        if request.collection.name in self.collections and not request.exist_ok:
            abort(context, 6, "COLLECTION_EXISTS", "It is there already.")
        self.collections[request.collection.name] = request.collection
        return V1.CreateCollectionResponse(collection=request.collection)

    def GetCollection(self, request: Any, context: Any) -> Any:
        found = self.collections.get(request.name or "default")
        if found is None:
            abort(context, 5, "COLLECTION_NOT_FOUND", f'There is no collection "{request.name}".')
        return V1.GetCollectionResponse(collection=found)

    def ListCollections(self, request: Any, context: Any) -> Any:
        return V1.ListCollectionsResponse(collections=self.collections.values())

    def DeleteCollection(self, request: Any, context: Any) -> Any:
        if self.collections.pop(request.name, None) is None and not request.missing_ok:
            abort(context, 5, "COLLECTION_NOT_FOUND", f'There is no collection "{request.name}".')
        return V1.DeleteCollectionResponse(deleted_count=7)

    def _job(self, job_id: str, state: int = V1.JOB_STATE_RUNNING) -> Any:
        return V1.Job(id=job_id, kind=V1.JOB_KIND_REBUILD_INDEX, collection="default", state=state)  # type: ignore[arg-type]

    def RebuildIndex(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        return V1.RebuildIndexResponse(job=self._job("job-1"))

    def GetJob(self, request: Any, context: Any) -> Any:
        if request.id != "job-1":
            abort(context, 5, "JOB_NOT_FOUND", "There is no such job.")
        return V1.GetJobResponse(job=self._job(request.id))

    def ListJobs(self, request: Any, context: Any) -> Any:
        return V1.ListJobsResponse(jobs=[self._job("job-1")])

    def WatchJob(self, request: Any, context: Any) -> Iterator[Any]:
        yield V1.WatchJobResponse(job=self._job(request.id))
        yield V1.WatchJobResponse(job=self._job(request.id, V1.JOB_STATE_SUCCEEDED))

    def CancelJob(self, request: Any, context: Any) -> Any:
        return V1.CancelJobResponse(job=self._job(request.id, V1.JOB_STATE_CANCELLED))

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        limits = system_service_pb2.Limits(max_batch_size=256)
        return system_service_pb2.GetServerInfoResponse(version="0.0.0-fake", limits=limits)
