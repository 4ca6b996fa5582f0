"""One peer, run by the Python of the environment that it is installed in.

    PYTHON bench/_peer.py KIND FOLDER

Reads commands as JSON lines from stdin and answers each with one JSON line. KIND:
chroma (its server), milvus (standalone 2.3.5), milvus-lite, lance (embedded).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from _loops import threads

K = 10


class Peer:
    """What a peer has to be able to do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""

    def ingest(self, vectors: np.ndarray) -> float | None:
        """Return when all are durable and can be searched.

        Returns the seconds after which all were acknowledged, if that was earlier.
        """
        raise NotImplementedError

    def searcher(self) -> Callable[[np.ndarray], list[int]]:
        """Return a call that gives the ids of the nearest ten."""
        raise NotImplementedError

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def memory_mb(self) -> float:
        pid = os.getpid() if self.process is None else self.process.pid
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def disk_mb(self) -> float:
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file()) / 1e6


class Chroma(Peer):
    """`chroma run`, its HTTP client, its default index."""

    def start(self) -> None:
        import chromadb

        self.port = _free_port()
        program = Path(sys.executable).with_name("chroma")
        command = [str(program), "run", "--path", str(self.folder), "--host", "127.0.0.1"]
        log = (self.folder.parent / "chroma.log").open("ab")
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdout=log, stderr=subprocess.STDOUT
        )
        _until(lambda: chromadb.HttpClient("127.0.0.1", self.port).heartbeat())

    def _collection(self) -> Any:
        import chromadb

        client = chromadb.HttpClient("127.0.0.1", self.port)
        return client.get_or_create_collection(
            "bench", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
        )

    def ingest(self, vectors: np.ndarray) -> None:
        collection = self._collection()
        for at in range(0, len(vectors), 1000):
            part = vectors[at : at + 1000]
            collection.add(ids=[str(i) for i in range(at, at + len(part))], embeddings=part)

    def searcher(self) -> Callable[[np.ndarray], list[int]]:
        collection = self._collection()

        def ask(vector: np.ndarray) -> list[int]:
            found = collection.query(query_embeddings=[vector], n_results=K, include=["distances"])
            return [int(i) for i in found["ids"][0]]

        return ask


class MilvusLite(Peer):
    """pymilvus with a file: Milvus in the process."""

    metric: ClassVar[dict[str, Any]] = {"metric_type": "IP", "params": {}}

    def _client(self) -> Any:
        from pymilvus import MilvusClient

        if not hasattr(self, "client"):
            self.client = MilvusClient(str(self.folder / "milvus.db"))
        return self.client

    def ingest(self, vectors: np.ndarray) -> None:
        from pymilvus import DataType, MilvusClient

        client = self._client()
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("v", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
        client.create_collection("bench", schema=schema)
        for at in range(0, len(vectors), 1000):
            part = vectors[at : at + 1000]
            client.insert("bench", [{"id": at + i, "v": v} for i, v in enumerate(part)])
        params = MilvusClient.prepare_index_params()
        params.add_index("v", index_type="AUTOINDEX", metric_type="IP", params={})
        client.create_index("bench", params)
        client.load_collection("bench")

    def searcher(self) -> Callable[[np.ndarray], list[int]]:
        client = self._client()

        def ask(vector: np.ndarray) -> list[int]:
            hits = client.search("bench", [vector.tolist()], limit=K, search_params=self.metric)
            return [hit["id"] for hit in hits[0]]

        return ask


class Milvus(MilvusLite):
    """A real Milvus standalone, HNSW with M 16, efConstruction 128, ef 64."""

    metric: ClassVar[dict[str, Any]] = {"metric_type": "IP", "params": {"ef": 64}}

    def start(self) -> None:
        self.port = _free_port()
        program = Path(sys.executable).with_name("milvus-server")
        log = (self.folder.parent / "milvus.log").open("ab")
        self.process = subprocess.Popen(
            [str(program), "--data", str(self.folder), "--proxy-port", str(self.port)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _until(lambda: self._client().list_collections(), 180)

    def _client(self) -> Any:
        """Return a client with a connection of its own."""
        from pymilvus import MilvusClient

        return MilvusClient(f"http://127.0.0.1:{self.port}")

    def ingest(self, vectors: np.ndarray) -> float:
        """Insert columns, and wait until all is flushed, indexed and loaded."""
        from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections

        connections.connect("ingest", host="127.0.0.1", port=str(self.port))
        fields = [
            FieldSchema("id", DataType.INT64, is_primary=True),
            FieldSchema("v", DataType.FLOAT_VECTOR, dim=vectors.shape[1]),
        ]
        made = Collection("bench", CollectionSchema(fields), using="ingest")
        began = time.perf_counter()
        for at in range(0, len(vectors), 1000):
            part = vectors[at : at + 1000]
            made.insert([list(range(at, at + len(part))), list(part)])
        acknowledged = time.perf_counter() - began
        made.flush()
        params = {"M": 16, "efConstruction": 128}
        made.create_index("v", {"index_type": "HNSW", "metric_type": "IP", "params": params})
        made.load()
        return acknowledged

    def memory_mb(self) -> float:
        """Sum up the server's children: `milvus-server` is a Python program that starts it."""
        assert self.process is not None
        found = subprocess.run(
            ["ps", "-o", "rss=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        return sum(int(line) for line in found.stdout.split()) / 1e3


class Lance(Peer):
    """LanceDB in the process, without an index: its default."""

    def _table(self, dim: int = 0) -> Any:
        import lancedb
        import pyarrow as pa

        db = lancedb.connect(str(self.folder / "lance"))
        if not dim:
            return db.open_table("bench")
        kind = pa.list_(pa.float32(), dim)
        return db.create_table("bench", schema=pa.schema([("id", pa.int64()), ("vector", kind)]))

    def ingest(self, vectors: np.ndarray) -> None:
        import pyarrow as pa

        dim = vectors.shape[1]
        table = self._table(dim)
        for at in range(0, len(vectors), 10_000):
            part = vectors[at : at + 10_000]
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), dim)
            ids = pa.array(np.arange(at, at + len(part)))
            table.add(pa.table({"id": ids, "vector": column}, schema=table.schema))

    def searcher(self) -> Callable[[np.ndarray], list[int]]:
        table = self._table()

        def ask(vector: np.ndarray) -> list[int]:
            asked = table.search(vector).distance_type("dot").limit(K).select(["id"])
            found: list[int] = asked.to_arrow()["id"].to_pylist()
            return found

        return ask


KINDS = {"chroma": Chroma, "milvus": Milvus, "milvus-lite": MilvusLite, "lance": Lance}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until(ask: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            ask()
            return
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def _answer(peer: Peer, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "start":
            began = time.perf_counter()
            peer.start()
            return {"seconds": time.perf_counter() - began}
        case "ingest":
            vectors = np.load(command["file"], mmap_mode="r")
            began = time.perf_counter()
            acknowledged = peer.ingest(vectors)
            ready = time.perf_counter() - began
            return {"acknowledged_s": acknowledged or ready, "ready_s": ready}
        case "find":
            queries, ask = np.load(command["file"]), peer.searcher()
            return {"found": [ask(query) for query in queries]}
        case "load":
            queries = np.load(command["file"])

            def make() -> Callable[[int], object]:
                ask = peer.searcher()
                return lambda i: ask(queries[i % len(queries)])

            return vars(threads(make, command["clients"], command["seconds"]))
        case "size":
            return {"memory_mb": peer.memory_mb(), "disk_mb": peer.disk_mb()}
        case "stop":
            peer.stop()
            return {}
    raise ValueError(command["do"])


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    peer = KINDS[kind](folder)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    try:
        for line in sys.stdin:
            try:
                answer = _answer(peer, json.loads(line))
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"[:400]}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        peer.stop()


if __name__ == "__main__":
    main()
