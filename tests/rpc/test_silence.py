"""Whatever breaks behind the API, callers learn a request id, and the log no words of it."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import rpc.fake_domain as fakes
from canaries import FORBIDDEN
from lookalike.server.logs import JsonFormatter, TextFormatter
from lookalike.v1 import index_service_pb2 as index_pb
from lookalike.v1 import search_service_pb2 as search_pb
from lookalike.v1 import types_pb2 as types
from rpc.access_parts import METHODS, path_of
from rpc.harness import Server, serving

WORD = "zqsilence77"
VECTOR = types.Vector(values=[1.0, 2.0])
ITEM = index_pb.ItemInput(id="a", vector=VECTOR)
SEARCH = search_pb.SearchRequest(vector=VECTOR)
FILLED: dict[str, list[Message]] = {
    "CreateCollection": [
        index_pb.CreateCollectionRequest(collection=index_pb.Collection(name="a"))
    ],
    "GetCollection": [index_pb.GetCollectionRequest(name="a")],
    "DeleteCollection": [index_pb.DeleteCollectionRequest(name="a")],
    "UpsertItems": [index_pb.UpsertItemsRequest(items=[ITEM])],
    "UploadItems": [
        index_pb.UploadItemsRequest(start=index_pb.UploadStart()),
        index_pb.UploadItemsRequest(
            batch=index_pb.UploadBatch(items=[index_pb.UploadItem(seq=1, item=ITEM)])
        ),
    ],
    "GetItem": [index_pb.GetItemRequest(id="a")],
    "GetItemImage": [index_pb.GetItemImageRequest(id="a")],
    "UpdateItemMetadata": [index_pb.UpdateItemMetadataRequest(id="a")],
    "DeleteItems": [index_pb.DeleteItemsRequest(ids=["a"])],
    "GetJob": [index_pb.GetJobRequest(id="a")],
    "WatchJob": [index_pb.WatchJobRequest(id="a")],
    "CancelJob": [index_pb.CancelJobRequest(id="a")],
    "Search": [SEARCH],
    "BatchSearch": [search_pb.BatchSearchRequest(queries=[SEARCH])],
    "StreamSearch": [search_pb.StreamSearchRequest(tag=1, search=SEARCH)],
    "Explain": [search_pb.ExplainRequest(query_item_id="a", item_id="b")],
    "CountValues": [search_pb.CountValuesRequest(fields=["a"])],
}
"""What is needed to get as far as the domain."""
UNTOUCHED = {"GetServerInfo"}
"""Methods that ask the domain nothing that can fail."""
OURS = [m for m in METHODS if m.containing_service.name != "AdminService"]


def broken(*_: Any, **__: Any) -> Any:
    raise ValueError(f"{WORD} /srv/{WORD}/x {object()}")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a server whose whole domain raises, in words that nobody may hear."""
    with serving() as server:
        for kind in vars(fakes).values():
            if inspect.isclass(kind) and kind.__module__ == fakes.__name__:
                for name, member in list(vars(kind).items()):
                    if inspect.isfunction(member) and not name.startswith("_"):
                        monkeypatch.setattr(kind, name, broken)
        yield server


def call(server: Server, method: Any) -> tuple[str, str]:
    """Call a method; return the name of its code, and all that the caller is told."""
    requests = FILLED.get(method.name) or [GetMessageClass(method.input_type)()]
    if method.name == "Embed":
        requests = [GetMessageClass(method.input_type)()]
        requests[0].inputs.add().text = "a"  # type: ignore[attr-defined]
    invoke: Any = server.channel.stream_stream(
        path_of(method),
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    stream = invoke(iter(requests), timeout=20)
    told = []
    try:
        told += [str(answer) for answer in stream]
    except grpc.RpcError as error:
        told += [str(error.details()), str(error)]
        told += [repr(pair) for pair in stream.trailing_metadata()]
    return stream.code().name, "\n".join(told)


@pytest.mark.parametrize("method", OURS, ids=lambda method: str(method.name))
def test_what_breaks_inside_is_not_told(
    method: Any, harness: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    code, told = call(harness, method)
    if method.name in UNTOUCHED:
        assert code == "OK"
        return
    assert code == "INTERNAL" or "INTERNAL" in told, (code, told)
    assert WORD not in told
    lines = [
        formatter.format(record)
        for record in caplog.records
        if record.name.startswith(("lookalike", "grpc"))
        for formatter in (TextFormatter(), JsonFormatter())
    ]
    assert any("ValueError" in line for line in lines), "the log does not say what it was"
    for text in (*lines, told):
        assert WORD not in text
        assert [what for what, pattern in FORBIDDEN.items() if pattern.search(text)] == []
