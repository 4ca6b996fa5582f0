"""Names never become paths: what callers call things is in no file name and no path opened."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

import lookalike
from lookalike.client.local_server import LocalServer
from lookalike.v1 import index_service_pb2 as index_pb
from lookalike.v1 import types_pb2 as types
from made_pictures import jpeg
from rpc.access_parts import METHODS, path_of

pytestmark = pytest.mark.timeout(300)
WORD = f"zqpath{secrets.token_hex(4)}"
TRICKS = [
    WORD,
    f"../{WORD}",
    f"../../../../../../tmp/{WORD}",
    f"/tmp/{WORD}",
    f"//tmp//{WORD}",
    f"{WORD}/../../x",
    f"./{WORD}",
    f"~/{WORD}",
    f"$HOME/{WORD}",
    f"..\\{WORD}",
    f"C:\\{WORD}",
    f"file:///tmp/{WORD}",
    f"%2e%2e%2f{WORD}",
    f"{WORD}\0.db",
    f"\0{WORD}",
    f"\uff0e\uff0e\uff0f{WORD}",
    f"\u2025/{WORD}",
    f"\u202e{WORD}",
    f"{WORD}\ufeff",
    f"e\u0301{WORD}",
    f"{WORD}\n/etc",
    f"; touch /tmp/{WORD}",
    f"$(touch /tmp/{WORD})",
    f"|touch {WORD}",
    WORD + "a" * 5000,
    f"{'../' * 900}{WORD}",
    f"{WORD}?mode=memory",
    f"IVF1,Flat,{WORD}",
]
"""Names that somebody may give to anything."""
EVENTS = [
    "open",
    "os.",
    "shutil.",
    "glob.",
    "pathlib.",
    "subprocess.",
    "tempfile.",
    "sqlite3.",
    "ctypes.dlopen",
    "mmap.",
    "socket.connect",
    "import",
    "fcntl.",
    "marshal.",
    "webbrowser.",
]
HOOK = """
import os, sys
out = os.open({out!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
kinds = {events!r}
def hook(event, args):
    if event.startswith(kinds):
        os.write(out, (repr((event, [a if isinstance(a, (str, bytes, int)) else str(a)
            for a in args[:3]])) + "\\n").encode("utf-8", "backslashreplace"))
sys.addaudithook(hook)
import faulthandler
sys.path[:] = {path!r}
from lookalike.server.__main__ import main
sys.argv = ["lookalike-server", *sys.argv[1:]]
main()
"""


def plant(message: Any, trick: str, depth: int = 0) -> Any:
    """Put a name into every text and all data of a message, at any depth."""
    for field in message.DESCRIPTOR.fields:
        kind = field.message_type
        if field.containing_oneof is not None and message.WhichOneof(field.containing_oneof.name):
            continue
        if field.type == field.TYPE_STRING:
            value = getattr(message, field.name)
            value.append(trick) if field.is_repeated else setattr(message, field.name, trick)
        elif field.type == field.TYPE_BYTES and not field.is_repeated:
            setattr(message, field.name, trick.encode())
        elif kind is None or depth > 4 or kind.GetOptions().map_entry:
            continue
        elif kind.full_name == "google.protobuf.Struct":
            getattr(message, field.name).update({trick: trick, "path": trick, "factory": trick})
        elif kind.full_name.startswith("lookalike."):
            value = getattr(message, field.name)
            plant(value.add() if field.is_repeated else value, trick, depth + 1)
    return message


class Caller:
    """Calls methods by their names, whatever becomes of it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.good = 0

    def call(self, name: str, *requests: Any, metadata: Any = ()) -> list[Any]:
        method = next(one for one in METHODS if one.name == name)
        stream: Any = self._channel.stream_stream(
            path_of(method),
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        answers = []
        try:
            for answer in stream(iter(requests), metadata=metadata, timeout=20):
                answers.append(answer)  # noqa: PERF402 - those before a failure count
            self.good += 1
        except grpc.RpcError:
            pass
        return answers

    def made(self, name: str) -> Any:
        return GetMessageClass(next(one for one in METHODS if one.name == name).input_type)()


def use_names(caller: Caller) -> None:
    """Store and use what has such names, where they are allowed: ids, metadata, collections."""
    vector = types.Vector(values=[1.0, 2.0, 3.0, 4.0])
    plain = index_pb.Collection(name=WORD, model="none", dimension=4, indexed_fields=[WORD])
    caller.call("CreateCollection", index_pb.CreateCollectionRequest(collection=plain))
    kept = index_pb.Collection(name=f"p-{WORD}", image_retention=index_pb.IMAGE_RETENTION_ORIGINAL)
    caller.call("CreateCollection", index_pb.CreateCollectionRequest(collection=kept))
    for n, trick in enumerate(TRICKS):
        metadata = Struct()
        metadata.update({WORD: trick, f"k{trick}": n})
        item = index_pb.ItemInput(id=trick[:200], vector=vector, metadata=metadata)
        picture = index_pb.ItemInput(id=trick[:200], image=types.Image(data=jpeg(n)))
        upsert = index_pb.UpsertItemsRequest
        caller.call("UpsertItems", upsert(collection=WORD, items=[item]))
        caller.call("UpsertItems", upsert(collection=f"p-{WORD}", items=[picture]))
        get = index_pb.GetItemImageRequest(collection=f"p-{WORD}", id=trick[:200], original=True)
        caller.call("GetItemImage", get)
    for name in (WORD, f"p-{WORD}"):
        spec = index_pb.IndexSpec(backend="faiss", hnsw=index_pb.HnswIndex())
        rebuild = index_pb.RebuildIndexRequest(collection=name, index=spec)
        for answer in caller.call("RebuildIndex", rebuild):
            caller.call("WatchJob", index_pb.WatchJobRequest(id=answer.job.id))
        request = caller.made("ExportItems")
        request.collection = name
        caller.call("ExportItems", request)
    caller.call("Backup", caller.made("Backup"))
    caller.call("DeleteCollection", index_pb.DeleteCollectionRequest(name=f"p-{WORD}"))


def try_names(caller: Caller) -> None:
    """Use such names wherever text can go, and as metadata of the call."""
    for trick in TRICKS:
        header = trick.encode("ascii", "ignore").decode().replace("\0", "").replace("\n", "")
        header = header[:2000]
        metadata = [("authorization", header), ("x-request-id", header), ("x-other", header)]
        for method in METHODS:
            requests = [plant(caller.made(method.name), trick)]
            if method.client_streaming:
                requests.insert(0, plant(caller.made(method.name), trick, 9))
            caller.call(method.name, *requests, metadata=metadata)


def events(file: Path) -> Iterator[tuple[str, list[Any]]]:
    import ast

    for line in file.read_text(errors="replace").splitlines():
        name, arguments = ast.literal_eval(line)
        yield name, arguments


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, list[Any]]]]:
    """Run a server that tells of every file it touches, and call it with all names."""
    folder = tmp_path_factory.mktemp("paths")
    out = folder / "events"
    code = HOOK.format(out=str(out), events=tuple(EVENTS), path=sys.path)
    run(folder, (sys.executable, "-c", code, "serve"))
    return folder, list(events(out))


def run(folder: Path, command: tuple[str, ...]) -> None:
    """Run a server and call it with all names; then once more over what is stored."""
    here = os.getcwd()
    os.chdir(folder)
    try:
        with LocalServer(folder / "data", command=command) as server:
            with grpc.insecure_channel(server.address) as channel:
                caller = Caller(channel)
                use_names(caller)
                assert caller.good > 40, "too little of it was accepted"
                try_names(caller)
        with LocalServer(folder / "data", command=command):
            pass
    finally:
        os.chdir(here)


def test_no_name_is_part_of_a_path_that_is_touched(
    seen: tuple[Path, list[tuple[str, list[Any]]]],
) -> None:
    _, found = seen
    assert len([name for name, _ in found if name == "open"]) > 100, "the hook does not see"
    assert [one for one in found if WORD in repr(one)] == []


def test_all_that_is_opened_is_in_known_places(
    seen: tuple[Path, list[tuple[str, list[Any]]]],
) -> None:
    folder, found = seen
    rooms = [str(Path(path).resolve()) for path in lookalike.__path__]
    known = [str(folder / "data"), sys.prefix, sys.base_prefix, *rooms, "/proc/", "/sys/", "/dev/"]
    known += ["/etc/", "/usr/", "/lib", *(path for path in sys.path if path)]
    strange = set()
    for name, arguments in found:
        if name != "open" and not name.startswith(("os.", "shutil.")):
            continue
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
        if (path.startswith("/") and not path.startswith(tuple(known))) or (
            path and not path.startswith("/") and name == "open"
        ):
            strange.add((name, path))
    assert {one for one in strange if not _is_ours(one[1])} == {("open", str(folder))}


def _is_ours(path: str) -> bool:
    """Say so of files of the data folder that are opened by their folder's descriptor."""
    return re.fullmatch(r"[a-z]+-[0-9]+(\.[a-z]+)?", path) is not None


def test_no_file_has_such_a_name(seen: tuple[Path, list[tuple[str, list[Any]]]]) -> None:
    folder, _ = seen
    files = list(folder.rglob("*"))
    assert any(path.suffix for path in files)
    assert [path for path in files if WORD in str(path)] == []
    for place in (Path("/tmp"), Path.home(), Path("/"), folder.parent):
        assert not [name for name in os.listdir(place) if WORD in name]


def test_no_program_was_started_but_those_that_decode(
    seen: tuple[Path, list[tuple[str, list[Any]]]],
) -> None:
    _, found = seen
    started = [arguments for name, arguments in found if name == "subprocess.Popen"]
    assert all("lookalike.server.images.worker" in repr(one) for one in started), started
    assert not [name for name, _ in found if name in ("os.system", "os.exec", "os.fork")]


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_no_library_opens_such_a_path_either(tmp_path: Path) -> None:
    """What the interpreter's hook does not see, because it is opened in C, the kernel does."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not here")
    out = tmp_path / "calls"
    traced = (strace, "-D", "-f", "-e", "trace=%file", "-s", "10000", "-o", str(out))
    run(tmp_path, (*traced, sys.executable, "-m", "lookalike.server", "serve"))
    calls = out.read_text(errors="replace").splitlines()
    assert any("lookalike.db" in line or ".db" in line for line in calls)
    assert len(calls) > 1000
    assert [line for line in calls if WORD in line] == []
