"""A server process that is killed and whose calls are cancelled while it is asked."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from lookalike.client import Client
from lookalike.client.local_server import LocalServer
from lookalike.v1 import index_service_pb2 as index_pb
from lookalike.v1 import index_service_pb2_grpc as index_grpc
from lookalike.v1 import search_service_pb2 as search_pb
from lookalike.v1 import search_service_pb2_grpc as search_grpc
from lookalike.v1 import types_pb2
from model.histories import DIM, Unanswered
from model.oracle import Vector

CANCELLED = 0.05
"""Share of the calls that are cancelled."""
UP_S = (0.3, 1.5)
"""So long does a server live."""
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Killable:
    """Calls go out once: a retry could do twice what was asked for once."""

    def __init__(self, data: Path, seed: int) -> None:
        self._data = data
        self._rng = random.Random(seed)
        self._up = threading.Event()
        self._start()

    def _start(self) -> None:
        self.server = LocalServer(self._data, "--log-level", "error")
        self.server.start()
        with Client(self.server.address) as client:
            client.create_collection("h", model="none", dimension=DIM, exist_ok=True)
        options = [("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(self.server.address, options=options)
        self._index = index_grpc.IndexServiceStub(self._channel)
        self._search = search_grpc.SearchServiceStub(self._channel)
        self._up.set()

    def stop(self) -> None:
        self._channel.close()
        self.server.stop()

    @contextmanager
    def killed_now_and_then(self, times: int, seed: int) -> Iterator[None]:
        """Kill the server some times while the body runs, and start it again."""
        rng, over = random.Random(seed), threading.Event()
        errors: list[BaseException] = []

        def kills() -> None:
            try:
                for _ in range(times):
                    if over.wait(rng.uniform(*UP_S)):
                        return
                    self._up.clear()
                    os.kill(self.server.pid, signal.SIGKILL)
                    channel = self._channel
                    self.server.stop()
                    self._start()
                    channel.close()
            except BaseException as error:
                errors.append(error)
                self._up.set()

        killer = threading.Thread(target=kills)
        killer.start()
        try:
            yield
        finally:
            over.set()
            killer.join()
        if errors:
            raise errors[0]

    def wait(self) -> None:
        """Wait until there is a server."""
        assert self._up.wait(60)

    def write(self, item_id: str, version: int, vector: Vector) -> None:
        item = index_pb.ItemInput(id=item_id, vector=types_pb2.Vector(values=vector.tolist()))
        item.metadata.update({"version": version})
        request = index_pb.UpsertItemsRequest(collection="h", items=[item])
        answer = self._ask(self._index.UpsertItems, request)
        assert not answer.failed_count, answer

    def delete(self, item_id: str) -> bool:
        request = index_pb.DeleteItemsRequest(collection="h", ids=[item_id])
        return bool(self._ask(self._index.DeleteItems, request).deleted_count)

    def get(self, item_id: str) -> int | None:
        request = index_pb.GetItemRequest(collection="h", id=item_id)
        answer = self._ask(self._index.GetItem, request)
        return None if answer is None else int(answer.item.metadata["version"])

    def search(self, item_id: str, vector: Vector) -> int | None:
        request = search_pb.SearchRequest(
            collection="h", limit=3, vector=types_pb2.Vector(values=vector.tolist())
        )
        for hit in self._ask(self._search.Search, request).hits:
            if hit.item.id == item_id:
                return int(hit.item.metadata["version"])
        return None

    def _ask(self, method: Any, request: Any) -> Any:
        """Return the answer; None for an item that is not there. Raises Unanswered."""
        call = method.future(request, timeout=30)
        try:
            if self._rng.random() < CANCELLED:
                time.sleep(self._rng.uniform(0, 0.004))
                call.cancel()
            return call.result()
        except grpc.FutureCancelledError:
            raise Unanswered from None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            if error.code() in _LOST:
                raise Unanswered from error
            raise
        except ValueError as error:  # the channel was closed under the call
            raise Unanswered from error
