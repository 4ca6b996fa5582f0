"""Explain on the wire: what is read, what is refused, what comes back."""

from __future__ import annotations

import grpc
import pytest

from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import types_pb2
from rpc.harness import Server, failure


def test_an_explanation_comes_back_whole(server: Server) -> None:
    region = types_pb2.Region(left=0.5, top=0.25, width=0.5, height=0.5)
    request = pb.ExplainRequest(query_item_id="q", item_id="i", region=region)
    answer = server.search.Explain(request)
    assert answer.score == 0.5
    assert answer.tier == pb.MATCH_TIER_SIMILAR
    [match] = answer.matches
    assert match.query_region == region
    assert match.item_region == types_pb2.Region(left=0.25, top=0.5, width=0.25, height=0.5)
    assert match.strength == 0.75
    assert (answer.query_map.rows, answer.query_map.columns) == (2, 3)
    assert list(answer.query_map.values) == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]
    assert (answer.item_map.rows, answer.item_map.columns) == (3, 2)


def test_a_text_has_no_region_and_no_map(server: Server) -> None:
    answer = server.search.Explain(pb.ExplainRequest(text="a boot", item_id="i"))
    [match] = answer.matches
    assert not match.HasField("query_region")
    assert match.item_region.width == 0.25
    assert answer.item_map.rows == 3


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.ExplainRequest(item_id="i"), "QUERY_MISSING", ""),
        (pb.ExplainRequest(query_item_id="q"), "ID_MISSING", "item_id"),
        (pb.ExplainRequest(query_item_id="nobody", item_id="i"), "ITEM_NOT_FOUND", "query_item_id"),
        (pb.ExplainRequest(query_item_id="q", item_id="nobody"), "ITEM_NOT_FOUND", "item_id"),
        (
            pb.ExplainRequest(
                query_item_id="q", item_id="i", region=types_pb2.Region(width=2, height=1)
            ),
            "ARGUMENT_INVALID",
            "region.width",
        ),
        (
            pb.ExplainRequest(text="a", item_id="i", region=types_pb2.Region(width=0.5, height=1)),
            "ARGUMENT_INVALID",
            "region",
        ),
        (pb.ExplainRequest(image=types_pb2.Image(), item_id="i"), "ARGUMENT_INVALID", "image"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    server: Server, request_: pb.ExplainRequest, reason: str, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.search.Explain(request_)
    found = failure(caught.value)
    assert found.reason == reason
    assert found.field == field
