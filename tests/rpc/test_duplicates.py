from __future__ import annotations

import grpc
import pytest

from lookalike.server.domain import Condition, Filter, Test
from lookalike.server.duplicates import Kind
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from lookalike.v1 import types_pb2
from rpc.harness import Server, failure, serving
from rpc.test_index import put, with_vector


@pytest.fixture
def stocked(server: Server) -> Server:
    put(server, *(with_vector(i) for i in "abcd"))
    return server


def test_progress_and_groups_cross_the_wire(stocked: Server) -> None:
    told, found = stocked.search.FindDuplicates(sp.FindDuplicatesRequest())
    assert (told.done_count, told.total_count, told.HasField("group")) == (0, 4, False)
    members = found.group.members
    assert [m.id for m in members] == ["a", "b", "c", "d"]
    assert [m.kind for m in members] == [
        sp.DUPLICATE_KIND_UNSPECIFIED,
        sp.DUPLICATE_KIND_EXACT,
        sp.DUPLICATE_KIND_SAME_PICTURE,
        sp.DUPLICATE_KIND_NEAR,
    ]
    assert [m.score for m in members] == [0, 0.5, 0.5, 0.5]
    assert not members[0].HasField("image")


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (sp.DUPLICATE_KIND_UNSPECIFIED, Kind.SAME_PICTURE),
        (sp.DUPLICATE_KIND_EXACT, Kind.EXACT),
        (sp.DUPLICATE_KIND_SAME_PICTURE, Kind.SAME_PICTURE),
        (sp.DUPLICATE_KIND_NEAR, Kind.NEAR),
    ],
)
def test_kind_and_filter_reach_the_domain(
    asked: sp.DuplicateKind.ValueType, kind: Kind, stocked: Server
) -> None:
    condition = types_pb2.Condition(field="shelf", exists=True)
    request = sp.FindDuplicatesRequest(kind=asked, filter=types_pb2.Filter(all=[condition]))
    list(stocked.search.FindDuplicates(request))
    where = Filter(all=(Condition("shelf", Test.EXISTS, True),))
    assert stocked.duplicates.asked == [("default", kind, where)]


def test_an_unknown_kind_is_refused(stocked: Server) -> None:
    request = sp.FindDuplicatesRequest()
    request.ParseFromString(b"\x10\x09")
    with pytest.raises(grpc.RpcError) as caught:
        list(stocked.search.FindDuplicates(request))
    found = failure(caught.value)
    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, "kind")


def test_an_unknown_collection_is_not_found(stocked: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stocked.search.FindDuplicates(sp.FindDuplicatesRequest(collection="nowhere")))
    assert failure(caught.value).reason == "COLLECTION_NOT_FOUND"


def test_a_caller_who_leaves_ends_the_work(stocked: Server) -> None:
    stocked.duplicates.endless = True
    call = stocked.search.FindDuplicates(sp.FindDuplicatesRequest())
    next(call)
    call.cancel()
    assert stocked.duplicates.closed.wait(10)


def test_it_takes_no_place_of_short_calls() -> None:
    with serving(calls=1, streams=1) as server:
        put(server, with_vector("a"))
        server.duplicates.endless = True
        call = server.search.FindDuplicates(sp.FindDuplicatesRequest())
        next(call)
        server.index.CountItems(ip.CountItemsRequest())
        with pytest.raises(grpc.RpcError) as caught:
            list(server.search.FindDuplicates(sp.FindDuplicatesRequest()))
        assert failure(caught.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        call.cancel()


def test_a_collection_tells_what_its_scores_mean(stocked: Server) -> None:
    found = stocked.index.GetCollection(ip.GetCollectionRequest()).collection.calibration
    assert found.pair_count == 6
    assert list(found.false_match_rates) == [1.0, 0.5, 0.25]
    assert list(found.scores) == [0.125, 0.5, 0.75]
