"""The server as it is started for good: one process, one command, the wire."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from lookalike.v1 import (
    embed_service_pb2,
    embed_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
    types_pb2,
)
from made_pictures import jpeg
from rpc.harness import failure

READY = re.compile(
    r"lookalike \S+ ready on (127\.0\.0\.1:\d+) \(embedder builtin, index auto, data (.+)\)\n"
)
START = index_service_pb2.UploadItemsRequest(start=index_service_pb2.UploadStart())


class Process:
    """A server in a process of its own, and stubs that speak with it."""

    def __init__(
        self, data: Path, *args: str, env: dict[str, str] | None = None, patch: str = ""
    ) -> None:
        start = ["-c", f"{patch}; main()"] if patch else ["-m", "lookalike.server"]
        command = [sys.executable, *start, "serve", "--data", str(data)]
        self.log = data.with_suffix(".log")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", "127.0.0.1:0", *args],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(env or {})},
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = READY.fullmatch(line)
        if match is None:
            self.process.kill()
            self.process.communicate()
            pytest.fail(f"{line!r} is not the ready line; {self.log.read_text()}")
        assert match[2] == str(data)
        self.address = match[1]
        self.channel = grpc.insecure_channel(self.address)
        self.index = index_service_pb2_grpc.IndexServiceStub(self.channel)
        self.search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self.embed = embed_service_pb2_grpc.EmbedServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; return its exit code, having seen that it said nothing more on stdout."""
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == ""
        return code

    def check(self, service: str) -> str:
        answer = self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@contextmanager
def running(
    data: Path, *args: str, env: dict[str, str] | None = None, patch: str = ""
) -> Iterator[Process]:
    server = Process(data, *args, env=env, patch=patch)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()
        server.channel.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(tmp_path_factory.mktemp("real") / "data") as process:
        yield process
        assert process.stop() == 0


def put(server: Process, *numbers: int) -> Any:
    items = [
        index_service_pb2.ItemInput(id=f"p{n}", image=types_pb2.Image(data=jpeg(n)))
        for n in numbers
    ]
    return server.index.UpsertItems(index_service_pb2.UpsertItemsRequest(items=items), timeout=20)


def find(server: Process, number: int) -> Sequence[tuple[str, float]]:
    request = search_service_pb2.SearchRequest(image=types_pb2.Image(data=jpeg(number)), limit=3)
    hits = server.search.Search(request, timeout=20).hits
    return [(hit.item.id, hit.score) for hit in hits]


def test_a_picture_is_found_again_even_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        assert put(server, *range(5)).failed_count == 0
        before = find(server, 3)
        assert before[0][0] == "p3"
        assert before[0][1] > 0.999
        assert server.stop() == 0
    with running(tmp_path / "data") as server:
        assert find(server, 3) == before
        again = put(server, 3).results[0].outcome
        assert again == index_service_pb2.WRITE_OUTCOME_UNCHANGED
        assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in (tmp_path / "data.log").read_text()


def test_health_is_told_for_the_server_and_each_service(server: Process) -> None:
    names = [
        "",
        *(f"lookalike.v1.{name}Service" for name in ("Embed", "Index", "Search", "System")),
    ]
    assert {server.check(name) for name in names} == {"SERVING"}
    with pytest.raises(grpc.RpcError) as caught:
        server.check("nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = server.health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_knows_the_services_and_the_error_details(server: Process, version: str) -> None:
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="lookalike.v1.IndexService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="google.rpc.ErrorInfo"),
    ]
    services, index, details = call(iter(asked), timeout=10)
    names = {service.name for service in services.list_services_response.service}
    assert {
        "lookalike.v1.AdminService",
        "lookalike.v1.EmbedService",
        "lookalike.v1.IndexService",
        "lookalike.v1.SearchService",
        "lookalike.v1.SystemService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } == names
    for answer in (index, details):
        assert answer.file_descriptor_response.file_descriptor_proto


def test_the_server_says_what_it_is(server: Process) -> None:
    stub = system_service_pb2_grpc.SystemServiceStub(server.channel)
    info = stub.GetServerInfo(system_service_pb2.GetServerInfoRequest(), timeout=20)
    assert info.ready
    assert (info.default_model, info.engine) == ("builtin", "local")
    assert info.backends[0] == "auto"
    assert "exact" in info.backends
    assert abs(info.start_time.ToSeconds() - time.time()) < 300


def test_vectors_of_the_server_have_length_1(server: Process) -> None:
    inputs = [
        embed_service_pb2.EmbedInput(image=types_pb2.Image(data=jpeg(1))),
        embed_service_pb2.EmbedInput(image=types_pb2.Image(data=b"no picture")),
        embed_service_pb2.EmbedInput(text="a shoe"),
    ]
    answer = server.embed.Embed(embed_service_pb2.EmbedRequest(inputs=inputs), timeout=20)
    assert abs(np.linalg.norm(answer.results[0].vector.values) - 1) < 1e-5
    reasons = [result.error.reason for result in answer.results]
    assert reasons == ["", "IMAGE_FORMAT_UNSUPPORTED", "MODEL_LACKS_MODALITY"]
    assert answer.model.loaded
    assert answer.model.fingerprint
    models = server.embed.ListModels(embed_service_pb2.ListModelsRequest()).models
    assert [model.name for model in models] == ["builtin"]


def test_errors_of_the_domain_come_with_reason_and_field(server: Process) -> None:
    put(server, 1)
    cases: list[tuple[Any, Any, str, str]] = [
        (
            server.index.GetItem,
            index_service_pb2.GetItemRequest(id="nope"),
            "ITEM_NOT_FOUND",
            "id",
        ),
        (
            server.search.Search,
            search_service_pb2.SearchRequest(vector=types_pb2.Vector(values=[1, 2])),
            "DIMENSION_MISMATCH",
            "vector",
        ),
        (
            server.search.Search,
            search_service_pb2.SearchRequest(item_id="nope"),
            "ITEM_NOT_FOUND",
            "item_id",
        ),
        (
            server.index.CreateCollection,
            index_service_pb2.CreateCollectionRequest(
                collection=index_service_pb2.Collection(
                    name="x", index=index_service_pb2.IndexSpec(backend="fais")
                )
            ),
            "BACKEND_UNKNOWN",
            "",
        ),
        (
            server.index.GetItemImage,
            index_service_pb2.GetItemImageRequest(id="p1", original=True),
            "IMAGE_NOT_RETAINED",
            "",
        ),
    ]
    for call, request, reason, field in cases:
        with pytest.raises(grpc.RpcError) as caught:
            list(call(request)) if call is server.index.GetItemImage else call(request)
        found = failure(caught.value)
        assert (found.reason, found.field) == (reason, field)


def test_an_upload_by_hand_ends_with_a_summary(server: Process) -> None:
    picture = jpeg(77)
    messages = [
        START,
        index_service_pb2.UploadItemsRequest(
            batch=index_service_pb2.UploadBatch(
                items=[
                    index_service_pb2.UploadItem(
                        seq=1,
                        item=index_service_pb2.ItemInput(
                            id="whole", image=types_pb2.Image(data=picture)
                        ),
                    ),
                    index_service_pb2.UploadItem(
                        seq=2, item=index_service_pb2.ItemInput(id="pieces"), chunked=True
                    ),
                    index_service_pb2.UploadItem(
                        seq=3,
                        item=index_service_pb2.ItemInput(
                            id="bad", image=types_pb2.Image(data=b"no picture")
                        ),
                    ),
                ]
            )
        ),
        index_service_pb2.UploadItemsRequest(
            chunk=index_service_pb2.UploadChunk(seq=2, offset=0, data=picture[:1000])
        ),
        index_service_pb2.UploadItemsRequest(
            chunk=index_service_pb2.UploadChunk(seq=2, offset=1000, data=picture[1000:], last=True)
        ),
        index_service_pb2.UploadItemsRequest(flush=index_service_pb2.UploadFlush(token=9)),
    ]
    said = list(server.index.UploadItems(iter(messages), timeout=20))
    kinds = [response.WhichOneof("message") for response in said]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("started", "flushed", "summary")
    outcomes = {ack.seq: ack.result for response in said for ack in response.acks.acks}
    assert outcomes[3].error.reason == "IMAGE_FORMAT_UNSUPPORTED"
    assert said[-1].summary.counts == index_service_pb2.UploadCounts(created=2, failed=1)
    pieces = server.index.GetItemImage(index_service_pb2.GetItemImageRequest(id="pieces"))
    assert b"".join(piece.data for piece in pieces).startswith(b"\xff\xd8")
    request = search_service_pb2.SearchRequest(item_id="whole", limit=1)
    assert server.search.Search(request).hits[0].item.id == "pieces"


def test_an_end_asked_for_is_announced_to_uploads_and_waits_for_them(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        more = threading.Event()

        def messages() -> Iterator[index_service_pb2.UploadItemsRequest]:
            yield START
            more.wait(10)
            item = index_service_pb2.ItemInput(id="late", image=types_pb2.Image(data=jpeg(5)))
            upload = index_service_pb2.UploadItem(seq=1, item=item)
            yield index_service_pb2.UploadItemsRequest(
                batch=index_service_pb2.UploadBatch(items=[upload])
            )

        call = server.index.UploadItems(messages(), timeout=20)
        assert next(call).WhichOneof("message") == "started"
        watch = server.health.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.02)  # as timeout(1) does: a signal and its echo are one
        server.process.send_signal(signal.SIGTERM)
        assert next(call).draining.grace_seconds == 30
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        more.set()
        rest = list(call)
        assert [len(response.acks.acks) for response in rest] == [1, 0]
        assert rest[-1].summary.counts.created == 1
        assert server.process.wait(10) == 0


@pytest.mark.parametrize("twice", [False, True])
def test_a_stream_that_never_ends_cannot_hold_the_process(tmp_path: Path, twice: bool) -> None:
    env = {} if twice else {"LOOKALIKE_SERVER__GRACE_S": "0.5"}
    with running(tmp_path / "data", env=env) as server:
        held = threading.Event()

        def messages() -> Iterator[index_service_pb2.UploadItemsRequest]:
            yield START
            held.wait(30)

        call = server.index.UploadItems(messages())
        next(call)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert next(call).WhichOneof("message") == "draining"
        if twice:
            time.sleep(0.3)  # closer together they are one
            server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == (128 + signal.SIGTERM if twice else 0)
        assert time.monotonic() - started < 8  # the default grace would be 30
        held.set()


def test_an_end_that_hangs_is_cut_short(tmp_path: Path) -> None:
    hang = (
        "import time; from lookalike.server.app import App; "
        "App.stop = lambda self, grace_s, process_ends: time.sleep(60); "
        "from lookalike.server.__main__ import main"
    )
    env = {"LOOKALIKE_SERVER__GRACE_S": "0.2"}
    with running(tmp_path / "data", env=env, patch=hang) as server:
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 3
        assert 0.9 < time.monotonic() - started < 10  # the hang would be 60
    assert "not everything ended in time" in server.log.read_text()


def refused(*args: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Start a server that must not start; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "lookalike.server", *args],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    return done.returncode, lines


def test_an_address_that_is_taken_is_told_in_one_line(server: Process, tmp_path: Path) -> None:
    data = ("--data", str(tmp_path / "data"))
    code, lines = refused("serve", *data, "--listen", server.address)
    assert (code, len(lines)) == (1, 1)
    assert "Cannot listen on" in lines[0]


def test_a_folder_that_is_in_use_is_told_in_one_line(server: Process) -> None:
    data = ("--data", str(server.log.with_suffix("")))
    code, lines = refused("serve", *data, "--listen", "127.0.0.1:0")
    assert (code, len(lines)) == (1, 1)
    assert "another server is using" in lines[0]


def test_wrong_usage_is_told_in_one_line() -> None:
    code, lines = refused("serve", "--listen", "50051")
    assert (code, len(lines)) == (2, 1)
    assert "must be HOST:PORT" in lines[0]


def test_a_server_open_to_other_machines_says_so(tmp_path: Path) -> None:
    command = ["serve", "--listen", "0.0.0.0:0", "--data", str(tmp_path), "--log-format", "json"]
    command.append("--insecure")
    process = subprocess.Popen(
        [sys.executable, "-m", "lookalike.server", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("lookalike ")
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert '"level": "warning"' in log
    assert "open to other machines" in log


def test_a_server_is_not_opened_to_other_machines_by_accident(tmp_path: Path) -> None:
    code, lines = refused("serve", "--listen", "0.0.0.0:0", "--data", str(tmp_path / "data"))
    assert (code, len(lines)) == (1, 1)
    for flag in ("--tls-certificate", "--tls-key", "--keys", "--insecure"):
        assert flag in lines[0]
    assert not (tmp_path / "data").exists(), "nothing was done before"


def test_the_configuration_can_be_looked_at() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lookalike.server", "config", "show", "--origin"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "LOOKALIKE_SERVER__THREADS": "7"},
        check=True,
    )
    assert any(
        line.split() == ["server.threads", "=", "7", "#", "LOOKALIKE_SERVER__THREADS"]
        for line in done.stdout.splitlines()
    )
