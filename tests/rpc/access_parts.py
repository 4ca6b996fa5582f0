"""A whole server that asks for keys, one key of each sort, and a way to call any method."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from lookalike.server.app import App
from lookalike.server.config import Config
from lookalike.server.keys import Scope, add_key, make_key, revoke_key
from lookalike.v1 import (
    admin_service_pb2,
    embed_service_pb2,
    index_service_pb2,
    index_service_pb2_grpc,
    search_service_pb2,
    system_service_pb2,
)

OURS, THEIRS = "ours", "theirs"
FILES = (
    admin_service_pb2,
    embed_service_pb2,
    index_service_pb2,
    search_service_pb2,
    system_service_pb2,
)
METHODS: list[MethodDescriptor] = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
REFUSALS = {"KEY_MISSING", "KEY_INVALID", "KEY_EXPIRED", "SCOPE_MISSING", "COLLECTION_NOT_ALLOWED"}


def path_of(method: MethodDescriptor) -> str:
    """Return "/package.Service/Method"."""
    return f"/{method.containing_service.full_name}/{method.name}"


def find(name: str) -> MethodDescriptor:
    """Return a method by "Service/Method"."""
    full_name = "lookalike.v1." + name.replace("/", ".")
    found: MethodDescriptor = descriptor_pool.Default().FindMethodByName(full_name)
    return found


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


@dataclass
class Guarded:
    """A server that asks for keys; `keys` by what they are."""

    address: str
    file: Path
    keys: dict[str, str]
    job: str
    channel: grpc.Channel

    def add(self, scope: Scope, **options: Any) -> str:
        """Make a key; it is in force once the server has seen the file."""
        text, key = make_key(scope, now=time.time(), **options)
        add_key(self.file, key)
        return text

    def request(self, method: MethodDescriptor, collection: str) -> Message:
        """Return a request that names a collection wherever one can be named."""
        message = GetMessageClass(method.input_type)()
        name_collection(message, collection)
        if method.name in ("GetJob", "WatchJob", "CancelJob"):
            message.id = self.job  # type: ignore[attr-defined]
        return message

    def outcome(self, path: str, body: bytes, metadata: Any = (), streams: bool = True) -> str:
        """Call a method; return the reason of a refusal, "" if the call got past the guards.

        It is called as a stream both ways, which is the same on the wire, and left after
        the first answer.
        """
        call: Any = self.channel.stream_stream(path)
        answers = call(iter([body]), metadata=metadata, timeout=20)
        try:
            next(answers, None)
        except grpc.RpcError as error:
            reason = reason_of(error)
            return reason if reason in REFUSALS else ""
        finally:
            answers.cancel()
        return ""


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason that a failed call carries, or its code where there is none."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


def name_collection(message: Message, name: str) -> None:
    """Put a name into every field of a message that takes a collection's, at any depth."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if (field.name == "collection" and isinstance(value, str)) or (
            field.name == "name"
            and message.DESCRIPTOR.name
            in (
                "Collection",
                "GetCollectionRequest",
                "DeleteCollectionRequest",
            )
        ):
            setattr(message, field.name, name)
        elif field.name in ("collection", "start", "search"):
            value.SetInParent()
            name_collection(value, name)
        elif field.name == "queries" and not isinstance(value, int):
            name_collection(value.add(), name)


def config(folder: Path, **sections: Any) -> Config:
    listen = sections.pop("listen", "127.0.0.1:0")
    everything = {"data": {"path": folder / "data"}, "server": {"listen": listen}, **sections}
    return Config(**everything)


@contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    """Run a server with two collections, a job in one of them, and a key of each sort."""
    file = folder / "keys"
    now = time.time()
    texts: dict[str, str] = {}
    sorts: list[tuple[str, Scope, dict[str, Any]]] = [
        ("read", Scope.READ, {}),
        ("write", Scope.WRITE, {}),
        ("admin", Scope.ADMIN, {}),
        ("expired", Scope.ADMIN, {"expires": now - 1}),
        ("revoked", Scope.ADMIN, {}),
        ("ours", Scope.ADMIN, {"collections": [OURS]}),
        ("ours-read", Scope.READ, {"collections": [OURS]}),
    ]
    for name, scope, options in sorts:
        texts[name], key = make_key(scope, now=now, **options)
        add_key(file, key)
        if name == "revoked":
            revoke_key(file, key.id, now)
    texts["unknown"], _ = make_key(Scope.ADMIN, now=now)
    texts["tampered"] = texts["admin"][:-1] + ("0" if texts["admin"][-1] != "0" else "1")
    app = App(config(folder, access={"keys_file": str(file)}), version="1")
    try:
        address = app.start()
        assert app.wait_ready(30)
        with grpc.insecure_channel(address) as channel:
            job = _fill(channel, bearer(texts["admin"]))
            yield Guarded(address, file, texts, job, channel)
    finally:
        app.stop(2.0)


def _fill(channel: grpc.Channel, metadata: Any) -> str:
    """Make both collections and a job in the one that is theirs; return the job's id."""
    stub = index_service_pb2_grpc.IndexServiceStub(channel)
    for name in (OURS, THEIRS):
        collection = index_service_pb2.Collection(name=name)
        stub.CreateCollection(
            index_service_pb2.CreateCollectionRequest(collection=collection),
            metadata=metadata,
            timeout=20,
        )
    rebuild = index_service_pb2.RebuildIndexRequest(collection=THEIRS)
    answer = stub.RebuildIndex(rebuild, metadata=metadata, timeout=20)
    return str(answer.job.id)
