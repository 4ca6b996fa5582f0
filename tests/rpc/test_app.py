"""The composed server in this process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Authority
from lookalike.backends.errors import (
    FailedPrecondition,
    LookalikeError,
    UnknownBackend,
)
from lookalike.server.app import App
from lookalike.server.config import Config, Flags, load
from lookalike.server.keys import Scope, add_key, make_key
from lookalike.v1 import index_service_pb2, index_service_pb2_grpc, types_pb2
from rpc.harness import failure


def config(data: Path, listen: str = "127.0.0.1:0", **flags: str) -> Config:
    values: dict[tuple[str, ...], str | None] = {
        tuple(name.split("__")): value for name, value in flags.items()
    }
    return load(Flags({("data", "path"): str(data), ("server", "listen"): listen, **values})).config


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "rpc" not in thread.name}


def test_a_server_that_has_stopped_leaves_no_thread_and_gives_the_folder_back(
    tmp_path: Path,
) -> None:
    before = our_threads()
    for _ in range(2):
        app = App(config(tmp_path), version="1")
        address = app.start()
        assert app.wait_ready(20)
        with grpc.insecure_channel(address) as channel:
            stub = index_service_pb2_grpc.IndexServiceStub(channel)
            vector = types_pb2.Vector(values=[1.0] * 384)
            item = index_service_pb2.ItemInput(id="a", vector=vector)
            stub.UpsertItems(index_service_pb2.UpsertItemsRequest(items=[item]), timeout=20)
        app.stop(1.0)
        end = time.monotonic() + 5
        while our_threads() - before and time.monotonic() < end:
            time.sleep(0.02)
        assert our_threads() - before == set()


@pytest.mark.parametrize(
    ("flags", "error", "word"),
    [
        ({"index__backend": "fais"}, UnknownBackend, "Did you mean 'faiss'"),
        ({"engine__name": "cloud"}, UnknownBackend, "There is no engine"),
    ],
)
def test_what_cannot_be_started_is_refused_and_nothing_is_left(
    tmp_path: Path, flags: dict[str, str], error: type[LookalikeError], word: str
) -> None:
    before = our_threads()
    with pytest.raises(error, match=word):
        App(config(tmp_path, **flags), version="1").start()
    assert our_threads() - before == set()
    app = App(config(tmp_path), version="1")  # the folder is free again
    app.start()
    app.stop(0)


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
def test_a_door_to_other_machines_needs_tls_and_keys_or_a_word(tmp_path: Path, listen: str) -> None:
    ca = Authority(tmp_path / "ca")
    pair = ca.sign("server")
    add_key(tmp_path / "keys", make_key(Scope.ADMIN, now=0.0)[1])
    keys = {"access__keys_file": str(tmp_path / "keys")}
    tls = {"tls__certificate": str(pair.certificate), "tls__key": str(pair.key)}
    mutual = {**tls, "tls__client_ca": str(ca.certificate)}
    for flags, lacking in (
        ({}, "TLS and API keys"),
        (keys, "without TLS they"),
        (tls, "without API keys they"),
        (mutual, "without API keys they"),
    ):
        with pytest.raises(FailedPrecondition, match=lacking):
            App(config(tmp_path / "data", listen, **flags), version="1").start()
    assert not (tmp_path / "data").exists()


def test_a_door_to_other_machines_opens_with_tls_and_keys_or_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Authority(tmp_path / "ca").sign("server")
    add_key(tmp_path / "keys", make_key(Scope.ADMIN, now=0.0)[1])
    safe = {
        "access__keys_file": str(tmp_path / "keys"),
        "tls__certificate": str(pair.certificate),
        "tls__key": str(pair.key),
    }
    for flags in (safe, {"access__insecure": "true"}):
        app = App(config(tmp_path / "data", "0.0.0.0:0", **flags), version="1")
        app.start()
        app.stop(0)
        assert ("open to other machines" in caplog.text) is (flags is not safe)


def test_a_keys_file_that_is_not_there_keeps_the_server_from_starting(tmp_path: Path) -> None:
    flags = {"access__keys_file": str(tmp_path / "gone")}
    with pytest.raises(FailedPrecondition, match="lookalike keys create"):
        App(config(tmp_path / "data", **flags), version="1").start()


def test_two_servers_cannot_have_one_address_or_one_folder(tmp_path: Path) -> None:
    app = App(config(tmp_path / "a"), version="1")
    address = app.start()
    with pytest.raises(FailedPrecondition, match="Cannot listen"):
        App(config(tmp_path / "b", address), version="1").start()
    with pytest.raises(FailedPrecondition, match="another server"):
        App(config(tmp_path / "a"), version="1").start()
    app.stop(0)


def test_a_stopping_server_says_so_before_it_ends(tmp_path: Path) -> None:
    app = App(config(tmp_path), version="1")
    with grpc.insecure_channel(app.start()) as channel:
        assert app.wait_ready(20)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="lookalike.v1.SearchService"), timeout=20
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=app.stop, args=(2.0,))
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        started = time.monotonic()  # a watcher that stays does not use up the grace
        stopping.join()
        assert time.monotonic() - started < 1.5


def test_a_client_that_comes_too_late_is_told_to_come_back(tmp_path: Path) -> None:
    app = App(config(tmp_path), version="1")
    with grpc.insecure_channel(app.start()) as channel:
        stub = index_service_pb2_grpc.IndexServiceStub(channel)
        release = threading.Event()
        start = index_service_pb2.UploadItemsRequest(start=index_service_pb2.UploadStart())

        def messages() -> object:
            yield start
            release.wait(20)

        call = stub.UploadItems(messages(), timeout=20)  # type: ignore[arg-type]
        next(call)
        stopping = threading.Thread(target=app.stop, args=(5.0,))
        stopping.start()
        assert next(call).WhichOneof("message") == "draining"
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListCollections(index_service_pb2.ListCollectionsRequest(), timeout=5)
        assert failure(caught.value).code is grpc.StatusCode.UNAVAILABLE
        assert failure(caught.value).reason == "DRAINING"
        release.set()
        assert list(call)[-1].WhichOneof("message") == "summary"
        stopping.join()


def test_a_call_for_a_job_that_is_not_there_comes_through_the_whole_server(
    tmp_path: Path,
) -> None:
    app = App(config(tmp_path), version="1")
    with grpc.insecure_channel(app.start()) as channel:
        stub = index_service_pb2_grpc.IndexServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.WatchJob(index_service_pb2.WatchJobRequest(id="no"), timeout=10))
        assert failure(caught.value).reason == "JOB_NOT_FOUND"
    app.stop(0)
