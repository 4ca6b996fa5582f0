"""A server process behaves as a dict and an exact comparison do, and is killed meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import ClassVar

import pytest

from model.budget import folder, walk
from model.drivers import Driver
from model.server_driver import ServerDriver
from model.walk import Walk


class ServerWalk(Walk):
    """A walk over gRPC; the walks share a data folder."""

    server: ClassVar[ServerDriver]
    most_starts = 2

    def open_driver(self) -> Driver:
        self.server.begin()
        return self.server

    def close_driver(self) -> None:
        pass


@pytest.fixture
def server() -> Iterator[None]:
    place = folder("server-walk-")
    ServerWalk.server = ServerDriver(place)
    yield
    ServerWalk.server.close()
    shutil.rmtree(place)


def takes_walks(name: str, default: str) -> None:
    Walk.seen.clear()
    walk(ServerWalk, name, default)
    print(dict(sorted(Walk.seen.items())))
    assert Walk.seen["put"]
    assert Walk.seen["search"]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("server")
def test_short_walks_over_grpc_agree_with_the_oracle() -> None:
    takes_walks("PROVE_SHORT_GRPC_STEPS", "3x20")


@pytest.mark.prove
@pytest.mark.timeout(7200)
@pytest.mark.usefixtures("server")
def test_long_walks_over_grpc_agree_with_the_oracle() -> None:
    takes_walks("PROVE_GRPC_STEPS", "150x40")
