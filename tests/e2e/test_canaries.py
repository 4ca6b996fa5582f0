"""Nothing leaks: secrets in every place, calls of every sort, and no word of them anywhere."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct, Value

from canaries import WHENS, Running, serving
from fuzz.messages import Hostile
from lookalike.v1 import index_service_pb2 as index_pb
from lookalike.v1 import search_service_pb2 as search_pb
from lookalike.v1 import types_pb2 as types
from made_pictures import encoded, scene
from rpc.access_parts import METHODS, bearer, name_collection, path_of

SOON_S = 15
pytestmark = pytest.mark.timeout(300)
PROVE_S = float(os.environ.get("PROVE_CANARIES", "300"))


class Caller:
    """Calls methods with a key; all that fails goes into the sink."""

    def __init__(self, running: Running) -> None:
        self.running, self.sink = running, running.sink
        self.metadata: Any = bearer(running.admin)

    def call(self, name: str, *requests: Message, metadata: Any = None) -> list[Any]:
        """Call a method by its name; return its answers."""
        method = next(one for one in METHODS if one.name == name)
        answers: list[Any] = []
        invoke: Any = self.running.channel.stream_stream(
            path_of(method),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        given = self.metadata if metadata is None else metadata
        stream = invoke(iter(requests), metadata=given, timeout=SOON_S)
        try:
            for answer in stream:
                self.sink.hear_errors(answer)
                answers.append(answer)
                if len(answers) >= 50:
                    stream.cancel()
                    break
        except grpc.RpcError as error:
            self.sink.hear(error)
        return answers


def struct(values: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made


def with_exif(word: str) -> bytes:
    """Return a JPEG whose EXIF has a word in it."""
    from PIL import Image

    made = Image.Exif()
    made[0x010E] = word  # ImageDescription
    made[0x0110] = word  # Model
    return encoded(scene(3), "JPEG", exif=made.tobytes(), comment=word.encode())


def pictures(words: dict[str, str]) -> list[bytes]:
    """Return good and bad files with words in them."""
    good = with_exif(words["exif"])
    word = words["picture"].encode()
    png = encoded(scene(4, 40, 30), "PNG")
    tiff = encoded(scene(5, 40, 30), "TIFF")
    return [
        good,
        good[:400] + word + good[400:900],
        b"\xff\xd8\xff\xe1" + word,
        word * 20,
        png[:60] + word + png[60 + len(word) :],
        tiff[:-40] + word,
        b"GIF89a" + word,
        b"RIFF" + word + b"WEBP" + word,
    ]


def fill(caller: Caller) -> None:
    """Store what others must not see: pictures, metadata."""
    words = caller.sink.words
    for name, model in [("own", "none"), ("wide", "none"), *((w, w) for w in WHENS)]:
        wanted = index_pb.Collection(name=name, model=model)
        if model == "none":
            wanted.dimension = 4
        caller.call("CreateCollection", index_pb.CreateCollectionRequest(collection=wanted))
    metadata = struct({"kind": words["metadata"], words["metakey"]: {"x": words["metadata"]}})
    items = [
        index_pb.ItemInput(
            id=f"{words['item']}-{n}", image=types.Image(data=data), metadata=metadata
        )
        for n, data in enumerate(pictures(words))
    ]
    for exif in (index_pb.EXIF_MODE_UNSPECIFIED, index_pb.EXIF_MODE_WITH_POSITION):
        caller.call("UpsertItems", index_pb.UpsertItemsRequest(items=items, exif=exif))
    vector = types.Vector(values=[1.0, 2.0, 3.0, 4.0])
    item = index_pb.ItemInput(id=words["item"], vector=vector, metadata=metadata)
    caller.call("UpsertItems", index_pb.UpsertItemsRequest(collection="wide", items=[item]))
    start = index_pb.UploadItemsRequest(start=index_pb.UploadStart())
    uploads = [index_pb.UploadItem(seq=n + 1, item=one) for n, one in enumerate(items)]
    batch = index_pb.UploadItemsRequest(batch=index_pb.UploadBatch(items=uploads))
    caller.call("UploadItems", start, batch)


def break_models(caller: Caller, *more: str) -> None:
    """Use models that fail at each step, with words that tell everything they know."""
    words = caller.sink.words
    picture = types.Image(data=with_exif(words["exif"]))
    for when in (*WHENS, *more):
        item = index_pb.ItemInput(id="x", image=picture)
        caller.call("UpsertItems", index_pb.UpsertItemsRequest(collection=when, items=[item]))
        start = index_pb.UploadItemsRequest(start=index_pb.UploadStart(collection=when))
        batch = index_pb.UploadBatch(items=[index_pb.UploadItem(seq=1, item=item)])
        caller.call("UploadItems", start, index_pb.UploadItemsRequest(batch=batch))
        for query in ({"text": words["text"]}, {"image": picture}):
            search = search_pb.SearchRequest(collection=when, **query)
            caller.call("Search", search)
            batch_search = search_pb.BatchSearchRequest(collection=when, queries=[search])
            caller.call("BatchSearch", batch_search)
            caller.call("StreamSearch", search_pb.StreamSearchRequest(tag=1, search=search))
        explain = search_pb.ExplainRequest(collection=when, text=words["text"], item_id="x")
        caller.call("Explain", explain)
        for name in ("Embed", "GetModel"):
            method = next(one for one in METHODS if one.name == name)
            request: Any = GetMessageClass(method.input_type)()
            if name == "Embed":
                request.model = when
                request.inputs.add().text = words["text"]
                request.inputs.add().image.CopyFrom(picture)
            else:
                request.name = when
            caller.call(name, request)


def refuse(caller: Caller) -> None:
    """Call every method without a key, with wrong ones, and with secrets wherever text goes."""
    words, running = caller.sink.words, caller.running
    keys: Sequence[Any] = [
        (),
        bearer(f"lk_{words['key']}"),
        bearer(running.admin[:-4] + "zzzz"),
        (("authorization", words["key"]), ("x-request-id", "ok-1")),
        (*bearer(running.reader), ("x-other", words["header"])),
        bearer(running.admin),
    ]
    for method in METHODS:
        for n, metadata in enumerate(keys):
            request = GetMessageClass(method.input_type)()
            if n >= 3:
                _plant(request, words)
            if n == 4:
                name_collection(request, "wide")
            caller.call(method.name, request, metadata=metadata)


def _plant(message: Any, words: dict[str, str], depth: int = 0) -> None:
    """Put secrets into the texts and bytes of a message that are not names."""
    for field in message.DESCRIPTOR.fields:
        if depth > 3 or (field.containing_oneof is not None and field.index % 2):
            continue
        if field.name == "text":
            message.text = words["othertext"]
        elif field.type == field.TYPE_BYTES and not field.is_repeated:
            setattr(message, field.name, words["picture"].encode())
        elif field.message_type is not None and not field.is_repeated:
            if field.message_type.full_name == "google.protobuf.Struct":
                getattr(message, field.name).update({"a": words["metadata"]})
            elif field.message_type.full_name == "lookalike.v1.Filter":
                message.filter.all.add(field="@id", eq=Value(string_value=words["filter"]))
                message.filter.all.add(field="a..b", starts_with=words["filter"])
            elif field.message_type.full_name.startswith("lookalike."):
                _plant(getattr(message, field.name), words, depth + 1)


def damage(caller: Caller) -> None:
    """Spoil the files that are read again, and wait until the log says so."""
    running = caller.running
    before = [running.keys_file.read_bytes(), running.certificate.read_bytes()]
    running.keys_file.write_bytes(before[0] + running.sink.words["key"].encode())
    running.certificate.write_bytes(running.sink.words["key"].encode())
    _await(lambda: running.log.count("in force stay") >= 2)
    running.keys_file.write_bytes(before[0])
    running.certificate.write_bytes(before[1])
    _await(lambda: running.log.count("read anew") >= 2)


def _await(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def hits(running: Running) -> list[str]:
    """Return what was told or logged and must not have been; ids may be told to who sent them."""
    sink = running.sink
    sink.words.update(running.secrets())
    found = [hit for text in sink.told for hit in sink.hits(text, allowed=("item",))]
    return [*dict.fromkeys(found), *sink.hits(running.log)]


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_secret_is_told_or_logged(tmp_path: Path, style: str) -> None:
    with serving(tmp_path, style) as running:
        caller = Caller(running)
        fill(caller)
        break_models(caller)
        refuse(caller)
        damage(caller)
    assert {"INTERNAL", "KEY_INVALID", "KEY_MISSING", "SCOPE_MISSING", "IMAGE_UNDECODABLE"} <= (
        running.sink.reasons
    ), "too little went wrong for this to say anything"
    assert "unexpected error" in running.log
    assert "ValueError" in running.log, "the log does not say what went wrong"
    assert hits(running) == []


def _each(payloads: Sequence[bytes]) -> Any:
    return iter(payloads)


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_no_secret_is_told_or_logged_whatever_is_sent(tmp_path: Path) -> None:
    seed = int(os.environ.get("PROVE_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    hostile = Hostile(seed)
    with serving(tmp_path, "text") as running:
        caller = Caller(running)
        fill(caller)
        break_models(caller, "gone")  # to learn that it is gone takes importing torch
        end, number = time.monotonic() + PROVE_S, 0
        while time.monotonic() < end:
            call = hostile.call(number)
            stream: Any = running.channel.stream_stream(call.method.path)(
                _each(call.payloads), metadata=caller.metadata, timeout=SOON_S
            )
            try:
                for _, _ in zip(range(20), stream, strict=False):
                    pass
                stream.cancel()
            except grpc.RpcError as error:
                caller.sink.hear(error)
            number += 1
    print(f"calls {number}")
    assert hits(running) == []


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    from canaries import Sink

    sink = Sink()
    for word in sink.words.values():
        assert sink.hits(f"there is {word} in it")
    for text in (
        "Traceback (most recent call last):",
        'File "x.py", line 3, in f',
        "at /tmp/x/y",
        "<object object at 0x7f00aabbccdd>",
        "-----BEGIN PRIVATE KEY-----",
    ):
        assert sink.hits(text), text
    assert not sink.hits("call method=lookalike.v1.SearchService/Search code=OK ms=1.0")
