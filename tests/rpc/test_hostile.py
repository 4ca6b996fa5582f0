"""Messages that nobody would send, to every method: refused in words, never a defect."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from lookalike.server.app import App
from lookalike.server.config import Flags, load
from lookalike.v1 import (
    embed_service_pb2,
    index_service_pb2,
    search_service_pb2,
    system_service_pb2,
)

SECONDS = 4.0
DEFECTS = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
STRINGS = ["", "default", "a", "x\0y", "../..", "é" * 200, "none", "builtin", "@id", "a..b", "."]
STRINGS += ['"]', "'; drop", "A" * 300, "0" * 64, "size.width", "\u202e", "\ufffd"]
NUMBERS = [0, 1, -1, 2, 7, 100, 1000, 1001, 2**31 - 1, -(2**31)]
FLOATS = [0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e38, 1e-40]
FILES = [b"", b"x", b"\xff\xd8\xff" + bytes(50), b"GIF89a" + bytes(20)]
INTEGERS = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)
UNSIGNED = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)


class Nonsense:
    """Fills messages at random, by their descriptors."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def value(self, field: Any, depth: int) -> Any:
        choose = self.random.choice
        if field.message_type is not None:
            made = message_factory.GetMessageClass(field.message_type)()
            return self.fill(made, depth + 1)
        if field.type in INTEGERS:
            return choose(NUMBERS)
        if field.type in UNSIGNED:
            return choose([0, 1, 2, 3])
        by_type: dict[int, list[Any]] = {
            FieldDescriptor.TYPE_STRING: STRINGS,
            FieldDescriptor.TYPE_BYTES: FILES,
            FieldDescriptor.TYPE_BOOL: [True, False],
            FieldDescriptor.TYPE_ENUM: [0, 1, 2, 3, 9, -1],
        }
        return choose(by_type.get(field.type, FLOATS))

    def fill(self, message: Message, depth: int = 0) -> Message:
        for field in message.DESCRIPTOR.fields:
            if self.random.random() < (0.5 if depth < 6 else 0.9):
                continue
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._fill_map(getattr(message, field.name), depth)
            elif field.is_repeated:
                many = [0, 1, 384] if field.full_name.endswith("Vector.values") else [0, 1, 2, 3]
                values = [self.value(field, depth) for _ in range(self.random.choice(many))]
                getattr(message, field.name).extend(values)
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(self.value(field, depth))
            else:
                setattr(message, field.name, self.value(field, depth))
        return message

    def _fill_map(self, entries: Any, depth: int) -> None:
        for _ in range(self.random.randint(0, 2)):
            key = self.random.choice(STRINGS)
            if hasattr(entries, "get_or_create"):
                self.fill(entries.get_or_create(key), depth + 1)
            else:
                entries[key] = self.random.choice(STRINGS)


def call(channel: grpc.Channel, service: str, method: Any, nonsense: Nonsense) -> str:
    """Call a method with nonsense; return the name of its status code."""
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    kinds = ("unary", "stream")
    kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
    invoke: Any = getattr(channel, kind)(
        f"/{service}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    given: Any = nonsense.fill(request())
    if method.client_streaming:
        start = index_service_pb2.UploadItemsRequest(start=index_service_pb2.UploadStart())
        given = iter([start, *(nonsense.fill(request()) for _ in range(4))])
    try:
        answer = invoke(given, timeout=10)
        if method.server_streaming:
            list(answer)
        return "OK"
    except grpc.RpcError as error:
        return str(error.code().name)


def test_nonsense_is_refused_and_never_a_defect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    nonsense = Nonsense(seed)
    files = (embed_service_pb2, index_service_pb2, search_service_pb2, system_service_pb2)
    services = [s for file in files for s in file.DESCRIPTOR.services_by_name.values()]
    methods = [(service.full_name, method) for service in services for method in service.methods]
    methods = [(name, method) for name, method in methods if method.name != "DeleteCollection"]
    seen: dict[str, set[str]] = {}
    config = load(Flags({("data", "path"): str(tmp_path), ("server", "listen"): "127.0.0.1:0"}))
    app = App(config.config, version="1")
    with grpc.insecure_channel(app.start()) as channel:
        assert app.wait_ready(20)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            name, method = nonsense.random.choice(methods)
            seen.setdefault(method.name, set()).add(call(channel, name, method, nonsense))
    app.stop(1)
    assert {name: codes & DEFECTS for name, codes in seen.items() if codes & DEFECTS} == {}
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
