from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor

from lookalike.server.keys import ApiKey, KeyRing, Scope, make_key, revoke_key
from lookalike.server.rpc.access import Keys
from lookalike.v1 import access_pb2, index_service_pb2_grpc, types_pb2
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from rpc.access_parts import (
    METHODS,
    OURS,
    THEIRS,
    Guarded,
    bearer,
    find,
    guarded,
    path_of,
    reason_of,
)
from rpc.harness import serving

NOT_OF_ONE = {
    "EmbedService.Embed",
    "EmbedService.ListModels",
    "EmbedService.GetModel",
    "IndexService.ListCollections",
    "SystemService.GetServerInfo",
}
"""Methods whose requests name no collection, written here a second time on purpose."""
OF_ALL = {"AdminService.Backup"}
OF_A_JOB = {"GetJob", "WatchJob", "CancelJob"}
BAD = {
    "none": ((), "KEY_MISSING"),
    "empty": ((("authorization", ""),), "KEY_INVALID"),
    "no key": ((("authorization", "Bearer "),), "KEY_INVALID"),
    "other scheme": ((("authorization", "Basic YTpi"),), "KEY_INVALID"),
    "not ours": (bearer("sk-" + "a" * 40), "KEY_INVALID"),
    "too long": (bearer("lk_" + "a" * 4000), "KEY_INVALID"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(tmp_path_factory.mktemp("guarded")) as running:
        yield running


def scope_of(method: MethodDescriptor) -> Scope:
    return Scope(method.GetOptions().Extensions[access_pb2.scope])


def expected(method: MethodDescriptor, key: str) -> str:
    """Return what must become of a call that is about THEIRS, by the protos alone."""
    if scope_of(method) is Scope.NONE:
        return ""
    if key in ("unknown", "tampered", "revoked"):
        return "KEY_INVALID"
    if key == "expired":
        return "KEY_EXPIRED"
    has = {"read": Scope.READ, "write": Scope.WRITE, "ours-read": Scope.READ}
    if has.get(key, Scope.ADMIN) < scope_of(method):
        return "SCOPE_MISSING"
    name = f"{method.containing_service.name}.{method.name}"
    is_ours = key.startswith("ours")
    return "COLLECTION_NOT_ALLOWED" if is_ours and name not in NOT_OF_ONE else ""


SORTS = ("unknown", "tampered", "revoked", "expired", "read", "write", "ours-read", "ours", "admin")
DESTRUCTIVE = ("DeleteCollection",)
ORDER = sorted(METHODS, key=lambda method: method.name in DESTRUCTIVE)


@pytest.mark.parametrize("key", SORTS)
@pytest.mark.parametrize("method", ORDER, ids=lambda method: method.name)
def test_every_method_takes_the_keys_that_it_declares(
    server: Guarded, method: MethodDescriptor, key: str
) -> None:
    body = server.request(method, THEIRS).SerializeToString()
    found = server.outcome(path_of(method), body, bearer(server.keys[key]))
    assert found == expected(method, key)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_refuses_what_is_no_key(server: Guarded, method: MethodDescriptor) -> None:
    for metadata, reason in BAD.values():
        assert server.outcome(path_of(method), b"", metadata) == reason
    twice = bearer(server.keys["admin"]) * 2
    assert server.outcome(path_of(method), b"", twice) == "KEY_INVALID"


@pytest.mark.parametrize("method", ORDER, ids=lambda method: method.name)
def test_a_key_for_a_collection_is_good_for_all_of_it(
    server: Guarded, method: MethodDescriptor
) -> None:
    request = server.request(method, OURS)
    if method.name in OF_A_JOB:
        stub = index_service_pb2_grpc.IndexServiceStub(server.channel)
        rebuild = ip.RebuildIndexRequest(collection=OURS)
        answer = stub.RebuildIndex(rebuild, metadata=bearer(server.keys["ours"]), timeout=20)
        request = type(request)(id=answer.job.id)
    body = request.SerializeToString()
    found = server.outcome(path_of(method), body, bearer(server.keys["ours"]))
    name = f"{method.containing_service.name}.{method.name}"
    assert found == ("COLLECTION_NOT_ALLOWED" if name in OF_ALL else "")


def test_a_request_that_names_no_collection_is_about_the_default_one(server: Guarded) -> None:
    metadata = bearer(server.keys["ours"])
    for name in ("IndexService/GetItem", "IndexService/UpsertItems", "SearchService/Search"):
        assert server.outcome(f"/lookalike.v1.{name}", b"", metadata) == "COLLECTION_NOT_ALLOWED"
    for name in ("AdminService/Verify", "IndexService/ListJobs"):  # these are about all
        assert server.outcome(f"/lookalike.v1.{name}", b"", metadata) == "COLLECTION_NOT_ALLOWED"


def test_one_foreign_query_in_a_batch_is_enough_to_refuse_it(server: Guarded) -> None:
    def batch(*names: str, shared: str = "") -> str:
        queries = [sp.SearchRequest(collection=name, text="x") for name in names]
        body = sp.BatchSearchRequest(collection=shared, queries=queries).SerializeToString()
        path = "/lookalike.v1.SearchService/BatchSearch"
        return server.outcome(path, body, bearer(server.keys["ours-read"]))

    assert batch(OURS, OURS, THEIRS) == "COLLECTION_NOT_ALLOWED"
    assert batch(OURS, "", shared=THEIRS) == "COLLECTION_NOT_ALLOWED"
    assert batch(OURS, "") == "COLLECTION_NOT_ALLOWED"
    assert batch(OURS, "", shared=OURS) == ""
    assert batch(OURS, OURS) == ""


def test_only_ones_own_collections_are_listed(tmp_path: Path) -> None:
    now = time.time()
    made = {
        name: make_key(Scope.ADMIN, now=now, collections=names)
        for name, names in (("all", ()), ("some", ("b", "d", "gone", "c")))
    }
    keys = Keys(KeyRing([key for _, key in made.values()]))
    with serving(keys=keys) as server:
        for name in "abcde":
            request = ip.CreateCollectionRequest(collection=ip.Collection(name=name))
            server.index.CreateCollection(request, metadata=bearer(made["all"][0]))

        def listed(key: str, size: int) -> list[list[str]]:
            pages, token = [], ""
            while True:
                request = ip.ListCollectionsRequest(page_size=size, page_token=token)
                answer = server.index.ListCollections(request, metadata=bearer(made[key][0]))
                pages.append([one.name for one in answer.collections])
                if not (token := answer.next_page_token):
                    return pages

        assert listed("some", 100) == [["b", "c", "d"]]
        assert listed("some", 2) == [["b", "c"], ["d"]]
        assert listed("all", 100) == [["a", "b", "c", "d", "e"]]


# ------------------------------------------------------------ before the body


def test_a_stream_is_refused_before_anything_is_sent(server: Guarded) -> None:
    release = threading.Event()

    def nothing() -> Iterator[bytes]:
        release.wait(20)
        yield from ()

    for name in ("IndexService/UploadItems", "SearchService/StreamSearch"):
        call: Any = server.channel.stream_stream(f"/lookalike.v1.{name}")
        for metadata, reason in (
            ((), "KEY_MISSING"),
            (bearer(server.keys["unknown"]), "KEY_INVALID"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                next(call(nothing(), metadata=metadata, timeout=10))
            assert reason_of(caught.value) == reason
    release.set()


def test_a_unary_call_is_refused_before_anything_is_sent(server: Guarded) -> None:
    """Called as a stream whose one message never comes."""
    release = threading.Event()

    def nothing() -> Iterator[bytes]:
        release.wait(20)
        yield from ()

    call: Any = server.channel.stream_unary("/lookalike.v1.SearchService/Search")
    with pytest.raises(grpc.RpcError) as caught:
        call(nothing(), timeout=10)
    assert reason_of(caught.value) == "KEY_MISSING"
    release.set()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_body_that_is_no_message_is_not_even_read(
    server: Guarded, method: MethodDescriptor
) -> None:
    call: Any = server.channel.stream_stream(path_of(method))
    with pytest.raises(grpc.RpcError) as caught:
        next(call(iter([b"\xff" * 1000]), metadata=bearer(server.keys["unknown"]), timeout=10))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(caught.value) == "KEY_INVALID"


def test_a_refusal_takes_no_place_of_a_call() -> None:
    with serving(calls=1, keys=Keys(KeyRing([]))) as server:
        for _ in range(5):
            with pytest.raises(grpc.RpcError) as caught:
                server.search.Search(sp.SearchRequest(text="x"))
            assert reason_of(caught.value) == "KEY_MISSING"


# --------------------------------------------------- health, reflection, the rest


def test_health_needs_no_key_and_reflection_does(server: Guarded) -> None:
    health: Any = server.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert health(b"", timeout=10) == b"\x08\x01"
    listing = b"\x3a\x00"  # list_services
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        assert server.outcome(path, listing) == "KEY_MISSING"
        assert server.outcome(path, listing, bearer(server.keys["ours-read"])) == ""
        call: Any = server.channel.stream_stream(path)
        answer = next(call(iter([listing]), metadata=bearer(server.keys["read"]), timeout=10))
        assert b"lookalike.v1.SearchService" in answer


def test_a_method_that_is_not_there_is_not_there_for_strangers_either(server: Guarded) -> None:
    call: Any = server.channel.unary_unary("/lookalike.v1.IndexService/Nothing")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_scheme_may_be_written_either_way(server: Guarded) -> None:
    path = path_of(find("SystemService/GetServerInfo"))
    for scheme in ("bearer", "BEARER", "Bearer "):
        metadata = (("authorization", f"{scheme} {server.keys['read']}"),)
        assert server.outcome(path, b"", metadata) == ""


# --------------------------------------------------------- while the server runs


def within(seconds: float, what: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_key_is_taken_and_refused_without_a_restart(server: Guarded) -> None:
    text = server.add(Scope.READ, note="new")
    path = path_of(find("SystemService/GetServerInfo"))
    assert within(5, lambda: server.outcome(path, b"", bearer(text)) == "")
    revoke_key(server.file, text.split("_")[1], time.time())
    assert within(5, lambda: server.outcome(path, b"", bearer(text)) == "KEY_INVALID")


def test_a_broken_file_changes_nothing_and_is_logged(
    server: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    before = server.file.read_bytes()
    path = path_of(find("SystemService/GetServerInfo"))
    try:
        for broken in (b'{"id": "x"}\n', b"\xff\xfe", before[: len(before) // 2 + 7]):
            caplog.clear()
            server.file.write_bytes(broken)
            assert within(5, lambda: "the keys in force stay" in caplog.text)
            assert server.outcome(path, b"", bearer(server.keys["read"])) == ""
        caplog.clear()
        server.file.unlink()
        assert within(5, lambda: "the keys in force stay" in caplog.text)
        assert server.outcome(path, b"", bearer(server.keys["read"])) == ""
    finally:
        caplog.clear()
        caplog.set_level(logging.INFO)
        server.file.write_bytes(before)
        server.file.chmod(0o600)
        assert within(5, lambda: "keys read anew" in caplog.text)


def ring(*keys: ApiKey) -> KeyRing:
    return KeyRing(keys)


def test_open_streams_end_when_their_key_is_revoked_or_expires() -> None:
    text, key = make_key(Scope.WRITE, now=0.0, expires=100.0)
    now = [1.0]
    keys = Keys(ring(key), lambda: now[0])
    with serving(keys=keys) as server:
        sent: list[threading.Event] = [threading.Event() for _ in range(2)]

        def queries() -> Iterator[sp.StreamSearchRequest]:
            yield sp.StreamSearchRequest(tag=1, search=sp.SearchRequest(text="x"))
            sent[0].wait(20)
            yield sp.StreamSearchRequest(tag=2, search=sp.SearchRequest(text="x"))

        answers = server.search.StreamSearch(queries(), metadata=bearer(text), timeout=20)
        assert next(answers).tag == 1
        keys.replace(ring())
        sent[0].set()
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert reason_of(caught.value) == "KEY_INVALID"

        keys.replace(ring(key))
        job = server.jobs.rebuild("a", None, False)
        watch = server.index.WatchJob(
            ip.WatchJobRequest(id=job.id), metadata=bearer(text), timeout=20
        )
        next(watch)
        now[0] = 100.0
        server.jobs.cancel(job.id)
        with pytest.raises(grpc.RpcError) as caught:
            list(watch)
        assert reason_of(caught.value) == "KEY_EXPIRED"


def test_an_upload_stores_nothing_more_once_its_key_is_revoked() -> None:
    text, key = make_key(Scope.WRITE, now=0.0)
    keys = Keys(ring(key), lambda: 1.0)
    with serving(keys=keys) as server:
        started = threading.Event()

        def messages() -> Iterator[ip.UploadItemsRequest]:
            yield ip.UploadItemsRequest(start=ip.UploadStart())
            started.wait(20)
            item = ip.ItemInput(id="a", image=types_pb2.Image(data=b"x"))
            batch = ip.UploadBatch(items=[ip.UploadItem(seq=1, item=item)])
            yield ip.UploadItemsRequest(batch=batch)

        call = server.index.UploadItems(messages(), metadata=bearer(text), timeout=20)
        assert next(call).WhichOneof("message") == "started"
        keys.replace(ring())
        started.set()
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert reason_of(caught.value) == "KEY_INVALID"
        assert server.library.collection("default").items == {}


# ------------------------------------------------------------------ the canary


def test_no_key_is_in_any_log_or_error_or_answer(
    server: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    for text in (*server.keys.values(), "canary-" + "x" * 20):
        for method in (find("SystemService/GetServerInfo"), find("IndexService/GetItem")):
            call: Any = server.channel.unary_unary(path_of(method))
            try:
                said.append(repr(call(b"", metadata=bearer(text), timeout=10)))
            except grpc.RpcError as error:
                said.append(f"{error} {error.trailing_metadata()}")
    everything = "\n".join([*said, caplog.text])
    for text in (*server.keys.values(), "canary-"):
        secret = text.rpartition("_")[2]
        assert secret not in everything
    assert server.keys["revoked"].split("_")[1] in caplog.text, "ids are logged"


def test_strangers_do_not_fill_the_log(server: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = path_of(find("SystemService/GetServerInfo"))
    begin = time.monotonic()
    for _ in range(100):
        assert server.outcome(path, b"") == "KEY_MISSING"
    seconds = time.monotonic() - begin
    lines = [record for record in caplog.records if "refused" in record.getMessage()]
    assert len(lines) <= 10 * (seconds + 2)
