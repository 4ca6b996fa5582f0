from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from lookalike.backends.errors import Internal
from lookalike.server.keys import Scope
from lookalike.server.rpc import server as front
from lookalike.server.rpc.scopes import FOREIGN, collections_of, scopes
from lookalike.v1 import access_pb2
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from rpc.access_parts import METHODS, find, path_of


def test_every_method_of_the_server_has_a_scope() -> None:
    found = scopes(front._SERVICES)
    assert {path_of(method) for method in METHODS} <= found.keys()
    assert set(found.values()) == set(Scope)
    ours = {path_of(method): found[path_of(method)] for method in METHODS}
    for method in METHODS:
        assert int(ours[path_of(method)]) == method.GetOptions().Extensions[access_pb2.scope]


def test_services_that_are_not_ours_are_decided_with_a_reason() -> None:
    others = set(front._SERVICES) - {method.containing_service.full_name for method in METHODS}
    assert others == FOREIGN.keys()
    assert all(why for _, why in FOREIGN.values())


def test_nothing_that_changes_anything_may_be_done_by_readers() -> None:
    for method in METHODS:
        only_reads = method.GetOptions().idempotency_level == 1
        scope = method.GetOptions().Extensions[access_pb2.scope]
        if not only_reads and method.name not in ("Embed", "StreamSearch", "MeasureRecall"):
            assert scope >= access_pb2.SCOPE_WRITE, method.full_name


def plant(name: str, scope: int, fields: tuple[str, ...] = ("collection",)) -> str:
    """Add a service with one method to the pool; return the service's name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"planted/{name}.proto", syntax="proto3")
    file.package, file.dependency[:] = "lookalike.v1", ["lookalike/v1/access.proto"]
    message = file.message_type.add(name=f"{name}Request")
    for number, field in enumerate(fields, 1):
        message.field.add(name=field, number=number, type=9, label=1)
    method = file.service.add(name=f"{name}Service").method.add(name="Do")
    method.input_type = method.output_type = f".lookalike.v1.{name}Request"
    if scope:
        method.options.Extensions[access_pb2.scope] = scope  # type: ignore[misc]
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return f"lookalike.v1.{name}Service"


def test_a_method_without_a_scope_keeps_the_server_from_starting() -> None:
    assert scopes([plant("Good", access_pb2.SCOPE_READ)])
    with pytest.raises(Internal, match=r"BadService\.Do declares no scope"):
        scopes([plant("Bad", access_pb2.SCOPE_UNSPECIFIED)])


def test_a_method_about_nobody_knows_what_keeps_the_server_from_starting() -> None:
    with pytest.raises(Internal, match="nobody said which collections"):
        scopes([plant("Vague", access_pb2.SCOPE_READ, ("other",))])


def named(method: str, body: object) -> list[str]:
    found = find(method)
    return list(collections_of(path_of(found), body))  # type: ignore[arg-type]


def test_collections_are_found_wherever_they_are_named() -> None:
    search = sp.SearchRequest(collection="a")
    assert named("SearchService/Search", search) == ["a"]
    assert named("SearchService/Search", sp.SearchRequest()) == ["default"]
    assert named("SearchService/StreamSearch", sp.StreamSearchRequest(search=search)) == ["a"]
    assert named("SearchService/StreamSearch", sp.StreamSearchRequest()) == ["default"]
    batch = sp.BatchSearchRequest(collection="b", queries=[search, sp.SearchRequest()])
    assert named("SearchService/BatchSearch", batch) == ["a", "b"]
    assert named("SearchService/BatchSearch", sp.BatchSearchRequest()) == ["default"]
    start = ip.UploadItemsRequest(start=ip.UploadStart(collection="a"))
    assert named("IndexService/UploadItems", start) == ["a"]
    start = ip.UploadItemsRequest(start=ip.UploadStart())
    assert named("IndexService/UploadItems", start) == ["default"]
    flush = ip.UploadItemsRequest(flush=ip.UploadFlush(token=1))
    assert named("IndexService/UploadItems", flush) == []
    create = ip.CreateCollectionRequest(collection=ip.Collection(name="a"))
    assert named("IndexService/CreateCollection", create) == ["a"]
    empty = ip.CreateCollectionRequest()
    assert named("IndexService/CreateCollection", empty) == ["default"]
    assert named("IndexService/GetCollection", ip.GetCollectionRequest(name="a")) == ["a"]
    assert named("IndexService/ListJobs", ip.ListJobsRequest()) == [""]
    assert named("AdminService/Verify", GetMessageClass(find("AdminService/Verify").input_type)())
