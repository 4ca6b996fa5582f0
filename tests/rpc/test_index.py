from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct, Value

from lookalike.backends.types import HnswParams, IndexSpec, IvfParams, Metric
from lookalike.server.domain import Condition, Filter, JobState, Test
from lookalike.server.limits import Limits
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2
from rpc.fake_domain import BAD_PICTURE
from rpc.harness import DEFAULT_INDEX, Failure, Server, failure, serving


def refusal(call: Any, request: Any) -> Failure:
    def ask() -> None:
        result = call(request, timeout=10)
        if hasattr(result, "__next__"):
            list(result)

    with pytest.raises(grpc.RpcError) as caught:
        ask()
    return failure(caught.value)


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def with_vector(item_id: str, **metadata: Any) -> pb.ItemInput:
    vector = types_pb2.Vector(values=[1.0] * 8)
    return pb.ItemInput(id=item_id, vector=vector, metadata=struct(**metadata))


def put(server: Server, *items: pb.ItemInput, **fields: Any) -> pb.UpsertItemsResponse:
    return server.index.UpsertItems(pb.UpsertItemsRequest(items=items, **fields), timeout=10)


# ------------------------------------------------------------------ collections


def test_a_collection_is_made_with_what_was_asked_for(server: Server) -> None:
    asked = pb.Collection(
        name="own-vectors_1",
        description="Shoes",
        model="none",
        dimension=8,
        metric=types_pb2.METRIC_L2,
        image_retention=pb.IMAGE_RETENTION_ORIGINAL,
        index=pb.IndexSpec(backend="hnswlib", hnsw=pb.HnswIndex(m=32, ef_construction=400)),
        item_count=99,  # the server's own fields are not looked at
    )
    made = server.index.CreateCollection(pb.CreateCollectionRequest(collection=asked)).collection
    config = server.library.collections["own-vectors_1"].record.config
    assert config.index == IndexSpec("hnswlib", HnswParams(32, 400, 0), {}, Metric.L2)
    same = ("name", "description", "model", "dimension", "metric", "image_retention", "index")
    assert all(getattr(made, field) == getattr(asked, field) for field in same)
    assert made.item_count == 0
    assert made.model_fingerprint == "fake/1"
    assert made.state == pb.COLLECTION_STATE_READY
    assert made.create_time.ToMilliseconds() == 1_700_000_000_250
    status = made.index_status
    assert (status.indexed_count, status.building, status.memory_bytes) == (2, True, 64)
    assert (status.segments[0].count, status.segments[0].live_count) == (3, 2)
    assert dict(status.segments[0].settings) == {"algorithm": "flat", "m": 16}


def test_what_is_not_said_gets_the_default(server: Server) -> None:
    made = server.index.CreateCollection(pb.CreateCollectionRequest()).collection
    assert made.name == "default"
    assert made.metric == types_pb2.METRIC_COSINE
    assert made.image_retention == pb.IMAGE_RETENTION_THUMBNAIL
    assert refusal(server.index.CreateCollection, pb.CreateCollectionRequest()).reason == (
        "COLLECTION_EXISTS"
    )


def test_an_index_without_a_backend_is_one_of_the_default_backend(server: Server) -> None:
    asked = pb.Collection(name="a", index=pb.IndexSpec(ivf=pb.IvfIndex(nlist=7)))
    server.index.CreateCollection(pb.CreateCollectionRequest(collection=asked))
    index = server.library.collections["a"].record.config.index
    assert index == replace(DEFAULT_INDEX, algorithm=IvfParams(7, 0))


@pytest.mark.parametrize(
    ("collection", "reason", "field"),
    [
        ({"name": "Shoes"}, "ARGUMENT_INVALID", "collection.name"),
        ({"name": "1a"}, "ARGUMENT_INVALID", "collection.name"),
        ({"name": "../a"}, "ARGUMENT_INVALID", "collection.name"),
        ({"name": "a" * 64}, "ARGUMENT_INVALID", "collection.name"),
        ({"name": "a\n"}, "ARGUMENT_INVALID", "collection.name"),
        ({"description": "x" * 1001}, "ARGUMENT_INVALID", "collection.description"),
        ({"metric": 9}, "ARGUMENT_INVALID", "collection.metric"),
        ({"image_retention": 9}, "ARGUMENT_INVALID", "collection.image_retention"),
        ({"model": "none"}, "ARGUMENT_INVALID", "collection.dimension"),
        ({"dimension": -1}, "ARGUMENT_INVALID", "collection.dimension"),
        ({"dimension": 32769}, "ARGUMENT_INVALID", "collection.dimension"),
        (
            {"index": pb.IndexSpec(hnsw=pb.HnswIndex(m=3))},
            "INDEX_SPEC_INVALID",
            "collection.index.hnsw.m",
        ),
        (
            {"index": pb.IndexSpec(hnsw=pb.HnswIndex(m=129))},
            "INDEX_SPEC_INVALID",
            "collection.index.hnsw.m",
        ),
        (
            {"index": pb.IndexSpec(hnsw=pb.HnswIndex(m=32, ef_construction=31))},
            "INDEX_SPEC_INVALID",
            "collection.index.hnsw.ef_construction",
        ),
        (
            {"index": pb.IndexSpec(ivf=pb.IvfIndex(nprobe=-1))},
            "INDEX_SPEC_INVALID",
            "collection.index.ivf.nprobe",
        ),
    ],
)
def test_a_collection_that_cannot_be_is_refused(
    server: Server, collection: dict[str, Any], reason: str, field: str
) -> None:
    found = refusal(
        server.index.CreateCollection,
        pb.CreateCollectionRequest(collection=pb.Collection(**collection)),
    )
    assert (found.code, found.reason, found.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        reason,
        field,
    )


def test_collections_are_listed_page_by_page(server: Server) -> None:
    for name in "cabed":
        asked = pb.CreateCollectionRequest(collection=pb.Collection(name=name))
        server.index.CreateCollection(asked)
    names, token, pages = [], "", 0
    while True:
        page = server.index.ListCollections(
            pb.ListCollectionsRequest(page_size=2, page_token=token)
        )
        names += [collection.name for collection in page.collections]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert (names, pages) == (list("abcde"), 3)


def test_a_collection_is_deleted_by_its_name_only(server: Server) -> None:
    put(server, with_vector("a"), with_vector("b"))
    found = refusal(server.index.DeleteCollection, pb.DeleteCollectionRequest())
    assert (found.reason, found.field) == ("ARGUMENT_INVALID", "name")
    gone = server.index.DeleteCollection(pb.DeleteCollectionRequest(name="default"))
    assert gone.deleted_count == 2
    found = refusal(server.index.DeleteCollection, pb.DeleteCollectionRequest(name="default"))
    assert found.code is grpc.StatusCode.NOT_FOUND
    again = pb.DeleteCollectionRequest(name="default", missing_ok=True)
    assert server.index.DeleteCollection(again).deleted_count == 0


# ------------------------------------------------------------------------ items


def test_items_that_fail_have_their_errors_in_their_places(server: Server) -> None:
    picture = types_pb2.Image(data=b"picture")
    deep = struct(a={"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}})  # 8 levels
    deeper = struct(a=deep)
    items = [
        pb.ItemInput(id="ok", image=picture, metadata=deep),
        pb.ItemInput(image=picture),
        pb.ItemInput(),
        pb.ItemInput(id="x"),
        pb.ItemInput(id="x\x07", image=picture),
        pb.ItemInput(id="é" * 129, image=picture),
        pb.ItemInput(id="x", image=types_pb2.Image()),
        pb.ItemInput(id="x", image=types_pb2.Image(data=b"")),
        pb.ItemInput(id="x", image=types_pb2.Image(data=BAD_PICTURE)),
        pb.ItemInput(id="x", vector=types_pb2.Vector()),
        pb.ItemInput(id="x", vector=types_pb2.Vector(values=[math.nan])),
        pb.ItemInput(id="x", vector=types_pb2.Vector(values=[1.0])),
        pb.ItemInput(id="x", image=picture, metadata=deeper),
        pb.ItemInput(id="x", image=picture, metadata=struct(a="x" * 16384)),
        pb.ItemInput(id="x", image=picture, metadata=struct(a=math.inf)),
    ]
    answer = put(server, *items)
    found = [(result.error.reason, result.error.field) for result in answer.results]
    assert found == [
        ("", ""),
        ("", ""),
        ("ID_MISSING", "items[2].id"),
        ("ARGUMENT_INVALID", "items[3]"),
        ("ID_INVALID", "items[4].id"),
        ("ID_INVALID", "items[5].id"),
        ("ARGUMENT_INVALID", "items[6].image"),
        ("IMAGE_UNDECODABLE", "items[7].image.data"),
        ("IMAGE_UNDECODABLE", "items[8].image"),
        ("DIMENSION_MISMATCH", "items[9].vector"),
        ("VECTOR_NOT_FINITE", "items[10].vector"),
        ("DIMENSION_MISMATCH", "items[11].vector"),
        ("METADATA_TOO_LARGE", "items[12].metadata"),
        ("METADATA_TOO_LARGE", "items[13].metadata"),
        ("ARGUMENT_INVALID", "items[14].metadata"),
    ]
    assert answer.failed_count == 13
    assert all(r.error.code == 3 for r in answer.results[2:])
    assert answer.results[1].id.startswith("sha256:")
    assert answer.results[0].outcome == pb.WRITE_OUTCOME_CREATED
    assert answer.results[2].outcome == pb.WRITE_OUTCOME_FAILED


def test_a_file_that_is_too_large_fails_alone() -> None:
    with serving(Limits(max_image_bytes=100)) as server:
        items = [pb.ItemInput(id=f"{n}", image=types_pb2.Image(data=b"x" * n)) for n in (100, 101)]
        answer = put(server, *items)
    assert [r.error.reason for r in answer.results] == ["", "IMAGE_TOO_LARGE"]


def test_a_request_has_1_to_256_items(server: Server) -> None:
    assert put(server, *(with_vector(f"{i}") for i in range(256))).failed_count == 0
    call = server.index.UpsertItems
    assert refusal(call, pb.UpsertItemsRequest()).reason == "INPUTS_EMPTY"
    many = pb.UpsertItemsRequest(items=[with_vector("a")] * 257)
    found = refusal(call, many)
    assert (found.reason, found.field) == ("BATCH_TOO_LARGE", "items")
    mode: Any = 7
    found = refusal(call, pb.UpsertItemsRequest(items=[with_vector("a")], write_mode=mode))
    assert (found.reason, found.field) == ("ARGUMENT_INVALID", "write_mode")


def test_the_deadline_ends_the_waiting_for_items(server: Server) -> None:
    server.ingest.gate.clear()
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        server.index.UpsertItems(pb.UpsertItemsRequest(items=[with_vector("a")]), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 2
    server.ingest.gate.set()


def test_a_caller_who_leaves_frees_the_thread() -> None:
    with serving(calls=1) as server:
        server.ingest.gate.clear()
        call = server.index.UpsertItems.future(pb.UpsertItemsRequest(items=[with_vector("a")]))
        while not server.ingest.submitted:
            time.sleep(0.01)
        call.cancel()
        end = time.monotonic() + 5
        while True:  # the one place is free again
            try:
                server.index.ListCollections(pb.ListCollectionsRequest())
                break
            except grpc.RpcError:
                assert time.monotonic() < end
        server.ingest.gate.set()


def test_an_item_shows_what_the_view_asks_for(server: Server) -> None:
    given = with_vector("a", brand="acme", tags=["x", 1, None, True], size={"width": 2.5})
    given.image.data = b"picture"
    put(server, given)

    def get(view: types_pb2.ItemView.ValueType) -> types_pb2.Item:
        return server.index.GetItem(pb.GetItemRequest(id="a", view=view)).item

    assert get(types_pb2.ITEM_VIEW_ID) == types_pb2.Item(id="a")
    basic = get(types_pb2.ITEM_VIEW_UNSPECIFIED)
    assert basic == get(types_pb2.ITEM_VIEW_BASIC)
    assert basic.metadata == given.metadata
    assert not basic.HasField("vector")
    assert abs(basic.create_time.ToSeconds() - time.time()) < 60
    assert (basic.image.width, basic.image.media_type, basic.image.has_thumbnail) == (
        4,
        "image/jpeg",
        True,
    )
    full = get(types_pb2.ITEM_VIEW_FULL)
    assert np.array(full.vector.values).tolist() == [1.0] * 8
    view: Any = 12
    assert refusal(server.index.GetItem, pb.GetItemRequest(id="a", view=view)).field == "view"


def test_a_missing_item_is_not_found(server: Server) -> None:
    put(server, with_vector("a"))
    found = refusal(server.index.GetItem, pb.GetItemRequest(id="nope"))
    assert (found.code, found.reason, found.metadata) == (
        grpc.StatusCode.NOT_FOUND,
        "ITEM_NOT_FOUND",
        {"id": "nope"},
    )
    assert refusal(server.index.GetItem, pb.GetItemRequest()).reason == "ID_MISSING"
    found = refusal(server.index.GetItem, pb.GetItemRequest(collection="a/b", id="x"))
    assert (found.reason, found.field) == ("ARGUMENT_INVALID", "collection")


@pytest.mark.parametrize("view", [types_pb2.ITEM_VIEW_ID, types_pb2.ITEM_VIEW_FULL])
@pytest.mark.parametrize("size", [1, 7, 64, 65, 150, 151, 1000])
def test_listing_sees_every_item_once(
    server: Server, size: int, view: types_pb2.ItemView.ValueType
) -> None:
    put(server, *(with_vector(f"{i:03}") for i in range(150)))
    ids, token, pages = [], "", 0
    while True:
        page = server.index.ListItems(
            pb.ListItemsRequest(page_size=size, page_token=token, view=view)
        )
        pages += 1
        assert len(page.items) <= size
        ids += [item.id for item in page.items]
        if not (token := page.next_page_token):
            break
    assert ids == [f"{i:03}" for i in range(150)]
    assert pages == math.ceil(150 / size)


def test_a_page_of_large_items_ends_early() -> None:
    with serving(Limits(max_message_bytes=100_000)) as server:
        put(server, *(with_vector(f"{i:02}", text="x" * 10_000) for i in range(30)))
        page = server.index.ListItems(pb.ListItemsRequest(page_size=100))
    assert 1 <= len(page.items) < 10
    assert page.next_page_token


def test_zero_means_a_hundred_and_too_many_a_thousand(server: Server) -> None:
    for start in range(0, 1280, 256):
        put(server, *(with_vector(f"{i:05}") for i in range(start, start + 256)))
    sizes = [len(server.index.ListItems(pb.ListItemsRequest(page_size=n)).items) for n in (0, 5000)]
    assert sizes == [100, 1000]
    found = refusal(server.index.ListItems, pb.ListItemsRequest(page_size=-1))
    assert (found.reason, found.field) == ("ARGUMENT_INVALID", "page_size")


def test_a_page_token_fits_only_its_own_request(server: Server) -> None:
    put(server, with_vector("a"), with_vector("b"))
    token = server.index.ListItems(pb.ListItemsRequest(page_size=1)).next_page_token
    good = pb.ListItemsRequest(page_size=9, page_token=token, view=types_pb2.ITEM_VIEW_ID)
    assert [item.id for item in server.index.ListItems(good).items] == ["b"]
    condition = types_pb2.Condition(field="a", exists=True)
    bad = [
        pb.ListItemsRequest(page_token=token, filter=types_pb2.Filter(all=[condition])),
        pb.ListItemsRequest(page_token=token[:-2]),
        pb.ListItemsRequest(page_token="nonsense"),
        pb.ListItemsRequest(page_token="é"),
        pb.ListItemsRequest(page_token="A" + token[1:] if token[0] != "A" else "B" + token[1:]),
    ]
    reasons = {refusal(server.index.ListItems, request).reason for request in bad}
    assert reasons == {"PAGE_TOKEN_INVALID"}
    other = pb.ListCollectionsRequest(page_token=token)
    assert refusal(server.index.ListCollections, other).reason == "PAGE_TOKEN_INVALID"


def test_filters_reach_the_domain(server: Server) -> None:
    put(server, with_vector("a"))
    where = types_pb2.Filter(all=[types_pb2.Condition(field="p", lt=Value(number_value=3))])
    server.index.CountItems(pb.CountItemsRequest(filter=where))
    server.index.ListItems(pb.ListItemsRequest(filter=where))
    server.index.DeleteItems(pb.DeleteItemsRequest(filter=where, dry_run=True))
    expected = Filter(all=(Condition("p", Test.LT, 3.0),))
    assert server.library.collections["default"].filters == [expected] * 3


def test_metadata_is_merged_or_replaced(server: Server) -> None:
    put(server, with_vector("a", x=1, y=2))
    call = server.index.UpdateItemMetadata
    merged = call(pb.UpdateItemMetadataRequest(id="a", metadata=struct(y=3))).item
    assert dict(merged.metadata) == {"x": 1, "y": 3}
    replaced = call(pb.UpdateItemMetadataRequest(id="a", metadata=struct(z=1), replace=True)).item
    assert dict(replaced.metadata) == {"z": 1}
    large = pb.UpdateItemMetadataRequest(id="a", metadata=struct(a="x" * 20000))
    assert refusal(call, large).reason == "METADATA_TOO_LARGE"


def test_items_are_deleted_by_ids_or_by_filter_but_never_all(server: Server) -> None:
    put(server, with_vector("a"), with_vector("b"))
    call = server.index.DeleteItems
    assert call(pb.DeleteItemsRequest(ids=["a", "no", "a"], dry_run=True)).deleted_count == 1
    assert call(pb.DeleteItemsRequest(ids=["a", "no"])).deleted_count == 1
    assert set(server.library.collections["default"].items) == {"b"}
    condition = types_pb2.Condition(field="a", exists=True)
    both = pb.DeleteItemsRequest(ids=["a"], filter=types_pb2.Filter(all=[condition]))
    assert refusal(call, both).field == "ids"
    assert refusal(call, pb.DeleteItemsRequest()).field == "ids"
    everything = pb.DeleteItemsRequest(filter=types_pb2.Filter())
    assert refusal(call, everything).field == "filter"
    many = pb.DeleteItemsRequest(ids=[f"{i}" for i in range(1001)])
    assert refusal(call, many).reason == "BATCH_TOO_LARGE"
    empty = pb.DeleteItemsRequest(ids=["a", ""])
    assert (refusal(call, empty).reason, refusal(call, empty).field) == ("ID_MISSING", "ids[1]")


@pytest.mark.parametrize("size", [1, 256 * 1024, 256 * 1024 + 1, 3_000_000])
def test_a_file_comes_in_pieces_of_at_most_256_kib(server: Server, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    put(server, pb.ItemInput(id="a", image=types_pb2.Image(data=data)))
    pieces = list(server.index.GetItemImage(pb.GetItemImageRequest(id="a")))
    assert b"".join(piece.data for piece in pieces) == data
    assert max(len(piece.data) for piece in pieces) <= 256 * 1024
    assert (pieces[0].media_type, pieces[0].size_bytes) == ("image/jpeg", size)
    assert all(not piece.media_type and not piece.size_bytes for piece in pieces[1:])
    end = time.monotonic() + 5
    while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
        assert time.monotonic() < end, "the watchdog of a finished call still waits"
        time.sleep(0.01)


def test_a_file_that_was_not_kept_is_not_found(server: Server) -> None:
    put(server, with_vector("a"))
    found = refusal(server.index.GetItemImage, pb.GetItemImageRequest(id="a", original=True))
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "IMAGE_NOT_RETAINED")


# ------------------------------------------------------------------------- jobs


def test_a_target_recall_is_kept_by_a_rebuild_that_names_none(server: Server) -> None:
    own = pb.IndexSpec(backend="faiss", target_recall=0.95)
    own.hnsw.m = 8
    server.index.CreateCollection(
        pb.CreateCollectionRequest(collection=pb.Collection(name="shoes", index=own))
    )
    shown = server.index.GetCollection(pb.GetCollectionRequest(name="shoes")).collection
    assert shown.index == own
    for index in (
        pb.IndexSpec(backend="exact"),
        pb.IndexSpec(),
        pb.IndexSpec(target_recall=0.9),
        pb.IndexSpec(backend="exact", target_recall=0.9),
    ):
        server.index.RebuildIndex(pb.RebuildIndexRequest(collection="shoes", index=index))
    assert server.jobs.specs == [
        IndexSpec("exact", target_recall=0.95),
        replace(DEFAULT_INDEX, target_recall=0.95),
        IndexSpec("faiss", HnswParams(8), target_recall=0.9),
        IndexSpec("exact", target_recall=0.9),
    ]


@pytest.mark.parametrize("target", [-1.0, 0.4999, 0.99995, 1.0, math.nan, math.inf])
def test_a_target_recall_that_cannot_be_held_is_refused(target: float, server: Server) -> None:
    index = pb.IndexSpec(target_recall=target)
    found = refusal(
        server.index.CreateCollection,
        pb.CreateCollectionRequest(collection=pb.Collection(name="shoes", index=index)),
    )
    assert (found.reason, found.field) == ("INDEX_SPEC_INVALID", "collection.index.target_recall")
    server.index.CreateCollection(
        pb.CreateCollectionRequest(collection=pb.Collection(name="shoes"))
    )
    request = pb.RebuildIndexRequest(collection="shoes", index=index)
    assert refusal(server.index.RebuildIndex, request).field == "index.target_recall"


def test_a_job_is_asked_for_looked_at_and_stopped(server: Server) -> None:
    for name in ("shoes", "default"):
        collection = pb.Collection(name=name)
        server.index.CreateCollection(pb.CreateCollectionRequest(collection=collection))
    spec = pb.IndexSpec(backend="exact")
    spec.backend_options.update({"factory": "Flat"})
    job = server.index.RebuildIndex(pb.RebuildIndexRequest(collection="shoes", index=spec)).job
    server.index.RebuildIndex(pb.RebuildIndexRequest())
    assert server.jobs.specs == [IndexSpec("exact", None, {"factory": "Flat"}), None]
    assert (job.kind, job.state, job.collection) == (
        pb.JOB_KIND_REBUILD_INDEX,
        pb.JOB_STATE_QUEUED,
        "shoes",
    )
    assert server.index.GetJob(pb.GetJobRequest(id=job.id)).job == job
    stopped = server.index.CancelJob(pb.CancelJobRequest(id=job.id)).job
    assert stopped.state == pb.JOB_STATE_CANCELLED
    found = refusal(server.index.GetJob, pb.GetJobRequest(id="nope"))
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


def test_a_job_that_failed_says_why_as_programs_read_it(server: Server) -> None:
    job = server.jobs.rebuild("a", None, False)
    server.jobs.jobs[job.id] = replace(
        job, state=JobState.FAILED, error_code="DISK_FULL", error_message="Full."
    )
    error = server.index.GetJob(pb.GetJobRequest(id=job.id)).job.error
    assert (error.code, error.reason, error.message) == (8, "DISK_FULL", "Full.")


def test_jobs_are_listed_page_by_page(server: Server) -> None:
    for _ in range(5):
        server.jobs.rebuild("a", None, False)
    first = server.index.ListJobs(pb.ListJobsRequest(page_size=3))
    rest = server.index.ListJobs(pb.ListJobsRequest(page_size=3, page_token=first.next_page_token))
    assert [job.id for page in (first, rest) for job in page.jobs] == [
        f"job-{i}" for i in (4, 3, 2, 1, 0)
    ]
    assert not rest.next_page_token


def test_watching_sends_changes_only_until_the_job_ends(server: Server) -> None:
    job = server.jobs.rebuild("a", None, False)
    watch = server.index.WatchJob(pb.WatchJobRequest(id=job.id), timeout=10)
    assert next(watch).job.state == pb.JOB_STATE_QUEUED
    time.sleep(0.2)
    server.jobs.jobs[job.id] = replace(job, state=JobState.SUCCEEDED)
    assert [answer.job.state for answer in watch] == [pb.JOB_STATE_SUCCEEDED]
    assert refusal(server.index.WatchJob, pb.WatchJobRequest(id="no")).reason == "JOB_NOT_FOUND"


def test_watching_ends_when_the_server_goes_down_or_the_caller_leaves(server: Server) -> None:
    job = server.jobs.rebuild("a", None, False)
    left = server.index.WatchJob(pb.WatchJobRequest(id=job.id))
    next(left)
    left.cancel()
    watch = server.index.WatchJob(pb.WatchJobRequest(id=job.id), timeout=10)
    next(watch)
    server.uploads.drain(1.0)
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert failure(caught.value).reason == "DRAINING"
