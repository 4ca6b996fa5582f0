"""Who takes part in bench/search.py: lookalike, the empty server, libraries in the process, peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _load
import numpy as np
from _loops import Figures, threads
from _vectors import TOP, Dataset

from lookalike.client import Client, IndexSpec, NewItem
from lookalike.client.local_server import LocalServer
from lookalike.v1 import search_service_pb2 as pb

NAME = "bench"
_READY_S = 1800.0


class Lookalike:
    """The real server over loopback."""

    def __init__(self, folder: Path, index: str | IndexSpec) -> None:
        self.folder = folder
        self.index = index

    def start(self) -> float:
        """Start a server on the folder; return the seconds until it was ready."""
        began = time.perf_counter()
        self.server = LocalServer(self.folder, start_timeout_s=300.0)
        self.server.start()
        with Client(self.server.address) as client:
            client.wait_ready(300.0)
        return time.perf_counter() - began

    def stop(self) -> None:
        self.server.stop()

    def ingest(self, data: Dataset) -> dict[str, float]:
        """Store all vectors; return rates to durable and findable, and to indexed."""
        with Client(self.server.address) as client:
            client.create_collection(
                NAME, model="none", dimension=data.vectors.shape[1], index=self.index
            )
            began = time.perf_counter()
            report = client.upload(
                (NewItem(id=str(i), vector=v) for i, v in enumerate(data.vectors)), collection=NAME
            )
            seconds = time.perf_counter() - began
            assert report.failed == 0, report
            waiting = time.perf_counter()
            self._until_indexed(client, len(data.vectors))
            return {
                "vectors_per_s": len(data.vectors) / seconds,
                "until_indexed_s": time.perf_counter() - waiting,
            }

    def _until_indexed(self, client: Client, count: int) -> None:
        end, quiet = time.monotonic() + _READY_S, 0
        while quiet < 5 and time.monotonic() < end:
            status = client.collection(NAME).index_status
            done = not status.building and status.indexed_count >= count
            quiet = quiet + 1 if done or (not status.building and count < 20_000) else 0
            time.sleep(1.0)

    def describe(self) -> str:
        with Client(self.server.address) as client:
            status = client.collection(NAME).index_status
        return "; ".join(str(segment) for segment in status.segments)

    def found(self, queries: np.ndarray) -> list[list[int]]:
        with Client(self.server.address) as client:
            answers = [
                client.search(vector=query, k=TOP, view="id", collection=NAME) for query in queries
            ]
        return [[int(hit.id) for hit in answer] for answer in answers]

    def messages(self, queries: np.ndarray) -> list[pb.SearchRequest]:
        return [_load.search_message(q.tolist(), NAME) for q in queries]

    def unary(self, queries: np.ndarray, clients: int, seconds: float) -> Figures:
        messages = [m.SerializeToString() for m in self.messages(queries)]
        return _load.calls(self.server.address, _load.SEARCH, messages, clients, seconds)

    def batch(self, queries: np.ndarray, size: int, seconds: float) -> Figures:
        return _load.calls(
            self.server.address, _load.BATCH, self.batches(queries, size), 2, seconds, size
        )

    def batches(self, queries: np.ndarray, size: int) -> list[bytes]:
        messages = self.messages(queries)
        return [
            pb.BatchSearchRequest(
                collection=NAME, queries=[messages[(at + i) % len(messages)] for i in range(size)]
            ).SerializeToString()
            for at in range(0, len(messages), max(size, len(messages) // 8))
        ]

    def stream(self, queries: np.ndarray, clients: int, seconds: float) -> Figures:
        messages = [
            pb.StreamSearchRequest(tag=i, search=m).SerializeToString()
            for i, m in enumerate(self.messages(queries))
        ]
        return _load.streams(self.server.address, _load.STREAM, messages, clients, seconds)

    def answer_bytes(self, queries: np.ndarray) -> tuple[int, int]:
        """Return how long an answer is, and one of a batch of 256."""
        with Client(self.server.address) as client:
            hits = client.search(vector=queries[0], k=TOP, view="id", collection=NAME)
        one = pb.SearchResponse(hits=[{"score": h.score, "item": {"id": h.id}} for h in hits])
        one.info.SetInParent()
        size = one.ByteSize() + 40  # the times of `info`
        return size, 256 * (size + 6)

    def memory_mb(self) -> float:
        """Return all memory of the server, the pages of its files among it."""
        return sum(self.memory_parts_mb().values())

    def memory_parts_mb(self) -> dict[str, float]:
        """Return the server's own memory, and the pages of files that it has mapped.

        The kernel takes those of files back when it needs them.
        """
        lines = Path(f"/proc/{self.server.pid}/status").read_text().splitlines()
        kb = dict(line.split()[:2] for line in lines if line.startswith("Rss"))
        return {"own": int(kb["RssAnon:"]) / 1e3, "files": int(kb["RssFile:"]) / 1e3}

    def disk_mb(self) -> float:
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()) / 1e6

    def searched_during_ingest(self, data: Dataset, seconds: float) -> tuple[Figures, Figures]:
        """Return the figures of one caller, idle and while another one stores vectors."""
        idle = self.unary(data.queries, 1, seconds)
        stop = threading.Event()

        def store() -> None:
            rows = np.random.default_rng(7).permutation(len(data.vectors))
            with Client(self.server.address) as client:

                def items() -> Any:
                    for i in rows:
                        if stop.is_set():
                            return
                        yield NewItem(id=f"more-{i}", vector=data.vectors[i])

                client.upload(items(), collection=NAME)

        thread = threading.Thread(target=store)
        thread.start()
        time.sleep(0.5)
        busy = self.unary(data.queries, 1, seconds)
        stop.set()
        thread.join()
        return idle, busy


class EmptyServer:
    """gRPC in Python with nothing behind it."""

    def __init__(self, unary: int, batch: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_empty.py")), str(unary), str(batch)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class InProcess:
    """A library's index in this process: no wire, no ids, no disk."""

    def __init__(self, name: str, search: Callable[[np.ndarray], np.ndarray]) -> None:
        self.name = name
        self._search = search

    def unary(self, queries: np.ndarray, clients: int, seconds: float) -> Figures:
        def make() -> Callable[[int], object]:
            return lambda i: self._search(queries[i % len(queries)][None])

        return threads(make, clients, seconds)

    def batch(self, queries: np.ndarray, size: int, seconds: float) -> Figures:
        """Two threads, each with batches of its own: the best that two cores do."""
        whole = np.concatenate([queries] * (1 + size // len(queries)))

        def make() -> Callable[[int], object]:
            return lambda i: self._search(np.roll(whole, -i, 0)[:size])

        return threads(make, 2, seconds, size)

    def found(self, queries: np.ndarray) -> list[list[int]]:
        rows: list[list[int]] = self._search(queries).tolist()
        return rows


def libraries(data: Dataset, wanted: Sequence[str]) -> list[InProcess]:
    """Build FAISS Flat, FAISS HNSW and hnswlib over the vectors, as far as they are there."""
    made: list[InProcess] = []
    dim = data.vectors.shape[1]
    if "faiss-flat" in wanted:
        import faiss

        faiss.omp_set_num_threads(1)
        flat = faiss.IndexFlatIP(dim)
        flat.add(data.vectors)
        made.append(InProcess("faiss-flat", lambda q: flat.search(q, TOP)[1]))
    if "faiss-hnsw" in wanted:
        import faiss

        graph = faiss.IndexHNSWFlat(dim, 16, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = 128
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        graph.add(data.vectors)
        faiss.omp_set_num_threads(1)
        graph.hnsw.efSearch = 32
        made.append(InProcess("faiss-hnsw", lambda q: graph.search(q, TOP)[1]))
    if "hnswlib" in wanted:
        try:
            import hnswlib
        except ImportError:
            print("hnswlib is not installed: left out")
            return made
        index = hnswlib.Index("ip", dim)
        index.init_index(len(data.vectors), M=16, ef_construction=128)
        index.add_items(data.vectors, num_threads=os.cpu_count() or 1)
        index.set_ef(32)
        made.append(InProcess("hnswlib", lambda q: index.knn_query(q, TOP, num_threads=1)[0]))
    return made


class Peer:
    """A peer in an environment of its own, spoken to by lines of JSON."""

    def __init__(self, kind: str, python: Path, folder: Path) -> None:
        self.name = kind
        self._folder = folder
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("_peer.py")), kind, str(folder / kind)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / f"{kind}.stderr").open("w"),
            text=True,
        )

    def ask(self, do: str, **more: object) -> dict[str, Any]:
        """Have it do one thing. Raises RuntimeError with what it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do, **more}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        return answer

    def unary(self, queries: Path, clients: int, seconds: float) -> Figures:
        return Figures(**self.ask("load", file=str(queries), clients=clients, seconds=seconds))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
