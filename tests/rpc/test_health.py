"""The health service under watchers that come, go, and do not listen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fuzz import frames
from lookalike.server.rpc import health
from lookalike.server.rpc.health import Health

SERVING, NOT_SERVING = 1, 2
UNKNOWN = 3


class Served:
    """A server that has nothing but its health."""

    def __init__(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(8))
        self.health = Health(ThreadPoolExecutor(1))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = health_pb2_grpc.HealthStub(self.channel)

    def check(self) -> int:
        answer: Any = self.stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(answer.status)

    def watch(self, service: str = "") -> Any:
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=20)


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.channel.close()
    made.server.stop(0).wait(5)


def test_watchers_that_come_and_go_at_the_same_moment_stop_nothing(served: Served) -> None:
    def come_and_go() -> None:
        for _ in range(100):
            call = served.watch()
            with suppress(grpc.RpcError):
                next(call)
            call.cancel()

    threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert served.check() == SERVING


def test_watchers_are_told_of_each_change(served: Served) -> None:
    calls = [served.watch() for _ in range(5)]
    assert [next(call).status for call in calls] == [SERVING] * 5
    served.health.set("", NOT_SERVING)
    assert [next(call).status for call in calls] == [NOT_SERVING] * 5
    served.health.set("", SERVING)
    assert [next(call).status for call in calls] == [SERVING] * 5
    served.health.enter_graceful_shutdown()
    assert [next(call).status for call in calls] == [NOT_SERVING] * 5
    for call in calls:
        call.cancel()


def test_of_an_unknown_service_nothing_is_remembered(served: Served) -> None:
    for i in range(20):
        assert [answer.status for answer in served.watch(f"x{i}")] == [UNKNOWN]
    assert not served.health._send_response_callbacks
    assert not served.health._watchers


def test_watchers_beyond_the_most_are_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "MOST_WATCHERS", 3)
    calls = [served.watch() for _ in range(3)]
    assert [next(call).status for call in calls] == [SERVING] * 3
    with pytest.raises(grpc.RpcError) as caught:
        next(served.watch())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for call in calls:
        call.cancel()
    end = time.monotonic() + 10
    while served.health._watchers and time.monotonic() < end:
        time.sleep(0.01)
    assert next(served.watch()).status == SERVING


def test_a_watcher_that_does_not_listen_is_cut_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its window is closed: what it is told cannot be sent."""
    monkeypatch.setattr(health, "TAKE_S", 0.3)
    with frames.Connection(served.port, preface=False) as peer:
        closed = frames.frame(frames.SETTINGS, 0, 0, b"\0\4\0\0\0\0")  # INITIAL_WINDOW_SIZE 0
        peer.send(frames.PREFACE + closed)
        peer.drain(0.2)
        path = "/grpc.health.v1.Health/Watch"
        for _ in range(3):
            peer.call(frames.headers(path), frames.message())
        began = time.monotonic()
        assert served.check() == SERVING
        served.health.set("", NOT_SERVING)
        assert served.check() == NOT_SERVING
        assert time.monotonic() - began < 2
        assert next(served.watch()).status == NOT_SERVING
        end = time.monotonic() + 10
        while len(served.health._watchers) > 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(served.health._watchers) <= 1
