"""Indexed fields and EXIF modes on the wire: what is read, what is refused."""

from __future__ import annotations

import grpc
import pytest

from lookalike.server.domain import ExifMode
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2
from rpc.harness import Server, failure


def making(*fields: str) -> pb.CreateCollectionRequest:
    collection = pb.Collection(name="c", model="none", dimension=8, indexed_fields=fields)
    return pb.CreateCollectionRequest(collection=collection)


def item() -> pb.ItemInput:
    return pb.ItemInput(id="i", image=types_pb2.Image(data=b"picture"))


def test_indexed_fields_are_taken_and_shown(server: Server) -> None:
    made = server.index.CreateCollection(making("colour", "a.b")).collection
    assert list(made.indexed_fields) == ["colour", "a.b"]


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ([f"f{i}" for i in range(17)], "collection.indexed_fields"),
        (["a", "a"], "collection.indexed_fields[1]"),
        (["a", ""], "collection.indexed_fields[1]"),
        (["@id"], "collection.indexed_fields[0]"),
        (["a\0b"], "collection.indexed_fields[0]"),
        (["x" * 257], "collection.indexed_fields[0]"),
    ],
)
def test_fields_that_cannot_be_indexed_are_refused(
    server: Server, fields: list[str], at: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.index.CreateCollection(making(*fields))
    found = failure(caught.value)
    assert found.code == grpc.StatusCode.INVALID_ARGUMENT
    assert found.field == at


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (pb.EXIF_MODE_UNSPECIFIED, ExifMode.NONE),
        (pb.EXIF_MODE_BASIC, ExifMode.BASIC),
        (pb.EXIF_MODE_WITH_POSITION, ExifMode.WITH_POSITION),
    ],
)
def test_the_exif_mode_reaches_ingest_on_both_ways(
    server: Server, number: pb.ExifMode.ValueType, mode: ExifMode
) -> None:
    server.index.UpsertItems(pb.UpsertItemsRequest(items=[item()], exif=number))
    assert server.ingest.exif is mode
    server.ingest.exif = ExifMode.NONE
    messages = [
        pb.UploadItemsRequest(start=pb.UploadStart(exif=number)),
        pb.UploadItemsRequest(batch=pb.UploadBatch(items=[pb.UploadItem(seq=1, item=item())])),
    ]
    assert list(server.index.UploadItems(iter(messages)))
    assert server.ingest.exif is mode


def test_an_unknown_exif_mode_is_refused(server: Server) -> None:
    request = pb.UpsertItemsRequest(items=[item()], exif=99)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        server.index.UpsertItems(request)
    assert failure(caught.value).field == "exif"
