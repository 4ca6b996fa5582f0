"""What the protos say of access: the scope of each method, the collections of a request."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from lookalike.backends.errors import Internal
from lookalike.server.domain import DEFAULT_COLLECTION
from lookalike.server.keys import Scope
from lookalike.v1 import access_pb2, index_service_pb2

_PACKAGE = "lookalike.v1."
FOREIGN: Mapping[str, tuple[Scope, str]] = MappingProxyType(
    {
        "grpc.health.v1.Health": (
            Scope.NONE,
            "Orchestrators ask it, and have no keys; it tells SERVING or NOT_SERVING.",
        ),
        "grpc.reflection.v1.ServerReflection": (
            Scope.READ,
            "Streams of it take places; grpcurl sends its -H with them, too.",
        ),
        "grpc.reflection.v1alpha.ServerReflection": (Scope.READ, "As v1."),
    }
)
"""Scopes of services whose protos are not ours, and why."""

OF_NO_COLLECTION: Mapping[str, str] = MappingProxyType(
    {
        "EmbedService.Embed": "it answers with vectors of what the request itself has",
        "EmbedService.ListModels": "models are the server's",
        "EmbedService.GetModel": "models are the server's",
        "IndexService.ListCollections": "its handler shows only those that the key is for",
        "SystemService.GetServerInfo": "it tells of limits and versions",
    }
)
"""Methods that a key for some collections may call all the same, and why."""
OF_ALL_COLLECTIONS: Mapping[str, str] = MappingProxyType(
    {"AdminService.Backup": "the copy has every collection"}
)
"""Methods that a key for some collections may not call, and why."""
ALL_IF_EMPTY = frozenset({"AdminService.Verify", "IndexService.ListJobs"})
"""Methods whose empty `collection` means all of them; elsewhere it means "default"."""
OF_A_JOB = frozenset({"IndexService.GetJob", "IndexService.WatchJob", "IndexService.CancelJob"})
"""Methods that name a job, in `id`, whose collection it is about."""
_BY_NAME = frozenset({"GetCollectionRequest", "DeleteCollectionRequest"})
"""Requests whose collection is in `name`."""


def scopes(services: Iterable[str]) -> dict[str, Scope]:
    """Return the scope of every method of some services, by "/package.Service/".

    Our own are by "/package.Service/Method", others by their service. Raises Internal if
    a method declares none, or nobody said which collections its requests are about: a
    server that does not know does not start.
    """
    found: dict[str, Scope] = {}
    for name in services:
        if name in FOREIGN:
            found[f"/{name}/"] = FOREIGN[name][0]
            continue
        for method in descriptor_pool.Default().FindServiceByName(name).methods:
            found[f"/{name}/{method.name}"] = _scope(method)
            _check_known(method)
    return found


def _scope(method: MethodDescriptor) -> Scope:
    declared = method.GetOptions().Extensions[access_pb2.scope]
    if declared == access_pb2.SCOPE_UNSPECIFIED:
        raise Internal(f"{method.full_name} declares no scope, and nobody may call it.")
    return Scope(declared)


def _check_known(method: MethodDescriptor) -> None:
    name = _short(method.full_name)
    ways = [
        name in OF_NO_COLLECTION,
        name in OF_ALL_COLLECTIONS,
        name in OF_A_JOB,
        bool(_places(method.input_type)),
    ]
    if sum(ways) != 1:
        raise Internal(f"nobody said which collections {method.full_name} is about.")


def _short(full_name: str) -> str:
    return full_name.removeprefix(_PACKAGE)


def collections_of(method: str, request: Message) -> Iterator[str]:
    """Yield the names of the collections that a request is about; "" for all of them.

    `method` is "/package.Service/Method". A place that names none means what it does to
    its handler: the collection of the request around it, or "default".
    """
    fallback = "" if _plain(method) in ALL_IF_EMPTY else DEFAULT_COLLECTION
    yield from _names(request, fallback)


def is_of_a_job(method: str) -> bool:
    """Say whether a method's requests name a job."""
    return _plain(method) in OF_A_JOB


def needs_all(method: str) -> bool:
    """Say whether a method is about all collections at once."""
    return _plain(method) in OF_ALL_COLLECTIONS


def _plain(method: str) -> str:
    return _short(method.removeprefix("/").replace("/", "."))


class _Place(NamedTuple):
    """A field of a request that has a collection's name, or a message with such fields."""

    field: FieldDescriptor
    is_name: bool


def _names(message: Message, fallback: str) -> Iterator[str]:
    places = _places(message.DESCRIPTOR)
    own = next((_own_name(message, place) for place in places if place.is_name), "") or fallback
    has_own = any(place.is_name for place in places)
    inner = [
        name
        for place in places
        if not place.is_name
        for one in _messages(message, place.field)
        for name in _names(one, own)
    ]
    yield from inner
    if has_own and not inner:
        yield own


def _own_name(message: Message, place: _Place) -> str:
    value: Any = getattr(message, place.field.name)
    return value.name if isinstance(value, index_service_pb2.Collection) else value


def _messages(message: Message, field: FieldDescriptor) -> Iterator[Message]:
    """Yield the messages of a field. One that is left out is read as an empty one, but in a
    oneof it is not there at all."""
    value: Any = getattr(message, field.name)
    if not isinstance(value, Message):
        yield from value
    elif field.containing_oneof is None or message.HasField(field.name):
        yield value


@functools.cache
def _places(kind: Descriptor) -> tuple[_Place, ...]:
    """Return where in messages of a kind names of collections are, at any depth."""
    found = []
    for field in kind.fields:
        if field.name == "collection" or (field.name == "name" and kind.name in _BY_NAME):
            found.append(_Place(field, True))
        elif field.message_type is not None and _leads(field.message_type, (kind,)):
            found.append(_Place(field, False))
    return tuple(found)


def _leads(kind: Descriptor, above: tuple[Descriptor, ...]) -> bool:
    """Say whether messages of a kind have names of collections somewhere."""
    if kind in above or not kind.full_name.startswith(_PACKAGE):
        return False
    return any(
        field.name == "collection"
        or (field.message_type is not None and _leads(field.message_type, (*above, kind)))
        for field in kind.fields
    )
