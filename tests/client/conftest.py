"""A fake server for each test, a client of it, and a command line that finds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.cli_run import Run
from client.fake_server import FakeServer
from lookalike.client import Client, cli


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, timeout_s=20) as made:
        yield made


@pytest.fixture
def run(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    monkeypatch.setenv("LOOKALIKE_ADDRESS", server.address)

    def call(*args: str | Path) -> tuple[int, str, str]:
        code = cli.run([str(a) for a in args])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, data in {"a.jpg": b"one", "sub/b.png": b"two", "c.txt": b"three"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
