"""A real server with pictures in it, and the gateway before it, in process and as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs pip install 'lookalike[web]'")
pytest.importorskip("uvicorn", reason="needs pip install 'lookalike[web]'")

from starlette.testclient import TestClient

from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer
from lookalike.web import Settings, make_app
from made_pictures import jpeg
from web.running import Page

COLOURS = ("red", "green", "blue")
STORED = 60


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with STORED pictures, "scene/N.jpg" of jpeg(N)."""
    with LocalServer(tmp_path_factory.mktemp("web") / "data") as running:
        with Client(running.address) as client:
            client.upload(
                NewItem(
                    id=f"scene/{i}.jpg",
                    image=jpeg(i),
                    metadata={"colour": COLOURS[i % 3], "number": i, "tags": ["even"][i % 2 :]},
                )
                for i in range(STORED)
            )
            client.create_collection("spare", image_retention="original")
        yield running.address


@pytest.fixture(scope="session")
def http(server: str) -> Iterator[TestClient]:
    """The gateway in this process, called as a browser on this machine would."""
    with TestClient(make_app(Settings(server)), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def page(server: str) -> Iterator[Page]:
    """The gateway as `python -m lookalike.web`."""
    with Page(server) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files to bring to the page."""
    for i in range(4):
        (tmp_path / f"new-{i}.jpg").write_bytes(jpeg(900 + i))
    (tmp_path / "stored.jpg").write_bytes(jpeg(3))
    (tmp_path / "notes.jpg").write_text("this is no picture")
    return tmp_path
