"""CountValues on the wire: what is read, what is refused, what comes back."""

from __future__ import annotations

import grpc
import pytest

from lookalike.v1 import search_service_pb2 as pb
from rpc.harness import Server, failure


def test_values_keep_their_kinds(server: Server) -> None:
    answer = server.search.CountValues(pb.CountValuesRequest(fields=["colour"]))
    [field] = answer.fields
    assert (field.field, field.item_count) == ("colour", 3)
    kinds = [(value.value.WhichOneof("kind"), value.count) for value in field.values]
    assert kinds == [("string_value", 2), ("bool_value", 1), ("number_value", 1)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CountValuesRequest(fields=["x"] * 17), "fields"),
        (pb.CountValuesRequest(fields=["x", ""]), "fields[1]"),
        (pb.CountValuesRequest(fields=["@id"]), "fields[0]"),
        (pb.CountValuesRequest(fields=["a\0b"]), "fields[0]"),
        (pb.CountValuesRequest(fields=["x" * 20_000]), "fields[0]"),
        (pb.CountValuesRequest(fields=["x"], limit=-1), "limit"),
        (pb.CountValuesRequest(fields=["x"], limit=1001), "limit"),
        (pb.CountValuesRequest(collection="No!"), "collection"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    server: Server, request_: pb.CountValuesRequest, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.search.CountValues(request_)
    found = failure(caught.value)
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT
    assert found.field == field
