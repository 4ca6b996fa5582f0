from __future__ import annotations

import logging
import threading
import time
from typing import Any

import grpc
import pytest

from lookalike.server.rpc import interceptors
from lookalike.v1 import embed_service_pb2 as ep
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from rpc.harness import Server, failure, serving
from rpc.test_index import put, with_vector


def trailers(call: Any) -> dict[str, str | bytes]:
    return dict(call.trailing_metadata())


def embed(value: str) -> ep.EmbedRequest:
    return ep.EmbedRequest(inputs=[ep.EmbedInput(text=value)])


def test_an_unexpected_error_tells_the_caller_a_request_id_and_the_log_the_rest(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.embed.Embed(embed("crash"), metadata=(("x-request-id", "abc-123"),))
    found = failure(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "abc-123" in found.message
    assert "secret" not in str(caught.value)
    record = next(r for r in caplog.records if r.levelno == logging.ERROR)
    assert "abc-123" in record.getMessage()
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def test_a_request_id_is_echoed_or_made(server: Server) -> None:
    def echoed(*metadata: tuple[str, str]) -> str:
        _, call = server.search.BatchSearch.with_call(
            sp.BatchSearchRequest(queries=[sp.SearchRequest(text="x")]), metadata=metadata
        )
        return str(trailers(call)["x-request-id"])

    assert echoed(("x-request-id", "mine")) == "mine"
    assert echoed() != echoed()
    for evil in ("x" * 200, "a b", 'x"y'):
        assert echoed(("x-request-id", evil)) != evil
    with pytest.raises(grpc.RpcError) as caught:
        server.index.GetJob(ip.GetJobRequest(id="no"), metadata=(("x-request-id", "mine"),))
    assert trailers(caught.value)["x-request-id"] == "mine"


def test_every_call_has_one_line_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(server, with_vector("a"), with_vector("b"))
    with pytest.raises(grpc.RpcError):
        server.index.GetItem(ip.GetItemRequest(id="no"), metadata=(("x-request-id", "r1"),))
    list(server.index.UploadItems(iter([ip.UploadItemsRequest(start=ip.UploadStart())])))
    lines = [r.getMessage() for r in caplog.records if "call method=" in r.getMessage()]
    assert len(lines) == 3
    assert "method=lookalike.v1.IndexService/UpsertItems code=OK ms=" in lines[0]
    assert "items=2" in lines[0]
    assert "code=NOT_FOUND" in lines[1]
    assert lines[1].endswith("request_id=r1 reason=ITEM_NOT_FOUND")
    assert "UploadItems code=OK" in lines[2]


def test_reads_that_go_well_are_in_the_log_only_if_they_are_slow(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(server, with_vector("a"))
    search = sp.SearchRequest(text="x")
    caplog.set_level(logging.INFO)
    server.search.Search(search)
    server.index.ListCollections(ip.ListCollectionsRequest())
    assert not [r for r in caplog.records if "call method=" in r.getMessage()]
    monkeypatch.setattr(interceptors, "_SLOW_S", 0.0)
    server.search.Search(search)
    (line,) = [r for r in caplog.records if "call method=" in r.getMessage()]
    assert line.levelno == logging.INFO
    monkeypatch.undo()
    caplog.set_level(logging.DEBUG, "lookalike")
    server.search.BatchSearch(sp.BatchSearchRequest(queries=[search] * 3))
    line = next(r for r in reversed(caplog.records) if "call method=" in r.getMessage())
    assert line.levelno == logging.DEBUG
    assert "BatchSearch code=OK" in line.getMessage()
    assert "items=3" in line.getMessage()


def test_a_stream_that_is_cancelled_has_its_line_too(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = server.jobs.rebuild("a", None, False)
    watch = server.index.WatchJob(ip.WatchJobRequest(id=job.id))
    next(watch)
    watch.cancel()
    end = time.monotonic() + 5
    while not any("WatchJob" in r.getMessage() for r in caplog.records):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_calls_beyond_the_most_are_refused_at_once() -> None:
    with serving(calls=2) as server:
        slow = [server.embed.Embed.future(embed("slow")) for _ in range(2)]
        while len(server.embedding.deadlines) < 2:
            time.sleep(0.005)
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            server.search.Search(sp.SearchRequest(text="x"))
        assert time.monotonic() - started < 0.3
        found = failure(caught.value)
        assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert found.retry_s
        assert all(call.result().results[0].HasField("vector") for call in slow)
        server.embed.Embed(embed("x"))


def test_calls_that_last_have_places_of_their_own() -> None:
    with serving(calls=1, streams=1) as server:
        job = server.jobs.rebuild("a", None, False)
        watch = server.index.WatchJob(ip.WatchJobRequest(id=job.id))
        next(watch)
        with pytest.raises(grpc.RpcError) as caught:
            next(server.index.WatchJob(ip.WatchJobRequest(id=job.id)))
        assert failure(caught.value).reason == "OVERLOADED"
        server.embed.Embed(embed("x"))
        watch.cancel()


def test_hostile_bytes_never_reach_the_caller_as_a_trace(server: Server) -> None:
    """Bytes that are no message are answered by gRPC itself, before the server's code."""
    methods = [
        f"/{service.full_name}/{method.name}"
        for file in (ep, ip, sp)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    ]
    payloads = [b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x0f", b"\x00", b"\x7a\x02hi"]
    for method in methods:
        call: Any = server.channel.unary_unary(method)
        for payload in payloads:
            answer = call.future(payload, timeout=5)
            assert answer.code() is not grpc.StatusCode.UNKNOWN, (method, answer)
            assert "Traceback" not in answer.details()
    assert threading.active_count() < 60
