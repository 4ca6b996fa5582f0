"""Calls that nobody means well, for every method there is, made from the descriptors.

`Hostile(seed).call(number)` makes the same call every time. Some are nonsense from end to
end; most are plausible but for a few fields, so that they get past the first checks.
"""

from __future__ import annotations

import functools
import math
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from fuzz.wire_bytes import damaged
from lookalike.v1 import (
    admin_service_pb2,
    embed_service_pb2,
    index_service_pb2,
    search_service_pb2,
    system_service_pb2,
)
from made_pictures import encoded, jpeg, scene

DIM = 8
BUILTIN_DIM = 384
FILES = (admin_service_pb2, embed_service_pb2, index_service_pb2, search_service_pb2,
         system_service_pb2, health_pb2, reflection_pb2)  # fmt: skip
LASTING = {"WatchJob", "Watch", "Verify", "Backup", "FindDuplicates", "ExportItems"}
WEIGHTS = {
    "Search": 30, "UpsertItems": 25, "UploadItems": 20, "BatchSearch": 15, "StreamSearch": 10,
    "CreateCollection": 4, "DeleteCollection": 3, "RebuildIndex": 0.5, "Backup": 0.3,
    "Verify": 0.5, "MeasureRecall": 1, "FindDuplicates": 1, "WatchJob": 2, "Explain": 3,
    "Watch": 2, "ExportItems": 1,
}  # fmt: skip
COLLECTIONS = ["", "default", "zoo", "zoo", "vectors", "vectors", "fleeting-1"]
FLEETING = ["fleeting-1", "fleeting-2", "fleeting-3"]
IDS = ["a", "b", "c", "d", "p-0", "p-1", "p-2", "v-0", "v-1", "v-2", "x/y", "..", "-"]
FIELDS = ["a", "a.b", "year", "camera.model", "@id", "@created", "size.width", "tags"]
# The path is none that canaries.FORBIDDEN takes for one of the server's: names come back in errors.
STRANGE = [
    "", " ", "x\0y", "../..", "/mnt/passwd", "a..b", ".", '"]', "'; drop table items; --", "%s%n",
    "\u202e", "\ufffd", "\U0001f4a9", "e\u0301" * 50, "A" * 257, "B" * 9000, "é" * 5000, "\x7f",
    "\r\nx: y", "{}", "{0.__class__}", "null", "NaN", "-1", "0" * 64, "@", "*", "\\", "a" * 64,
]  # fmt: skip
INTEGERS = [0, 1, -1, 2, 7, 100, 257, 1000, 1001, 10**6, 10**9, 2**31 - 1, -(2**31)]
LONG_INTEGERS = [*INTEGERS, 2**32, 2**53 + 1, 2**63 - 1, -(2**63)]
UNSIGNED = [0, 1, 2, 3, 1000, 2**32 - 1]
LONG_UNSIGNED = [*UNSIGNED, 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 2.0, math.nan, math.inf, -math.inf, 3e38, 1e-40, 1e-45]
DOUBLES = [*FLOATS, 1e308, 5e-324, 2.0**53 + 1, 0.95]
LENGTHS = [DIM] * 6 + [BUILTIN_DIM] * 3 + [0, 1, DIM - 1, DIM + 1, 5000]
T = FieldDescriptor


@dataclass(frozen=True)
class Method:
    """A method by its descriptor; `path` as on the wire."""

    path: str
    name: str
    takes: Descriptor
    gives: Descriptor
    streams_in: bool
    streams_out: bool


@dataclass(frozen=True)
class Call:
    """What to send: one payload, or those of a stream."""

    method: Method
    payloads: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...]


@functools.cache
def methods() -> tuple[Method, ...]:
    """Return every method of every service, the standard ones too, reflection under both names."""
    found = []
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            names = {service.full_name, service.full_name.replace("v1alpha", "v1")}
            for name in sorted(names):
                for m in service.methods:
                    kinds = m.client_streaming, m.server_streaming
                    path = f"/{name}/{m.name}"
                    found.append(Method(path, m.name, m.input_type, m.output_type, *kinds))
    return tuple(found)


@functools.cache
def pictures() -> tuple[bytes, ...]:
    """Return files: small pictures, damaged ones, and none."""
    small = [encoded(scene(seed, 40, 30), kind) for seed, kind in enumerate(("PNG", "GIF", "BMP"))]
    good = [jpeg(1), *small, encoded(scene(5, 24, 24), "JPEG", quality=30)]
    bad = [b"", b"x", b"\xff\xd8\xff" + bytes(50), b"GIF89a" + bytes(20), good[0][:300],
           small[0][:60], b"<svg/>", b"RIFF\0\1\0\0WEBPVP8L"]  # fmt: skip
    return (*small, *small, *good, *bad)


class Hostile:
    """Makes calls by number. `tokens`: page tokens that a server gave. Any thread."""

    def __init__(self, seed: int, tokens: Sequence[str] = ()) -> None:
        self.seed = seed
        self._tokens = tokens
        weights = [WEIGHTS.get(method.name, 8) for method in methods()]
        self._cumulated = [sum(weights[: i + 1]) for i in range(len(weights))]

    def call(self, number: int) -> Call:
        """Return the call of this number."""
        rng = random.Random(self.seed * 2**40 + number)
        method = rng.choices(methods(), cum_weights=self._cumulated)[0]
        maker = _Maker(rng, method, self._tokens)
        return Call(method, maker.payloads(), maker.metadata())


class _Maker:
    """One call. `self.spice`: how much of it is hostile."""

    def __init__(self, rng: random.Random, method: Method, tokens: Sequence[str]) -> None:
        self.rng = rng
        self.method = method
        self.tokens = tokens
        self.spice = rng.choice((0.0, 0.03, 0.03, 0.15, 0.15, 0.6))
        self.byte_damage = rng.random() < 0.3

    # ------------------------------------------------------------ the whole call

    def payloads(self) -> tuple[bytes, ...]:
        if self.method.name == "UploadItems":
            messages = self.upload()
        else:
            count = self.rng.choice((0, 1, 1, 2, 5)) if self.method.streams_in else 1
            messages = [self.message(self.method.takes) for _ in range(count)]
        found = [message.SerializeToString() for message in messages]
        if self.byte_damage and found:
            at = self.rng.randrange(len(found))
            found[at] = damaged(self.rng, found[at], self.method.takes)
        if self.method.streams_in and self.rng.random() < 0.1:
            self.rng.shuffle(found)
        return tuple(found)

    def upload(self) -> list[Message]:
        """A stream that begins and goes on rightly, as far as the spice lets it."""
        made: list[Message] = []
        if self.rng.random() > self.spice:
            start = index_service_pb2.UploadStart(collection=self.rng.choice(COLLECTIONS[:-1]))
            made.append(index_service_pb2.UploadItemsRequest(start=start))
        seq = 0
        for _ in range(self.rng.choice((0, 1, 2, 4, 8))):
            if self.rng.random() < self.spice:
                made.append(self.message(self.method.takes))
                continue
            message = index_service_pb2.UploadItemsRequest()
            self.fill(message, 0)
            for item in message.batch.items:
                seq += 1
                item.seq = seq
            if message.HasField("chunk"):
                message.chunk.seq, message.chunk.offset = seq, 0
            made.append(message)
        return made

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Headers; those that gRPC's own client refuses to send are sent elsewhere."""
        if self.rng.random() < 0.9:
            return ()
        choose = self.rng.choice
        text = choose(("", "x", "a b", "../..", "%00", "~" * 2000, "Bearer lk_" + "0" * 60, '"{}'))
        found: list[tuple[str, str | bytes]] = [
            ("x-request-id", text), ("authorization", text), ("x-forwarded-for", text),
            ("user-agent", text), ("a" * 200, text), ("lookalike-bin", self.rng.randbytes(50)),
            ("grpc-previous-rpc-attempts", "9"), ("grpc-status-details-bin", b"\xff\xff"),
        ]  # fmt: skip
        return tuple(choose(found) for _ in range(choose((1, 2, 12))))

    # ---------------------------------------------------------------- messages

    def message(self, kind: Descriptor) -> Message:
        return self.fill(message_factory.GetMessageClass(kind)(), 0)

    def fill(self, message: Message, depth: int) -> Message:
        """Set fields: fewer the deeper, all of a oneof or none, as it comes."""
        often = (0.75, 0.6, 0.45, 0.3, 0.2, 0.2, 0.15, 0.1, 0.1)[min(depth, 8)]
        rng = self.rng
        for field in _fields(message.DESCRIPTOR):
            if rng.random() > (often if field.containing_oneof is None else 0.4):
                continue
            value: Any = getattr(message, field.name)
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self.fill_map(value, depth)
            elif field.is_repeated:
                self.extend(value, field, depth)
            elif field.message_type is not None:
                value.SetInParent()
                self.fill(value, depth + 1)
            else:
                setattr(message, field.name, self.value(field))
        return message

    def extend(self, values: Any, field: FieldDescriptor, depth: int) -> None:
        if field.full_name == "lookalike.v1.Vector.values":
            values.extend(self.vector())
            return
        count = self.rng.choice((0, 1, 1, 2, 3))
        if self.rng.random() < self.spice * 0.05:
            count = self.rng.choice((33, 257, 1001)) if depth < 3 else 40
        for i in range(count):
            if field.message_type is None:
                values.append(self.value(field))
            elif i < 5:
                self.fill(values.add(), depth + 1)
            else:
                values.add().CopyFrom(values[i % 5])

    def fill_map(self, entries: Any, depth: int) -> None:
        for _ in range(self.rng.choice((0, 1, 2, 3))):
            key = self.rng.choice(STRANGE if self.rng.random() < self.spice else FIELDS)
            if hasattr(entries, "get_or_create"):
                self.fill(entries.get_or_create(key), depth + 1)
            else:
                entries[key] = self.rng.choice(STRANGE)

    def vector(self) -> list[float]:
        rng = self.rng
        length = DIM if rng.random() > self.spice else rng.choice(LENGTHS)
        values = [rng.gauss(0, 1) for _ in range(length)]
        if values and rng.random() < self.spice:
            odd = rng.choice(FLOATS)
            if rng.random() < 0.3:
                return [odd] * length
            values[rng.randrange(length)] = odd
        return values

    def value(self, field: FieldDescriptor) -> Any:
        """Return a plausible value for a field, or, as the spice has it, any of its type."""
        if self.rng.random() >= self.spice and (hint := self.hint(field)) is not None:
            return hint
        if field.type == T.TYPE_STRING:
            odd = self.rng.choice(STRANGE)
            return odd * (2000 if self.rng.random() < 0.002 else 1)
        if field.type == T.TYPE_FLOAT:
            return self.rng.choice(FLOATS)
        return self.rng.choice(_ANY[field.type])

    def hint(self, field: FieldDescriptor) -> Any:
        choose = self.rng.choice
        if field.type == T.TYPE_STRING:
            return self.text(field)
        if field.enum_type is not None:
            return choose(field.enum_type.values).number
        if field.name in ("limit", "group_limit", "page_size", "query_count", "probe_count"):
            return choose((1, 3, 10, 50))
        if field.name == "min_score" or field.name in ("left", "top"):
            return choose((0.0, 0.1, 0.5))
        if field.name in ("width", "height"):
            return choose((0.4, 0.5, 1.0)) if field.type == T.TYPE_FLOAT else 100
        if field.type == T.TYPE_BYTES and field.name in ("data", "thumbnail"):
            return choose(pictures()[:6])
        if field.type == T.TYPE_DOUBLE:
            return choose((0.0, 1.0, 1999.0, -3.5))
        return None

    def text(self, field: FieldDescriptor) -> str | None:
        choose, name = self.rng.choice, field.name
        if name == "collection":
            return choose(COLLECTIONS)
        if name == "name":  # of a collection: only these come and go
            wanted = COLLECTIONS if self.method.name == "GetCollection" else FLEETING
            return choose(wanted)
        if name in ("id", "item_id", "query_item_id", "ids"):
            return choose(IDS)
        if name == "page_token":
            return choose(self.tokens) if self.tokens else ""
        if name in ("field", "fields", "indexed_fields", "group_by", "starts_with"):
            return choose(FIELDS)
        if name == "backend":
            return choose(("", "exact", "faiss", "hnswlib", "auto"))
        if name in ("model", "service"):
            return choose(("", "builtin", "none", "lookalike.v1.SearchService"))
        return None


@functools.cache
def _fields(kind: Descriptor) -> tuple[FieldDescriptor, ...]:
    return tuple(kind.fields)


_ANY: dict[int, Sequence[Any]] = {
    T.TYPE_INT32: INTEGERS, T.TYPE_INT64: LONG_INTEGERS,
    T.TYPE_UINT32: UNSIGNED, T.TYPE_UINT64: LONG_UNSIGNED,
    T.TYPE_BOOL: (False, True), T.TYPE_ENUM: (0, 1, 2, 3, 99, -1, 2**31 - 1),
    T.TYPE_FLOAT: FLOATS, T.TYPE_DOUBLE: DOUBLES,
    T.TYPE_BYTES: (b"", b"\0", bytes(64), struct.pack("<8f", *range(8)), b"\xff" * 300,
                   b"\xff\xd8\xff" + bytes(40)),
}  # fmt: skip
