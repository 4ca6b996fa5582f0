"""Servers that are stopped and relieved, and traffic that says what became of every call."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from lookalike.client import Client, NewItem, WriteResult
from lookalike.client._channel import service_config
from lookalike.client.errors import LookalikeError
from lookalike.v1 import search_service_pb2, search_service_pb2_grpc, types_pb2

READY = re.compile(r"lookalike \S+ ready on (\S+:\d+) ")
COLLECTION, DIM, ITEMS = "vectors", 64, 500
SERVER = ("-m", "lookalike.server")


def vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal(DIM).astype(np.float32)


class Server:
    """A server in a process of its own, started at once; `address` waits until it is ready."""

    def __init__(self, data: Path, *args: str, program: Sequence[str] = SERVER, **env: str) -> None:
        self.log = data.with_name(f"{data.name}-{time.monotonic_ns()}.log")
        command = [sys.executable, *program, "serve", "--data", str(data)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--listen", "127.0.0.1:0", *args],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "LOOKALIKE_SERVER__GRACE_S": "5", **env},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def address(self) -> str:
        if "_address" not in vars(self):
            match = READY.match(line := self.line())
            assert match is not None, (line, self.log.read_text())
            self._address = match[1]
        return self._address

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def fill(address: str) -> None:
    with Client(address) as client:
        client.create_collection(COLLECTION, model="none", dimension=DIM)
        items = (NewItem(id=str(n), vector=vector(n)) for n in range(ITEMS))
        assert client.upload(items, collection=COLLECTION).created == ITEMS


@dataclass
class Traffic:
    """Calls of several clients until `end`: searches, changes, an upload."""

    address: str
    searches_per_s: float = 50.0
    with_retries: bool = True
    patience_s: float = 60.0
    """How long an upload waits for the next server."""
    failed: list[str] = field(default_factory=list)
    """Searches that failed, and answers that were wrong."""
    refused: list[tuple[float, grpc.StatusCode, str]] = field(default_factory=list)
    """Plain calls that failed: when they began, how, and in what words."""
    took_ms: list[float] = field(default_factory=list)
    """Of searches."""
    wrote_ms: list[float] = field(default_factory=list)
    not_written: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    streams: int = 0
    """Upload streams that were ended and followed by another."""

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, *, plain: int = 3, ours: int = 2, writers: int = 1, uploads: int = 1) -> None:
        each_s = (plain + ours) / self.searches_per_s
        work: list[Callable[[], None]] = [
            *[lambda n=n: self._plain(n, each_s) for n in range(plain)],
            *[lambda n=n: self._ours(n, each_s) for n in range(ours)],
            *[lambda n=n: self._write(n) for n in range(writers)],
            *[lambda n=n: self._upload(n) for n in range(uploads)],
        ]
        self._threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    # ------------------------------------------------------------------ searches

    def _plain(self, number: int, each_s: float) -> None:
        """Search as any gRPC client does that has the documented retries, or none."""
        options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
        if self.with_retries:
            options.append(("grpc.service_config", service_config()))
        with grpc.insecure_channel(self.address, options=options) as channel:
            stub = search_service_pb2_grpc.SearchServiceStub(channel)
            for key in self._keys(number, each_s):
                query = types_pb2.Vector(values=vector(key).tolist())
                request = search_service_pb2.SearchRequest(
                    collection=COLLECTION, vector=query, limit=1
                )
                began = time.monotonic()
                try:
                    found = stub.Search(request, timeout=10).hits[0].item.id
                except grpc.RpcError as error:
                    self.refused.append((began, error.code(), error.details() or ""))
                    self.failed.append(f"plain: {error.code()} {error.details()}")
                    continue
                self._judge(key, found, began)

    def _ours(self, number: int, each_s: float) -> None:
        with Client(self.address) as client:
            for key in self._keys(1000 + number, each_s):
                began = time.monotonic()
                try:
                    hits = client.search(vector=vector(key), k=1, collection=COLLECTION)
                except LookalikeError as error:
                    self.failed.append(f"client: {error!r}")
                    continue
                self._judge(key, hits[0].id, began)

    def _keys(self, number: int, each_s: float) -> Iterator[int]:
        while not self._over.is_set():
            began = time.monotonic()
            number += 7
            yield number % ITEMS
            self._over.wait(max(0.0, began + each_s - time.monotonic()))

    def _judge(self, key: int, found: str, began: float) -> None:
        self.took_ms.append(1e3 * (time.monotonic() - began))
        if found != str(key):
            self.failed.append(f"{found} for {key}")

    # ------------------------------------------------------------------- changes

    def _write(self, writer: int) -> None:
        """Store single items; what was acknowledged has to be seen by others at once."""
        number = 0
        with Client(self.address) as client, Client(self.address) as other:
            while not self._over.wait(0.02):
                number += 1
                began = time.monotonic()
                item = NewItem(id=f"w{writer}-{number}", vector=vector(number))
                try:
                    client.upsert([item], collection=COLLECTION)
                except LookalikeError as error:
                    self.not_written.append(repr(error))
                    continue
                self.wrote_ms.append(1e3 * (time.monotonic() - began))
                self.acknowledged.add(item.id)
                try:
                    other.get(item.id, collection=COLLECTION)
                except LookalikeError as error:
                    self.failed.append(f"{item.id} was acknowledged: {error!r}")

    def _upload(self, uploader: int) -> None:
        """Keep one upload open, which goes from server to server."""

        def items() -> Iterator[NewItem]:
            number = 0
            while not self._over.wait(0.01):
                number += 1
                yield NewItem(id=f"u{uploader}-{number}", vector=vector(number))

        def told(result: WriteResult) -> None:
            if result.error is None:
                self.acknowledged.add(result.id)
            else:
                self.not_written.append(repr(result.error))

        with Client(self.address) as client:
            try:
                report = client.upload(
                    items(), collection=COLLECTION, on_result=told, patience_s=self.patience_s
                )
                self.streams += report.reconnects
            except LookalikeError as error:
                self.not_written.append(repr(error))


def missing(address: str, acknowledged: set[str]) -> set[str]:
    """Return what was acknowledged and is not there."""
    with Client(address) as client:
        return acknowledged - {item.id for item in client.list(collection=COLLECTION, view="id")}


def writers(data: Path) -> set[int]:
    """Return the processes that have the data folder to write there, as the kernel says."""
    inode = (data / "lock").stat().st_ino
    found = set()
    for line in Path("/proc/locks").read_text().splitlines():
        if "->" in line:  # who only waits
            continue
        _, kind, _, mode, pid, place, *_ = line.split()
        if (kind, mode) == ("FLOCK", "WRITE") and int(place.split(":")[2]) == inode:
            found.add(int(pid))
    return found
