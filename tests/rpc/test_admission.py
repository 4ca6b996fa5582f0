"""The door under load: refusals and health always get through, and slow peers are cut off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fuzz import frames as h2
from lookalike.backends.errors import TooManyUploads
from lookalike.server.app import App
from lookalike.server.config import Flags, load
from lookalike.server.limits import Limits
from lookalike.server.rpc.health import MOST_WATCHERS
from lookalike.server.rpc.peers import Peers, Share
from lookalike.server.rpc.reception import Times
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from rpc.harness import Server, failure, serving
from rpc.test_guard import embed
from rpc.test_index import put, with_vector

PATIENCE_S = 20.0
SOON_S = 5.0
"""Generous: on a machine with much to do, a thread may wait for seconds."""
SEARCH = sp.SearchRequest(text="x")


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def held_searches(server: Server, count: int) -> Iterator[list[Any]]:
    """Have as many searches under way as are told, none of which ends before this does."""
    may_end = threading.Event()
    search = server.searcher.search

    def hold(*args: Any, **named: Any) -> Any:
        assert may_end.wait(PATIENCE_S)
        return search(*args, **named)

    server.searcher.search = hold  # type: ignore[method-assign]
    try:
        calls = [server.search.Search.future(SEARCH, timeout=PATIENCE_S) for _ in range(count)]
        assert server.reception is not None
        until(lambda: server.reception.searches.count == count)  # type: ignore[union-attr]
        yield calls
    finally:
        server.searcher.search = search  # type: ignore[method-assign]
        may_end.set()
        for call in calls:
            call.exception(PATIENCE_S)


def check_health(server: Server) -> health_pb2.HealthCheckResponse:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=SOON_S)


def refused(call: Callable[[], Any]) -> Any:
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert time.monotonic() - began < SOON_S
    found = failure(caught.value)
    assert found.code is grpc.StatusCode.RESOURCE_EXHAUSTED, found
    assert found.retry_s is not None
    return found


def test_health_and_refusals_get_through_when_all_threads_are_taken() -> None:
    limits = Limits(max_uploads=1, max_uploads_per_peer=1, max_search_streams=1)
    with serving(limits, calls=4, times=Times()) as server, ExitStack() as stack:
        calls = stack.enter_context(held_searches(server, 4))
        talking: SimpleQueue[Any] = SimpleQueue()
        upload = server.index.UploadItems(iter(talking.get, None), timeout=PATIENCE_S)
        queries = server.search.StreamSearch(iter(talking.get, None), timeout=PATIENCE_S)
        until(lambda: server.uploads.count == 1)
        busy = [server.embed.Embed.future(embed("slow")) for _ in range(4)]
        for _ in range(20):
            found = refused(lambda: server.search.Search(SEARCH, timeout=SOON_S))
            assert found.reason == "OVERLOADED"
            assert found.metadata["limit"] == "4"
            assert 0.001 <= found.retry_s < 60
            assert check_health(server).status == health_pb2.HealthCheckResponse.SERVING
        again = lambda: next(server.index.UploadItems(iter([ip.UploadItemsRequest()])))
        assert refused(again).reason == "TOO_MANY_UPLOADS"
        upload.cancel()
        queries.cancel()
        assert all(call.result(PATIENCE_S) for call in busy)
        assert not any(call.done() for call in calls)
    assert server.reception is not None
    assert server.reception.searches.count == 0


def test_calls_of_other_kinds_do_not_take_the_threads_of_searches() -> None:
    with serving(calls=2, times=Times()) as server:
        put(server, with_vector("a"))
        busy = [server.embed.Embed.future(embed("slow")) for _ in range(2)]
        until(lambda: len(server.embedding.deadlines) == 2)
        refused(lambda: server.embed.Embed(embed("x"), timeout=SOON_S))
        server.search.Search(SEARCH, timeout=SOON_S)
        assert all(call.result(PATIENCE_S) for call in busy)
        server.embed.Embed(embed("x"), timeout=SOON_S)


def silent(server: Server, count: int) -> list[Any]:
    """Begin searches whose request never comes."""
    call = server.channel.stream_unary(
        "/lookalike.v1.SearchService/Search",
        request_serializer=sp.SearchRequest.SerializeToString,
        response_deserializer=sp.SearchResponse.FromString,
    )
    never: SimpleQueue[Any] = SimpleQueue()
    return [call.future(iter(never.get, None), timeout=PATIENCE_S) for _ in range(count)]


def test_a_refusal_does_not_wait_for_the_request() -> None:
    with serving(calls=2, times=Times()) as server, held_searches(server, 2):
        (call,) = silent(server, 1)
        assert failure(call.exception(SOON_S)).reason == "OVERLOADED"


def test_requests_that_do_not_come_hold_no_place_and_are_cut_off() -> None:
    with serving(calls=24, times=Times(message_s=3.0)) as server:
        put(server, with_vector("a"))
        assert server.reception is not None
        calls = []  # more than are let in while the rate is not known
        for count in (9, 18):
            calls += silent(server, 9)
            until(lambda count=count: server.reception.watch.slow_readings == count)  # type: ignore
        server.reception.searches.refusal(0)  # overload: as many as are answered soon, 16
        server.search.Search(SEARCH, timeout=SOON_S)
        for call in calls:
            assert call.exception(PATIENCE_S).code() is grpc.StatusCode.CANCELLED
        assert server.reception.watch.cut_off == 18
        assert server.reception.searches.count == 0
        server.search.Search(SEARCH, timeout=SOON_S)


def test_who_does_not_read_is_cut_off() -> None:
    with serving(times=Times(message_s=2.0)) as server:
        items = [with_vector(str(i)) for i in range(10)]
        for item in items:
            item.metadata.update({"long": "x" * 15_000})
        put(server, *items)
        asked = sp.StreamSearchRequest(tag=1, search=SEARCH).SerializeToString()
        assert server.reception is not None
        with h2.Connection(server.port) as peer:
            path = "/lookalike.v1.SearchService/StreamSearch"
            peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.headers(path)))
            for _ in range(20):
                peer.send(h2.frame(h2.DATA, 0, 1, h2.message(asked)))
            until(lambda: server.reception.watch.cut_off == 1)  # type: ignore[union-attr]
            until(lambda: server.search_streams._count == 0)
        answers = server.search.StreamSearch(
            iter([sp.StreamSearchRequest(search=SEARCH)] * 20), timeout=PATIENCE_S
        )
        assert len(list(answers)) == 20, "who reads has them all"


def test_an_upload_is_ended_if_it_is_silent_and_waits_for_nothing() -> None:
    with serving(times=Times(idle_s=0.6)) as server:
        talk: SimpleQueue[Any] = SimpleQueue()
        stream = server.index.UploadItems(iter(talk.get, None), timeout=PATIENCE_S)
        talk.put(ip.UploadItemsRequest(start=ip.UploadStart()))
        item = ip.UploadItem(seq=1, item=with_vector("a"))
        talk.put(ip.UploadItemsRequest(batch=ip.UploadBatch(items=[item])))
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        found = failure(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert "sent nothing for 0.6 s" in found.message
        until(lambda: server.uploads.count == 0)


def test_an_upload_that_waits_for_the_server_is_left_alone() -> None:
    with serving(times=Times(idle_s=2.0)) as server:
        server.ingest.gate.clear()
        talk: SimpleQueue[Any] = SimpleQueue()
        stream = server.index.UploadItems(iter(talk.get, None), timeout=PATIENCE_S)
        talk.put(ip.UploadItemsRequest(start=ip.UploadStart()))
        item = ip.UploadItem(seq=1, item=with_vector("a"))
        talk.put(ip.UploadItemsRequest(batch=ip.UploadBatch(items=[item])))
        time.sleep(3.0)
        assert server.uploads.count == 1
        server.ingest.gate.set()
        talk.put(None)
        assert any(message.HasField("summary") for message in stream)


def test_a_stream_of_searches_that_is_silent_is_cut_off() -> None:
    with serving(times=Times(idle_s=2.0)) as server:
        talk: SimpleQueue[Any] = SimpleQueue()
        stream = server.search.StreamSearch(iter(talk.get, None), timeout=PATIENCE_S)
        talk.put(sp.StreamSearchRequest(tag=1, search=SEARCH))
        assert next(stream).tag == 1
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert stream.code() is grpc.StatusCode.CANCELLED


def test_one_caller_has_a_share_of_the_streams_and_no_more() -> None:
    limits = Limits(max_uploads=3, max_uploads_per_peer=2)
    with serving(limits, times=Times()) as server:
        never: SimpleQueue[Any] = SimpleQueue()
        open_ones = [server.index.UploadItems(iter(never.get, None)) for _ in range(2)]
        until(lambda: server.uploads.count == 2)
        with grpc.insecure_channel(
            f"127.0.0.1:{server.port}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:  # another connection, another port, the same caller
            path = "/lookalike.v1.IndexService/UploadItems"
            call: Any = channel.stream_stream(path, ip.UploadItemsRequest.SerializeToString)
            found = refused(lambda: next(call(iter([ip.UploadItemsRequest()]))))
        assert found.reason == "TOO_MANY_UPLOADS"
        assert found.metadata["limit"] == "2"
        for stream in open_ones:
            stream.cancel()
        until(lambda: server.uploads.count == 0)
        start = ip.UploadItemsRequest(start=ip.UploadStart())
        assert list(server.index.UploadItems(iter([start])))


def test_callers_are_told_apart_by_key_or_address() -> None:
    class Context:
        def __init__(self, peer: str) -> None:
            self._peer = peer

        def peer(self) -> str:
            return self._peer

    of: Any = Peers(None).of
    assert of(Context("ipv4:10.0.0.1:5000")) == of(Context("ipv4:10.0.0.1:6000"))
    assert of(Context("ipv4:10.0.0.1:5000")) != of(Context("ipv4:10.0.0.2:5000"))
    assert of(Context("ipv6:%5B::1%5D:5000")) == of(Context("ipv6:%5B::1%5D:7"))
    share = Share(2, "uploads", TooManyUploads)
    with share.of("a"), share.of("a"), share.of("b"):
        with pytest.raises(TooManyUploads):
            share.of("a").__enter__()
        with share.of("b"):
            pass
    with share.of("a"), share.of("a"):
        pass
    assert not share._counts, "callers that have left are forgotten"


def test_watchers_of_health_are_bounded_and_unknown_names_forgotten() -> None:
    with serving(times=Times()) as server:
        stub = health_pb2_grpc.HealthStub(server.channel)
        for i in range(50):
            asked = health_pb2.HealthCheckRequest(service=f"nobody-{i}")
            (answer,) = stub.Watch(asked, timeout=SOON_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        first = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert next(first).status == health_pb2.HealthCheckResponse.SERVING
        first.cancel()
    assert MOST_WATCHERS > 50


def test_connections_that_say_nothing_are_ended(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[server]\nhandshake_s = 1\nconnection_idle_s = 1\n")
    flags = Flags({("data", "path"): str(tmp_path / "d"), ("server", "listen"): "127.0.0.1:0"})
    app = App(load(flags, file).config, version="1")
    port = int(app.start().rpartition(":")[2])
    try:
        half_open = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        preface_only = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        preface_only.sendall(h2.PREFACE)
        idle = h2.Connection(port)
        for one in (half_open, preface_only, idle.socket):
            one.settimeout(PATIENCE_S)
            while one.recv(4096):
                pass
            one.close()
    finally:
        app.stop(0)


def test_a_refusal_says_how_long_in_milliseconds() -> None:
    with serving(calls=3, times=Times()) as server, held_searches(server, 3):
        delays = {
            refused(lambda: server.search.Search(SEARCH, timeout=SOON_S)).retry_s for _ in range(10)
        }
    assert len(delays) > 3, "they are spread"
    assert all(round(delay * 1000) == pytest.approx(delay * 1000) for delay in delays)
