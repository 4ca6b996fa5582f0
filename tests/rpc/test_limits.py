"""Every limit of the one table is told, can be set, and holds: at it yes, one more no."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lookalike.client import Limits as ClientLimits
from lookalike.server.app import App
from lookalike.server.config import Flags, load
from lookalike.server.limits import Limits, most
from lookalike.v1 import (
    embed_service_pb2,
    embed_service_pb2_grpc,
    index_service_pb2_grpc,
    search_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
)
from lookalike.v1 import index_service_pb2 as index_pb
from lookalike.v1 import search_service_pb2 as search_pb
from lookalike.v1 import types_pb2 as types
from made_pictures import encoded, scene
from rpc.harness import failure, serving

NAMES = [field.name for field in fields(Limits)]
SMALL: Mapping[str, int] = {
    "max_message_bytes": 200_000,
    "max_image_bytes": 60_000,
    "max_image_pixels": 160 * 120,
    "max_batch_size": 3,
    "max_upload_batch": 4,
    "max_search_limit": 5,
    "max_query_parts": 2,
    "max_metadata_bytes": 200,
    "max_metadata_depth": 3,
    "max_id_bytes": 20,
    "max_text_chars": 30,
    "max_fields": 2,
    "max_delete_ids": 6,
    "max_page_size": 4,
    "max_filter_depth": 3,
    "max_filter_conditions": 5,
    "max_filter_values": 7,
    "max_dimension": 16,
    "max_uploads": 2,
    "max_search_streams": 3,
    "max_lasting_calls": 2,
    "max_open_chunked": 2,
}
"""What the server of these tests is set to, so that the limits are soon reached."""
PER_PEER: Mapping[str, int] = {
    "max_uploads_per_peer": 2,
    "max_search_streams_per_peer": 3,
    "max_lasting_calls_per_peer": 2,
}
"""What another is set to, whose limits for all are out of one caller's reach."""
TIMEOUT_S = 30
EXHAUSTED, INVALID = "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"


class Peer:
    """A caller of a real server."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        self.address = address
        self.index = index_service_pb2_grpc.IndexServiceStub(channel)
        self.search = search_service_pb2_grpc.SearchServiceStub(channel)
        self.embed = embed_service_pb2_grpc.EmbedServiceStub(channel)
        self.system = system_service_pb2_grpc.SystemServiceStub(channel)
        self.reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

    def upsert(self, *items: index_pb.ItemInput, collection: str = "plain") -> str:
        """Store items; return the reason why the call or its first item failed, or ""."""
        request = index_pb.UpsertItemsRequest(collection=collection, items=items)
        answer = outcome(lambda: self.index.UpsertItems(request, timeout=TIMEOUT_S))
        if isinstance(answer, str):
            return answer
        return next((str(one.error.reason) for one in answer.results if one.error.reason), "")

    def look(self, **options: Any) -> str:
        """Search for a vector; return the reason of a failure, or ""."""
        request = search_pb.SearchRequest(collection="plain", **options)
        answer = outcome(lambda: self.search.Search(request, timeout=TIMEOUT_S))
        return answer if isinstance(answer, str) else ""

    def upload(self, *messages: index_pb.UploadItemsRequest) -> str:
        """Upload over a stream; return the reason why the call or an item failed, or ""."""
        start = index_pb.UploadItemsRequest(start=index_pb.UploadStart(collection="plain"))
        answer = outcome(
            lambda: list(self.index.UploadItems(iter([start, *messages]), timeout=TIMEOUT_S))
        )
        if isinstance(answer, str):
            return answer
        acks = [ack for message in answer for ack in message.acks.acks]
        return next((str(a.result.error.reason) for a in acks if a.result.error.reason), "")


def outcome(call: Callable[[], Any]) -> Any:
    """Return the answer, or "CODE REASON" of a refusal."""
    try:
        return call()
    except grpc.RpcError as error:
        if "larger than max" in (error.details() or ""):  # said by gRPC itself, without a reason
            return error.code().name
        found = failure(error)
        return f"{found.code.name} {found.reason}"


@contextmanager
def real(data: Path, limits: Mapping[str, int], more: str = "") -> Iterator[Peer]:
    """Run a server whose limits come from a file of configuration."""
    table = "".join(f"{name} = {value}\n" for name, value in limits.items())
    file = data / "limits.toml"
    file.write_text(f"{more}\n[limits]\n{table}")
    flags = Flags({("data", "path"): str(data / "d"), ("server", "listen"): "127.0.0.1:0"})
    app = App(load(flags, file).config, version="1")
    address = app.start()
    try:
        assert app.wait_ready(20)
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(address, options=options) as channel:
            yield Peer(address, channel)
    finally:
        app.stop(1)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with real(tmp_path_factory.mktemp("limits"), SMALL) as found:
        plain = index_pb.Collection(name="plain", model="none", dimension=4)
        found.index.CreateCollection(index_pb.CreateCollectionRequest(collection=plain))
        for n in range(0, 12, 3):
            items = [item(f"k{n + i}") for i in range(3)]
            assert found.upsert(*items) == ""
        yield found


# ------------------------------------------------------------ what is sent


VECTOR = types.Vector(values=[1.0, 2.0, 3.0, 4.0])


def item(name: str, **more: Any) -> index_pb.ItemInput:
    return index_pb.ItemInput(id=name, vector=VECTOR, **more)


def picture(width: int = 40, height: int = 40) -> bytes:
    return encoded(scene(1, width, height), "PNG")


def padded(size: int) -> bytes:
    """Return a PNG of exactly `size` bytes; what follows its end is not read."""
    data = picture()
    return data + bytes(size - len(data))


def nested(depth: int) -> Struct:
    """Return metadata of so many levels."""
    inner: dict[str, Any] = {"k": 1.0}
    for _ in range(depth - 1):
        inner = {"k": inner}
    made = Struct()
    made.update(inner)
    return made


def heavy(size: int) -> Struct:
    """Return metadata that has exactly `size` bytes as protobuf."""
    for length in range(size):
        made = Struct()
        made.update({"k": "x" * length})
        if made.ByteSize() == size:
            return made
    raise AssertionError(size)


def deep_filter(depth: int) -> types.Filter:
    made = types.Filter(all=[types.Condition(field="k", exists=True)])
    for _ in range(depth - 1):
        made = types.Filter(all=[types.Condition(group=made)])
    return made


def wide_filter(count: int) -> types.Filter:
    return types.Filter(any=[types.Condition(field="k", exists=True)] * count)


def values_filter(count: int) -> types.Filter:
    values = ListValue(values=[Value(number_value=i) for i in range(count)])
    return types.Filter(all=[types.Condition(field="k", any_of=values)])


def message(size: int) -> index_pb.UpsertItemsRequest:
    """Return a request of exactly `size` bytes; what fills it is refused for another reason."""
    made = index_pb.UpsertItemsRequest(collection="plain")
    while (missing := size - made.ByteSize()) > 0:
        made.collection += "x" * max(1, missing - 2)
    assert made.ByteSize() == size
    return made


# --------------------------------------------------------- the ways to a limit


def send(peer: Peer, n: int) -> str:
    reason = str(outcome(lambda: peer.index.UpsertItems(message(n), timeout=TIMEOUT_S)))
    return "" if reason == f"{INVALID} INPUTS_EMPTY" else reason  # it was read


def send_file(peer: Peer, n: int) -> str:
    return peer.upsert(index_pb.ItemInput(id="f", image=types.Image(data=padded(n))), collection="")


def send_chunks(peer: Peer, n: int) -> str:
    data = padded(n)
    opened = index_pb.UploadItem(seq=1, item=item("c"), chunked=True)
    pieces = [data[i : i + 50_000] for i in range(0, n, 50_000)]
    chunks = [
        index_pb.UploadItemsRequest(
            chunk=index_pb.UploadChunk(
                seq=1, offset=50_000 * i, data=piece, last=i == len(pieces) - 1
            )
        )
        for i, piece in enumerate(pieces)
    ]
    batch = index_pb.UploadItemsRequest(batch=index_pb.UploadBatch(items=[opened]))
    return peer.upload(batch, *chunks)


def send_pixels(peer: Peer, n: int) -> str:
    data = encoded(np.full((1, n, 3), 99, np.uint8), "PNG")
    return peer.upsert(index_pb.ItemInput(id="p", image=types.Image(data=data)), collection="")


def embed_many(peer: Peer, n: int) -> str:
    inputs = [embed_service_pb2.EmbedInput(image=types.Image(data=picture()))] * n
    request = embed_service_pb2.EmbedRequest(inputs=inputs)
    answer = outcome(lambda: peer.embed.Embed(request, timeout=TIMEOUT_S))
    return answer if isinstance(answer, str) else ""


def search_many(peer: Peer, n: int) -> str:
    queries = [search_pb.SearchRequest(vector=VECTOR)] * n
    request = search_pb.BatchSearchRequest(collection="plain", queries=queries)
    answer = outcome(lambda: peer.search.BatchSearch(request, timeout=TIMEOUT_S))
    return answer if isinstance(answer, str) else ""


def embed_text(peer: Peer, n: int) -> str:
    inputs = [embed_service_pb2.EmbedInput(text="é" * n)]
    request = embed_service_pb2.EmbedRequest(inputs=inputs)
    answer = outcome(lambda: peer.embed.Embed(request, timeout=TIMEOUT_S))
    reason = answer if isinstance(answer, str) else answer.results[0].error.reason
    return "" if "MODEL_LACKS_MODALITY" in reason else str(reason)


def search_text(peer: Peer, n: int) -> str:
    request = search_pb.SearchRequest(text="é" * n)
    answer = outcome(lambda: peer.search.Search(request, timeout=TIMEOUT_S))
    reason = answer if isinstance(answer, str) else ""
    return "" if "MODEL_LACKS_MODALITY" in reason else reason  # the model is asked last


def upload_batch(peer: Peer, n: int) -> str:
    items = [index_pb.UploadItem(seq=i + 1, item=item(f"u{i}")) for i in range(n)]
    return peer.upload(index_pb.UploadItemsRequest(batch=index_pb.UploadBatch(items=items)))


def open_chunked(peer: Peer, n: int) -> str:
    items = [index_pb.UploadItem(seq=i + 1, item=item(f"o{i}"), chunked=True) for i in range(n)]
    reason = peer.upload(index_pb.UploadItemsRequest(batch=index_pb.UploadBatch(items=items)))
    return "" if reason == "IMAGE_UNDECODABLE" else reason  # they were never finished


def parts(peer: Peer, n: int) -> str:
    return peer.look(parts=[search_pb.QueryPart(vector=VECTOR)] * n)


def make(peer: Peer, name: str, **settings: Any) -> str:
    """Make a collection and remove it again."""
    wanted = index_pb.Collection(name=name, model="none", **settings)
    request = index_pb.CreateCollectionRequest(collection=wanted)
    answer = outcome(lambda: peer.index.CreateCollection(request, timeout=TIMEOUT_S))
    if isinstance(answer, str):
        return answer
    peer.index.DeleteCollection(index_pb.DeleteCollectionRequest(name=name), timeout=TIMEOUT_S)
    return ""


def delete(peer: Peer, n: int) -> str:
    request = index_pb.DeleteItemsRequest(collection="plain", ids=["absent"] * n, dry_run=True)
    answer = outcome(lambda: peer.index.DeleteItems(request, timeout=TIMEOUT_S))
    return answer if isinstance(answer, str) else ""


def count_fields(peer: Peer, n: int) -> str:
    names = [f"f{i}" for i in range(n)]
    request = search_pb.CountValuesRequest(collection="plain", fields=names)
    answer = outcome(lambda: peer.search.CountValues(request, timeout=TIMEOUT_S))
    return answer if isinstance(answer, str) else ""


def count(peer: Peer, where: types.Filter) -> str:
    request = index_pb.CountItemsRequest(collection="plain", filter=where)
    answer = outcome(lambda: peer.index.CountItems(request, timeout=TIMEOUT_S))
    return answer if isinstance(answer, str) else ""


def update(peer: Peer, metadata: Struct) -> str:
    request = index_pb.UpdateItemMetadataRequest(
        collection="plain", id="k1", metadata=metadata, replace=True
    )
    answer = outcome(lambda: peer.index.UpdateItemMetadata(request, timeout=TIMEOUT_S))
    return answer if isinstance(answer, str) else ""


def uploads(peer: Peer, n: int) -> str:
    """Hold n uploads open at once; each is answered before the next begins."""
    first = index_pb.UploadItemsRequest(start=index_pb.UploadStart(collection="plain"))
    return _hold(n, SMALL["max_uploads"], peer.index.UploadItems, first)


def search_streams(peer: Peer, n: int) -> str:
    search = search_pb.SearchRequest(collection="plain", vector=VECTOR)
    first = search_pb.StreamSearchRequest(tag=1, search=search)
    return _hold(n, SMALL["max_search_streams"], peer.search.StreamSearch, first)


def lasting_calls(peer: Peer, n: int) -> str:
    first = reflection_pb2.ServerReflectionRequest(list_services="")
    method = peer.reflection.ServerReflectionInfo
    return _hold(n, SMALL["max_lasting_calls"], method, first)


def _hold(n: int, most_open: int, method: Any, first: Any) -> str:
    end = threading.Event()

    def talk() -> Iterator[Any]:
        yield first
        end.wait(TIMEOUT_S)

    with ExitStack() as calls:
        calls.callback(end.set)

        def begin() -> str:
            call = method(talk(), timeout=TIMEOUT_S)
            calls.callback(call.cancel)
            found = outcome(lambda: next(call))
            return found if isinstance(found, str) else ""

        for i in range(n):
            patience = time.monotonic() + (5 if i < most_open else 0)
            while found := begin():  # those of the case before may still be on their way out
                if time.monotonic() >= patience:
                    return found
                time.sleep(0.02)
    return ""


@dataclass(frozen=True)
class Way:
    """One way to a limit: what is sent, and what it is refused with."""

    limit: str
    go: Callable[[Peer, int], str]
    refusal: str


WAYS = [
    Way("max_message_bytes", send, EXHAUSTED),
    Way("max_image_bytes", send_file, "IMAGE_TOO_LARGE"),
    Way("max_image_bytes", send_chunks, "IMAGE_TOO_LARGE"),
    Way("max_image_pixels", send_pixels, "IMAGE_TOO_LARGE"),
    Way(
        "max_batch_size",
        lambda p, n: p.upsert(*[item(f"b{i}") for i in range(n)]),
        f"{INVALID} BATCH_TOO_LARGE",
    ),
    Way("max_batch_size", embed_many, f"{INVALID} BATCH_TOO_LARGE"),
    Way("max_batch_size", search_many, f"{INVALID} BATCH_TOO_LARGE"),
    Way("max_upload_batch", upload_batch, f"{INVALID} BATCH_TOO_LARGE"),
    Way(
        "max_search_limit",
        lambda p, n: p.look(vector=VECTOR, limit=n),
        f"{INVALID} ARGUMENT_INVALID",
    ),
    Way("max_query_parts", parts, f"{INVALID} ARGUMENT_INVALID"),
    Way(
        "max_metadata_bytes",
        lambda p, n: p.upsert(item("m", metadata=heavy(n))),
        "METADATA_TOO_LARGE",
    ),
    Way("max_metadata_bytes", lambda p, n: update(p, heavy(n)), f"{INVALID} METADATA_TOO_LARGE"),
    Way(
        "max_metadata_depth",
        lambda p, n: p.upsert(item("m", metadata=nested(n))),
        "METADATA_TOO_LARGE",
    ),
    Way("max_metadata_depth", lambda p, n: update(p, nested(n)), f"{INVALID} METADATA_TOO_LARGE"),
    Way("max_id_bytes", lambda p, n: p.upsert(item("i" * n)), "ID_INVALID"),
    Way("max_id_bytes", lambda p, n: p.upsert(item("é" * (n // 2) + "i" * (n % 2))), "ID_INVALID"),
    Way("max_text_chars", embed_text, "ARGUMENT_INVALID"),
    Way("max_text_chars", search_text, f"{INVALID} ARGUMENT_INVALID"),
    Way("max_fields", count_fields, f"{INVALID} BATCH_TOO_LARGE"),
    Way(
        "max_fields",
        lambda p, n: make(p, "fields", dimension=4, indexed_fields=[f"f{i}" for i in range(n)]),
        f"{INVALID} BATCH_TOO_LARGE",
    ),
    Way("max_delete_ids", delete, f"{INVALID} BATCH_TOO_LARGE"),
    Way("max_filter_depth", lambda p, n: count(p, deep_filter(n)), f"{INVALID} FILTER_INVALID"),
    Way(
        "max_filter_depth",
        lambda p, n: p.look(vector=VECTOR, filter=deep_filter(n)),
        f"{INVALID} FILTER_INVALID",
    ),
    Way(
        "max_filter_conditions", lambda p, n: count(p, wide_filter(n)), f"{INVALID} FILTER_INVALID"
    ),
    Way("max_filter_values", lambda p, n: count(p, values_filter(n)), f"{INVALID} FILTER_INVALID"),
    Way("max_dimension", lambda p, n: make(p, "wide", dimension=n), f"{INVALID} ARGUMENT_INVALID"),
    Way("max_uploads", uploads, f"{EXHAUSTED} TOO_MANY_UPLOADS"),
    Way("max_search_streams", search_streams, f"{EXHAUSTED} OVERLOADED"),
    Way("max_lasting_calls", lasting_calls, f"{EXHAUSTED} OVERLOADED"),
    Way("max_open_chunked", open_chunked, f"{INVALID} ARGUMENT_INVALID"),
]


@pytest.mark.parametrize("way", WAYS, ids=[f"{w.limit}-{n}" for n, w in enumerate(WAYS)])
def test_what_is_at_a_limit_is_taken_and_one_more_is_refused(peer: Peer, way: Way) -> None:
    most_allowed = SMALL[way.limit]
    assert way.go(peer, most_allowed) == ""
    assert way.go(peer, most_allowed + 1) == way.refusal
    assert way.go(peer, most_allowed) == "", "the refusal left something behind"


PER_PEER_WAYS = [
    Way("max_uploads_per_peer", uploads, f"{EXHAUSTED} TOO_MANY_UPLOADS"),
    Way("max_search_streams_per_peer", search_streams, f"{EXHAUSTED} OVERLOADED"),
    Way("max_lasting_calls_per_peer", lasting_calls, f"{EXHAUSTED} OVERLOADED"),
]


def test_one_caller_alone_cannot_take_all_places(tmp_path: Path) -> None:
    with real(tmp_path, PER_PEER) as peer:
        plain = index_pb.Collection(name="plain", model="none", dimension=4)
        peer.index.CreateCollection(index_pb.CreateCollectionRequest(collection=plain))
        for way in PER_PEER_WAYS:
            most_allowed = PER_PEER[way.limit]
            assert way.go(peer, most_allowed) == "", way.limit
            assert way.go(peer, most_allowed + 1) == way.refusal


def test_connections_beyond_the_limit_get_no_answer(tmp_path: Path) -> None:
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    request = system_service_pb2.GetServerInfoRequest()
    with real(tmp_path, {"max_connections": 3}) as peer, ExitStack() as channels:

        def connect() -> str:
            channel = grpc.insecure_channel(peer.address, options=own)
            channels.callback(channel.close)
            stub = system_service_pb2_grpc.SystemServiceStub(channel)
            try:
                stub.GetServerInfo(request, timeout=3)
            except grpc.RpcError as error:
                return str(error.code().name)
            return ""

        peer.system.GetServerInfo(request, timeout=TIMEOUT_S)  # the first of the three
        assert [connect(), connect()] == ["", ""]
        assert connect() in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        peer.system.GetServerInfo(request, timeout=TIMEOUT_S)
        channels.close()
        end = time.monotonic() + 10
        while connect() and time.monotonic() < end:
            time.sleep(0.1)
        assert connect() == "", "room that others left is not given"


def test_pages_have_no_more_entries_than_the_limit(peer: Peer) -> None:
    def page(size: int) -> int:
        request = index_pb.ListItemsRequest(collection="plain", page_size=size)
        return len(peer.index.ListItems(request, timeout=TIMEOUT_S).items)

    most_entries = SMALL["max_page_size"]
    assert [page(most_entries), page(most_entries + 1), page(0)] == [most_entries] * 3


WINDOWS = ("upload_window_items", "upload_window_vectors", "upload_window_bytes")
"""They refuse nothing: the server reads on when there is room again."""


def test_uploads_are_told_their_windows_and_go_on_beyond_them(tmp_path: Path) -> None:
    limits = {"upload_window_items": 2, "upload_window_vectors": 3, "upload_window_bytes": 4000}
    with real(tmp_path, limits) as peer:
        items = [index_pb.UploadItem(seq=i + 1, item=item(f"w{i}")) for i in range(40)]
        for one in items:
            one.item.vector.values[:] = [1.0] * 384
        batch = index_pb.UploadItemsRequest(batch=index_pb.UploadBatch(items=items))
        start = index_pb.UploadItemsRequest(start=index_pb.UploadStart())
        answers = list(peer.index.UploadItems(iter([start, batch]), timeout=TIMEOUT_S))
    started = answers[0].started
    told = (started.window_items, started.window_vectors, started.window_bytes)
    assert told == tuple(limits[name] for name in WINDOWS)
    assert answers[-1].summary.counts.created == 40


COSTS = [("max_decode_ms", 1, "time"), ("max_decode_bytes", 16 * 2**20, "memory")]


@pytest.mark.parametrize(("name", "least", "resource"), COSTS)
def test_pictures_that_cost_more_than_the_limit_are_refused(
    name: str, least: int, resource: str, tmp_path: Path
) -> None:
    """What a picture costs is not known to the unit, so the limit is far below it."""
    data = encoded(np.tile(scene(1, 150, 100), (20, 20, 1)), "PNG")
    own = "[decode]\nworkers = 1\nhere_pixels = 0\n"
    with real(tmp_path, {name: least}, own) as peer:
        request = index_pb.UpsertItemsRequest(
            items=[index_pb.ItemInput(id="c", image=types.Image(data=data))]
        )
        error = peer.index.UpsertItems(request, timeout=TIMEOUT_S).results[0].error
    assert (error.reason, error.metadata["resource"]) == ("IMAGE_TOO_COSTLY", resource)


QUEUES = ("embed_queue_items", "embed_queue_bytes")


@pytest.mark.parametrize("name", QUEUES)
def test_more_than_the_queue_holds_is_refused_as_overload(name: str, tmp_path: Path) -> None:
    data = encoded(np.tile(scene(1), (8, 8, 1)))
    most_held = 1 if name == "embed_queue_items" else len(data)
    with real(tmp_path, {name: most_held}) as peer, ThreadPoolExecutor(24) as callers:
        request = embed_service_pb2.EmbedRequest(
            inputs=[embed_service_pb2.EmbedInput(image=types.Image(data=data))]
        )

        def embed(_: int) -> str:
            answer = outcome(lambda: peer.embed.Embed(request, timeout=TIMEOUT_S))
            return answer if isinstance(answer, str) else answer.results[0].error.reason

        seen = set(callers.map(embed, range(96)))
    assert any("OVERLOADED" in reason for reason in seen), seen
    assert all(reason == "" or "OVERLOADED" in reason for reason in seen), seen


def test_each_limit_has_a_test_that_reaches_it() -> None:
    reached = {way.limit for way in (*WAYS, *PER_PEER_WAYS)}
    reached |= {"max_page_size", "max_connections", *WINDOWS, *QUEUES}
    assert reached | {name for name, _, _ in COSTS} == set(NAMES)


# ----------------------------------------------------------- told, and settable


def test_the_api_has_a_field_for_each_limit_and_no_other() -> None:
    told = system_service_pb2.Limits.DESCRIPTOR.fields_by_name
    assert sorted(told) == sorted(NAMES)
    assert sorted(field.name for field in fields(ClientLimits)) == sorted(NAMES)


def test_each_limit_is_told_as_it_was_set() -> None:
    limits = Limits(**{name: 1000 + i for i, name in enumerate(NAMES)})
    with serving(limits) as server:
        told = server.system.GetServerInfo(system_service_pb2.GetServerInfoRequest()).limits
    assert {name: getattr(told, name) for name in NAMES} == asdict(limits)


def test_a_server_set_to_the_largest_limits_works_and_tells_them(tmp_path: Path) -> None:
    largest = {name: most(name) for name in NAMES}
    with real(tmp_path, largest) as peer:
        told = peer.system.GetServerInfo(system_service_pb2.GetServerInfoRequest()).limits
        assert peer.upsert(item("a"), collection="") in ("", "DIMENSION_MISMATCH")
    assert {name: getattr(told, name) for name in NAMES} == largest
