"""Backups through the command line and the client, from a server that is at work."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pytest
import typer

from lookalike.client import Client, Health, NewItem, WriteResult
from lookalike.client.errors import DataLoss, FileExists, LookalikeError, Overloaded, Unavailable
from lookalike.client.local_server import LocalServer
from lookalike.server import __main__ as server_main
from lookalike.v1 import admin_service_pb2, index_service_pb2
from made_pictures import jpeg
from store.test_restore import edited, sql

T = TypeVar("T")
SEED = int(os.environ.get("PROVE_SEED", "32"))
LOOKALIKE = [sys.executable, "-m", "lookalike.client.cli"]
SERVER = [sys.executable, "-m", "lookalike.server"]


def run(*command: str, address: str = "") -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LOOKALIKE_ADDRESS": address}
    return subprocess.run(command, env=env, capture_output=True, timeout=100, check=False)


def items(begin: int) -> Iterator[NewItem]:
    """Give items for ever, each with a vector and metadata that follow from its number."""
    number = begin
    while True:
        yield made(number)
        number += 1


def made(number: int) -> NewItem:
    vector = np.random.default_rng(number).standard_normal(64).astype(np.float32)
    image = jpeg(number % 20) if number % 10 == 0 else None
    return NewItem(f"item-{number}", image, vector, {"n": number})


class Journal:
    """What was sent and what was acknowledged, by this side of the wire."""

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged: set[str] = set()

    def items(self) -> Iterator[NewItem]:
        for item in items(0):
            self.sent += 1
            yield item

    def note(self, result: WriteResult) -> None:
        if result.error is None:
            self.acknowledged.add(result.id)


def upload(address: str, name: str, journal: Journal, stop: threading.Event) -> None:
    def until_stopped() -> Iterator[NewItem]:
        for item in journal.items():
            if stop.is_set():
                return
            yield item

    with Client(address) as client:
        client.upload(until_stopped(), collection=name, on_result=journal.note)


def check_restored(folder: Path, name: str, before: set[str], journal: Journal) -> int:
    """Compare a restored server with the journal; return how many items it has."""
    with LocalServer(folder) as server, Client(server.address) as client:
        found = {item.id: item for item in client.list(view="full", collection=name)}
        assert not before - set(found), "something acknowledged before is not in the backup"
        for item_id, item in found.items():
            number = int(item_id.removeprefix("item-"))
            assert number < journal.sent, f"{item_id} was never sent"
            wanted = made(number)
            vector = np.asarray(wanted.vector)
            assert item.vector is not None
            np.testing.assert_allclose(item.vector, vector / np.linalg.norm(vector), rtol=1e-6)
            assert item.metadata == {"n": number}
            if wanted.image is not None and number % 50 == 0:
                assert item.image is not None
                assert client.image(item_id, original=True, collection=name).data == wanted.image
        for item_id in sorted(found)[:: max(1, len(found) // 20)]:
            hits = client.search(vector=found[item_id].vector, k=1, collection=name, view="id")
            assert hits[0].id == item_id
        assert client.collection(name).index.backend == "faiss"
        return len(found)


def backup_loop(folder: Path, loops: int) -> None:
    """Each backup is of a collection of its own, so that none is larger than the first."""
    print(f"seed {SEED}")
    overtaken = 0
    with LocalServer(folder / "data") as server, Client(server.address) as client:
        for loop in range(loops):
            name, journal, stop = f"v{loop}", Journal(), threading.Event()
            client.create_collection(name, model="none", dimension=64, image_retention="original")
            uploader = threading.Thread(target=upload, args=(server.address, name, journal, stop))
            uploader.start()
            try:
                while len(journal.acknowledged) < 100 and uploader.is_alive():
                    time.sleep(0.01)
                before = set(journal.acknowledged)
                report = client.backup(folder / "b")
                overtaken += len(journal.acknowledged) > len(before)
            finally:
                stop.set()
                uploader.join()
            assert (folder / "b").stat().st_size == report.size_bytes
            target = folder / f"restored-{loop}"
            command = (*SERVER, "restore", str(folder / "b"), "--data", str(target))
            done = run(*command, "--index", "faiss")
            assert done.returncode == 0, done.stderr
            count = check_restored(target, name, before, journal)
            print(f"backup {loop}: change {report.seq}, {count} items, {len(before)} before")
            assert client.count(collection=name) == len(journal.acknowledged)
            client.delete_collection(name)
            (folder / "b").unlink()
            shutil.rmtree(target)
    assert overtaken, "nothing was stored while backups were made"
    print(f"{loops} backups, {overtaken} overtaken")


def test_backups_of_a_server_at_full_ingest_have_what_was_acknowledged(tmp_path: Path) -> None:
    backup_loop(tmp_path, 2)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_many_backups_at_full_ingest_have_what_was_acknowledged(tmp_path: Path) -> None:
    backup_loop(tmp_path, int(os.environ.get("PROVE_BACKUPS", "50")))


# ------------------------------------------------------------ the command line


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with LocalServer(tmp_path_factory.mktemp("served") / "data") as server:
        with Client(server.address) as client:
            client.create_collection("v", model="none", dimension=64)
            client.upload((made(n) for n in range(300)), collection="v")
        yield server


def test_backup_and_restore_from_the_command_line(server: LocalServer, tmp_path: Path) -> None:
    file, data = tmp_path / "b.lookalike", tmp_path / "restored"
    saved = run(*LOOKALIKE, "backup", str(file), address=server.address)
    assert saved.returncode == 0, saved.stderr
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest in saved.stderr.decode()
    assert file.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["b.lookalike"]
    piped = run(*LOOKALIKE, "backup", "-", "--quiet", address=server.address)
    assert piped.returncode == 0, piped.stderr
    assert len(piped.stdout) == file.stat().st_size
    (tmp_path / "piped").write_bytes(piped.stdout)
    assert server_command("restore", str(tmp_path / "piped"), "--check") == 0
    restored = run(*LOOKALIKE, "restore", str(file), "--data", str(data), "--index", "hnswlib")
    assert restored.returncode == 0, restored.stderr
    with LocalServer(data) as other, Client(other.address) as client:
        assert client.count(collection="v") == 300
        assert client.collection("v").index.backend == "hnswlib"


def test_a_backup_is_never_written_over_a_file(server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"precious")
    for target in ("b", "link"):
        if target == "link":
            (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        with Client(server.address) as client, pytest.raises(FileExists, match="overwritten"):
            client.backup(tmp_path / target)
    assert (tmp_path / "b").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "link"]


def server_command(*args: str) -> int:
    """Run a command of the server in this process; return its exit code."""
    code: int = typer.main.get_command(server_main.app)(list(args), standalone_mode=False)
    return code


def test_restore_says_what_is_wrong_on_one_line(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "b"
    with Client(server.address) as client:
        client.backup(file)
    (tmp_path / "cut").write_bytes(file.read_bytes()[:-5000])
    data = str(tmp_path / "d")
    for args, code, words in [
        ([str(tmp_path / "cut"), "--data", data], 1, "end is missing"),
        ([str(tmp_path / "absent"), "--data", data], 1, "No such file"),
        ([str(file)], 2, "--data"),
        ([str(file), "--data", data, "--check"], 2, "--data"),
        ([str(file), "--data", data, "--index", "v=nonsense"], 2, "nonsense"),
        ([str(file), "--data", data, "--index", "=exact"], 2, "--index"),
        ([str(file), "--data", str(tmp_path)], 1, "not empty"),
    ]:
        found, said = server_command("restore", *args), capsys.readouterr().err
        assert (found, words in said) == (code, True), (args, said)
        assert len(said.splitlines()) == 1, said
        assert not (tmp_path / "d" / "store.db").exists()


def test_verify_finds_what_was_damaged_before_the_backup(
    server: LocalServer, tmp_path: Path
) -> None:
    with Client(server.address) as client:
        client.backup(tmp_path / "b")
    bad = edited(tmp_path / "b", sql("UPDATE items SET metadata = '{}' WHERE id = 'item-7'"))
    assert server_command("restore", str(bad), "--data", str(tmp_path / "d")) == 1
    accepted = ("restore", str(bad), "--data", str(tmp_path / "d"), "--accept-damage")
    assert server_command(*accepted) == 0
    with LocalServer(tmp_path / "d") as other, Client(other.address) as client:
        found = client.verify()
        assert [(one.severity, one.item_id) for one in found.findings] == [("lost", "item-7")]
        assert "item-7" not in {item.id for item in client.list(collection="v", view="id")}
        client.upload([made(7)], collection="v")  # mends it
        assert client.verify()
        assert client.count(collection="v") == 300


# ------------------------------------------------------------------- what breaks


def test_a_caller_that_leaves_takes_its_copy_along(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "data") as server, Client(server.address) as client:
        client.create_collection("v", model="none", dimension=2048)
        vectors = np.random.default_rng(1).standard_normal((1500, 2048)).astype(np.float32)
        client.upload((NewItem(f"{n}", None, v) for n, v in enumerate(vectors)), collection="v")
        begin = client._connection.method("AdminService", "Backup")
        part = tmp_path / "data" / "backup.part"

        def leave(after: int) -> None:
            stream = begin(admin_service_pb2.BackupRequest())
            for _ in range(after):
                next(stream)
            assert part.exists() or not after
            stream.cancel()

        for messages in (0, 1, 3):
            given_up(lambda count=messages: leave(count))  # type: ignore[misc]
            ends = time.monotonic() + 20
            while part.exists() and time.monotonic() < ends:
                time.sleep(0.02)
            assert not part.exists(), "the copy of a caller that has gone is still there"
        done = given_up(lambda: client.backup(tmp_path / "b"))
        assert done.size_bytes > 12_000_000


def given_up(backup: Callable[[], T]) -> T:
    """Back up; try again while the backup before it, whose caller left, is being given up."""
    ends = time.monotonic() + 20
    while True:
        try:
            return backup()
        except (Overloaded, grpc.RpcError) as error:
            is_busy = isinstance(error, Overloaded) or (
                error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            )
            if not is_busy or time.monotonic() > ends:
                raise
        time.sleep(0.05)


def test_a_caller_that_does_not_read_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_SERVER__MESSAGE_S", "2")
    with LocalServer(tmp_path / "data") as server, Client(server.address) as client:
        client.create_collection("v", model="none", dimension=2048)
        vectors = np.random.default_rng(1).standard_normal((1500, 2048)).astype(np.float32)
        client.upload((NewItem(f"{n}", None, v) for n, v in enumerate(vectors)), collection="v")
        part = tmp_path / "data" / "backup.part"
        calls = {
            "Backup": client._connection.method("AdminService", "Backup")(
                admin_service_pb2.BackupRequest()
            ),
            "ExportItems": client._connection.method("IndexService", "ExportItems")(
                index_service_pb2.ExportItemsRequest(collection="v")
            ),
        }
        for call in calls.values():
            next(call)
        assert part.exists()
        ends = time.monotonic() + 30
        while part.exists() and time.monotonic() < ends:
            time.sleep(0.05)
        assert not part.exists(), "its copy is still there"
        for name, call in calls.items():
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            assert caught.value.code() == grpc.StatusCode.CANCELLED, name


def test_a_server_that_is_stopped_ends_its_backup(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data")
    with server, Client(server.address) as client:
        client.create_collection("v", model="none", dimension=2048)
        told: list[int] = []
        # 40 MB: more than a server can be ahead of a client that does not read.
        vectors = np.random.default_rng(1).standard_normal((5000, 2048)).astype(np.float32)
        client.upload((NewItem(f"{n}", None, v) for n, v in enumerate(vectors)), collection="v")

        def stop(done: int, total: int) -> None:
            if told:
                return  # being told twice ends it at once
            told.append(done)
            os.kill(server.pid, signal.SIGTERM)
            with contextlib.suppress(LookalikeError):  # it may be gone already
                while client.health("") is not Health.NOT_SERVING:
                    time.sleep(0.01)
            time.sleep(1.0)  # for server.notice_s it goes on as before

        with pytest.raises(Unavailable):
            client.backup(tmp_path / "b", progress=stop)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 20, "it waited for the backup as long as it may"
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert not (tmp_path / "data" / "backup.part").exists()


def test_a_server_that_is_killed_while_it_sends_leaves_no_file_and_no_copy(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data")
    with server, Client(server.address) as client:
        client.create_collection("v", model="none", dimension=2048)
        vectors = np.random.default_rng(1).standard_normal((1500, 2048)).astype(np.float32)
        client.upload((NewItem(f"{n}", None, v) for n, v in enumerate(vectors)), collection="v")

        def kill(done: int, total: int) -> None:
            if server.pid and done > 2**20:
                os.kill(server.pid, signal.SIGKILL)

        with pytest.raises((Unavailable, DataLoss)):
            client.backup(tmp_path / "b", progress=kill)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert (tmp_path / "data" / "backup.part").exists()
    with LocalServer(tmp_path / "data") as server, Client(server.address) as client:
        assert not (tmp_path / "data" / "backup.part").exists()
        assert client.count(collection="v") == 1500
        client.backup(tmp_path / "b")
