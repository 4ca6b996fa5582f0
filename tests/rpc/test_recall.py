"""SearchService.MeasureRecall: what is read and written, and how it ends."""

from __future__ import annotations

import time

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from lookalike.backends.types import SearchParams
from lookalike.server.domain import CollectionConfig
from lookalike.server.recall import RecallOptions, Source
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from lookalike.v1 import types_pb2
from rpc.harness import Failure, Server, failure


@pytest.fixture(autouse=True)
def _collections(server: Server) -> None:
    for name in ("default", "shoes"):
        server.library.create_collection(CollectionConfig(name), exist_ok=True)


def refusal(server: Server, request: sp.MeasureRecallRequest, timeout: float = 10) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        server.search.MeasureRecall(request, timeout=timeout)
    return failure(caught.value)


def test_defaults_are_filled_in_and_everything_is_passed_on(server: Server) -> None:
    server.search.MeasureRecall(sp.MeasureRecallRequest())
    request = sp.MeasureRecallRequest(
        collection="shoes",
        query_count=10_000,
        limit=1000,
        params=sp.SearchParams(ef_search=20, nprobe=3),
        seed=2**64 - 1,
        queries=sp.RECALL_QUERIES_RECENT,
    )
    server.search.MeasureRecall(request)
    params = SearchParams(ef_search=20, nprobe=3)
    assert server.recalls.asked == [
        ("default", RecallOptions()),
        ("shoes", RecallOptions(10_000, 1000, params, 2**64 - 1, Source.RECENT)),
    ]


def test_the_answer_says_all_that_was_found(server: Server) -> None:
    found = server.search.MeasureRecall(
        sp.MeasureRecallRequest(params=sp.SearchParams(ef_search=20))
    )
    settings = Struct()
    settings.update({"algorithm": "hnsw"})
    assert found == sp.MeasureRecallResponse(
        estimate=types_pb2.RecallEstimate(
            recall=0.97,
            low=0.96,
            high=0.98,
            limit=10,
            query_count=300,
            measure_time=Timestamp(seconds=1_700_000_000, nanos=500_000_000),
        ),
        self_match=sp.SelfMatch(rate=1.0, low=0.99, high=1.0, query_count=200),
        target_recall=0.99,
        stored_query_count=200,
        recent_query_count=100,
        index_times=sp.SearchTimes(mean_ms=0.25, p99_ms=0.75, count=300),
        params=sp.SearchParams(ef_search=20),
        segments=[ip.IndexSegment(backend="faiss", settings=settings, count=3, live_count=2)],
        item_count=2,
    )
    assert not found.HasField("exact_times")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"query_count": 10_001}, "query_count"),
        ({"query_count": -1}, "query_count"),
        ({"limit": 1001}, "limit"),
        ({"limit": -1}, "limit"),
        ({"queries": 4}, "queries"),
        ({"params": {"ef_search": -1}}, "params.ef_search"),
        ({"params": {"nprobe": -1}}, "params.nprobe"),
        ({"collection": "No Name"}, "collection"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    request_: dict[str, object], field: str, server: Server
) -> None:
    found = refusal(server, sp.MeasureRecallRequest(**request_))  # type: ignore[arg-type]
    assert (found.reason, found.field) == ("ARGUMENT_INVALID", field)
    assert not server.recalls.asked


def test_a_collection_that_is_not_there_is_named(server: Server) -> None:
    found = refusal(server, sp.MeasureRecallRequest(collection="hats"))
    assert found.reason == "COLLECTION_NOT_FOUND"


def test_measuring_ends_with_the_time_or_with_its_caller(server: Server) -> None:
    server.recalls.endless = True
    with pytest.raises(grpc.RpcError) as caught:
        server.search.MeasureRecall(sp.MeasureRecallRequest(), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    call = server.search.MeasureRecall.future(sp.MeasureRecallRequest())
    while len(server.recalls.asked) < 2:
        time.sleep(0.01)
    call.cancel()
    end = time.monotonic() + 10
    while len(server.recalls.stopped) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert server.recalls.stopped[1] == "CANCELLED"
    assert server.recalls.stopped[0] in ("EXPIRED", "CANCELLED")
