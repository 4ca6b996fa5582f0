"""Calls whose server is killed in the middle of a stream end, within their deadline."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from lookalike.client import Client
from lookalike.client.errors import LookalikeError, Unavailable
from lookalike.v1 import index_service_pb2

SERVER = """
import sys, grpc
from concurrent.futures import ThreadPoolExecutor
def image(request, context):
    for _ in range(3):
        yield bytes.fromhex(sys.argv[1])
class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_stream_rpc_method_handler(image)
server = grpc.server(ThreadPoolExecutor(16), handlers=[Handler()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
"""
CALLERS, CYCLES = 12, 4
DEADLINE_S = 4.0
HANGS_S = 40.0


def serve() -> tuple[subprocess.Popen[str], int]:
    piece = index_service_pb2.GetItemImageResponse(data=b"x" * 4000).SerializeToString()
    command = [sys.executable, "-c", SERVER, piece.hex()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_streams_of_a_killed_server_end() -> None:
    """With grpcio's own retries a third of these calls never ended."""
    for _ in range(CYCLES):
        process, port = serve()
        read = threading.Semaphore(0)

        def ask(address: str, read: threading.Semaphore) -> None:
            with Client(address, timeout_s=DEADLINE_S) as client:
                try:
                    while True:
                        assert len(client.image("some").data) == 12_000
                        read.release()
                except LookalikeError:
                    return

        callers = [
            threading.Thread(target=ask, args=(f"127.0.0.1:{port}", read), daemon=True)
            for _ in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        for _ in range(CALLERS):
            assert read.acquire(timeout=HANGS_S)
        time.sleep(random.uniform(0.0, 0.05))
        kill(process)
        ends = time.monotonic() + HANGS_S
        for caller in callers:
            caller.join(max(0.0, ends - time.monotonic()))
        assert not any(caller.is_alive() for caller in callers)


class Failing(grpc.GenericRpcHandler):
    """Gives some pieces and fails, so many times, then gives them all."""

    def __init__(self, failures: int, pieces: int) -> None:
        self.left, self.pieces, self.calls = failures, pieces, 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_stream_rpc_method_handler(self.image)

    def image(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.calls += 1
        piece = index_service_pb2.GetItemImageResponse(data=b"xyz").SerializeToString()
        if self.left:
            self.left -= 1
            yield from [piece] * self.pieces
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        yield from [piece] * 2


@contextmanager
def failing(failures: int, pieces: int) -> Iterator[tuple[Client, Failing]]:
    handler = Failing(failures, pieces)
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}", timeout_s=HANGS_S) as client:
        yield client, handler
    server.stop(None).wait()


def test_a_stream_that_has_not_begun_is_asked_for_again() -> None:
    with failing(3, 0) as (client, handler):
        assert client.image("some").data == b"xyzxyz"
        assert handler.calls == 4


def test_a_stream_is_not_asked_for_again_for_ever() -> None:
    with failing(99, 0) as (client, handler):
        with pytest.raises(Unavailable):
            client.image("some")
        assert handler.calls == 4


def test_a_stream_that_has_begun_is_not_asked_for_again() -> None:
    with failing(1, 1) as (client, handler):
        with pytest.raises(Unavailable):
            client.image("some")
        assert handler.calls == 1


def test_a_stream_is_not_asked_for_again_over_a_closed_client() -> None:
    with failing(99, 0) as (client, handler):
        threading.Timer(0.2, client.close).start()
        with pytest.raises(LookalikeError) as caught:
            client.image("some")
        assert caught.value.reason == "CLIENT_CLOSED"
        assert handler.calls < 4
