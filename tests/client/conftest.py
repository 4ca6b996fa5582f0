"""A fake server for each test, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from client.fake_server import FakeServer
from lookalike.client import Client


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.stop()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.address, timeout_s=20) as made:
        yield made
