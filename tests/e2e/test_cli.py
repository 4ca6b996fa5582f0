"""The command line against a real server, as one types it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from lookalike.client import Client, NewItem, UploadReport
from lookalike.client.cli import run
from lookalike.client.local_server import READY_LINE, LocalServer
from made_pictures import jpeg

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")},
    "PYTHONPATH": ":".join(p for p in sys.path if p),
}


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def cli(*args: str | Path, address: str = "") -> Done:
    """Run a command in this process, which spares it the start of Python."""
    environment = {"LOOKALIKE_ADDRESS": address} if address else {}
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, environment):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(arg) for arg in args])
    assert "Traceback" not in err.getvalue()
    return Done(code, out.getvalue(), err.getvalue())


def process(*args: str) -> Done:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "lookalike.client.cli", *args]
    done = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalServer(tmp_path_factory.mktemp("cli") / "data") as server:
        yield server.address


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(30):
        path = folder / ("even" if i % 2 == 0 else "odd") / f"{i:02}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(i))
    (folder / "broken.jpg").write_bytes(jpeg(99)[:800])
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_the_first_minute(address: str, photos: Path, tmp_path: Path) -> None:
    indexed = cli("index", photos, "--json", address=address)
    assert indexed.returncode == 3
    summary = json.loads(indexed.stdout)
    assert (summary["created"], summary["failed"]) == (30, 1)
    assert "broken.jpg" in indexed.stderr
    assert "IMAGE_UNDECODABLE" in indexed.stderr
    again = json.loads(cli("index", photos, "--json", address=address).stdout)
    assert (again["created"], again["unchanged"]) == (0, 30)

    page = tmp_path / "page.html"
    found = cli("search", photos / "odd" / "07.jpg", "-k", "3", "--html", page, address=address)
    assert found.returncode == 0
    head, first, *_ = found.stdout.splitlines()
    assert head.split()[:2] == ["score", "id"]
    assert first.split()[:2] == ["1.000", "odd/07.jpg"]
    assert "the same picture" in first
    assert page.read_text().count("data:image/jpeg;base64,") == 4
    like = cli("search", "--like", "odd/07.jpg", "-k", "3", "--json", address=address)
    hits = [json.loads(line) for line in like.stdout.splitlines()]
    assert len(hits) == 3
    assert "odd/07.jpg" not in {hit["id"] for hit in hits}


def test_metadata_is_set_asked_for_and_deleted_by(address: str, photos: Path) -> None:
    cli("collections", "create", "meta", address=address)
    assert cli("index", photos / "even", "-c", "meta", "-q", address=address).returncode == 0
    done = cli("items", "set-metadata", "04.jpg", "price=3", "-c", "meta", address=address)
    assert done.returncode == 0
    where = cli("items", "count", "-w", "price < 9", "-c", "meta", address=address)
    assert where.stdout == "1\n"
    found = cli(
        "search", photos / "even" / "02.jpg", "-w", "exists price", "-c", "meta", "--json",
        address=address,
    )  # fmt: skip
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == ["04.jpg"]
    gone = cli("items", "delete", "-w", "price = 3", "-y", "-c", "meta", address=address)
    assert gone.returncode == 0
    assert cli("items", "count", "-c", "meta", address=address).stdout == "14\n"
    assert cli("rebuild", "meta", "--index", "exact", "-q", address=address).returncode == 0
    assert "succeeded" in cli("jobs", address=address).stdout
    assert cli("collections", "delete", "meta", "--yes", address=address).returncode == 0


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["search", "--text", "a cat"], 1, "embeds pictures only"),
        (["search", "--like", "nobody"], 5, "nobody"),
        (["items", "get", "nobody"], 5, "nobody"),
        (["index", ".", "-c", "nowhere"], 5, "lookalike collections create"),
        (["items", "count", "-w", "a <"], 2, "^"),
        (["collections", "create", "UPPER"], 1, "UPPER"),
        (["nonsense"], 2, "No such command"),
        (["info", "--server", "127.0.0.1:1"], 4, "lookalike serve"),
    ],
)
def test_what_goes_wrong_has_its_exit_code_and_a_cure(
    address: str, args: list[str], code: int, says: str
) -> None:
    done = cli(*args, address=address)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_the_server_tells_what_it_is(address: str) -> None:
    assert cli("health", address=address).stdout == "serving\n"
    info = json.loads(cli("info", "--json", address=address).stdout)
    assert info["default_model"] == "builtin"
    assert info["ready"]
    assert "builtin" in cli("models", address=address).stdout
    assert cli("collections", address=address).returncode == 0


def test_embed_needs_no_server_of_ones_own(address: str, photos: Path, tmp_path: Path) -> None:
    alone, served = tmp_path / "alone.npz", tmp_path / "served.npz"
    assert cli("embed", photos, "--out", alone).returncode == 3
    done = cli("embed", photos, "--out", served, address=address)
    assert done.returncode == 3
    assert "broken.jpg" in done.stderr
    with np.load(alone) as one, np.load(served) as other:
        assert one["ids"].tolist() == sorted(one["ids"].tolist())
        assert one["ids"].tolist() == other["ids"].tolist()
        assert one["vectors"].shape[0] == 30
        assert np.array_equal(one["vectors"], other["vectors"])
        assert np.allclose(np.linalg.norm(one["vectors"], axis=1), 1, atol=1e-4)


# --------------------------------------------------------- serve, and its end


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(data: Path, port: int) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-m", "lookalike.client.cli", "serve",
         "--data", str(data), "--listen", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert started.stdout is not None
    assert READY_LINE.match(started.stdout.readline())
    return started


def end(server: subprocess.Popen[str], number: signal.Signals) -> None:
    server.send_signal(number)
    server.wait(60)
    assert server.stdout is not None
    server.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_upload_outlives_the_server(tmp_path: Path, number: signal.Signals) -> None:
    port, ended = free_port(), threading.Event()
    server = serve(tmp_path / "data", port)
    reports: list[UploadReport] = []
    sent: list[str] = []
    acknowledged: list[str] = []
    pictures = [jpeg(i) for i in range(40)]

    def items() -> Iterator[NewItem]:
        """More and more of them, and 20 once the server has gone."""
        more = 20
        while more:
            more -= ended.is_set()
            sent.append(f"{len(sent):05}")
            yield NewItem(sent[-1], pictures[len(sent) % 40], metadata={"n": len(sent)})

    def upload() -> None:
        with Client(f"127.0.0.1:{port}") as client:
            report = client.upload(items(), on_result=lambda r: acknowledged.append(r.id))
            reports.append(report)

    uploading = threading.Thread(target=upload)
    uploading.start()
    deadline = time.monotonic() + 30
    while len(acknowledged) < 30 and time.monotonic() < deadline:
        time.sleep(0.005)
    end(server, number)
    ended.set()
    server = serve(tmp_path / "data", port)
    try:
        uploading.join(60)
        assert not uploading.is_alive()
        (report,) = reports
        assert report.failed == 0
        assert report.reconnects >= 1
        assert sorted(acknowledged) == sent
        with Client(f"127.0.0.1:{port}") as client:
            assert [item.id for item in client.list(view="id")] == sent
    finally:
        end(server, signal.SIGTERM)
    assert server.returncode == 0


def test_serve_hands_its_options_to_the_server(tmp_path: Path) -> None:
    helped = process("serve", "--help")
    assert helped.returncode == 0
    assert "--data" in helped.stdout
    assert process("serve", "--no-such-option").returncode == 2
    assert process("config", "show").returncode == 0
