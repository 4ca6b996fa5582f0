"""A real server on a small disk of its own, which is filled and freed again and again.

Run as a program in a mount namespace of its own (`unshare -rm`): it mounts the disk.
Ends with 0 and one line that says what was done; with an exception at the first answer
that is not as promised.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.client import Client, NewItem, Query, SearchResult
from lookalike.client.errors import DiskFull
from lookalike.client.local_server import LocalServer

DISK = 16 * 2**20
KEPT_FREE = 2 * 2**20
DIM = 32
STEADY = 80
"""Items that nobody changes, and that are searched for all the time."""
AT_MOST = 500
LARGE = 6 * 2**20
"""A database that would leave too little of the disk to be filled; it does not shrink."""
RESUMES_S = 5.0


class SmallDisk:
    """A file system of 16 MiB in memory, and a file on it that takes up room."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "disk", folder], check=True)
        self._ballast = folder / "ballast"

    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def leave(self, free: int) -> None:
        """Take up room until so many bytes are left; the server may take some meanwhile."""
        with self._ballast.open("ab") as file:
            while (surplus := self.free() - free) > 0:
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, surplus)

    def release(self) -> None:
        self._ballast.unlink(missing_ok=True)


def content(version: int) -> tuple[NDArray[np.float32], str]:
    """Return the one vector and the one text of a version, about 6 kB."""
    rng = np.random.default_rng(version)
    return rng.standard_normal(DIM).astype(np.float32), rng.bytes(3000).hex()


def new_item(item_id: str, version: int) -> NewItem:
    vector, text = content(version)
    return NewItem(id=item_id, vector=vector, metadata={"version": str(version), "text": text})


class Searcher(threading.Thread):
    """Searches for steady items until told to stop; every search must find its item."""

    def __init__(self, address: str) -> None:
        super().__init__(name="searcher", daemon=True)
        self._address = address
        self._over = threading.Event()
        self.searches = 0
        self.fault: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._address, timeout_s=30.0) as client:
                while not self._over.is_set():
                    self._search(client)
        except BaseException as error:
            self.fault = error

    def _search(self, client: Client) -> None:
        wanted = [(7 * self.searches + i) % STEADY for i in range(4)]
        queries = [Query(vector=content(n)[0], k=2, view="id") for n in wanted]
        for n, answer in zip(wanted, client.search_batch(queries, collection="v"), strict=True):
            assert isinstance(answer, SearchResult), f"a search failed: {answer!r}"
            assert answer[0].id == f"steady-{n}", f"steady-{n} finds {answer[0].id}"
            self.searches += 1

    def stop(self) -> int:
        self._over.set()
        self.join(60)
        if self.fault is not None:
            raise self.fault
        return self.searches


class Proof:
    """One run: what was acknowledged, and what must be so."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._disk = SmallDisk(folder / "disk")
        self._data = self._disk.path / "data"
        self.acknowledged: dict[str, int] = {}
        self._version = STEADY
        self.searches = self.refused = self.stored = self.deleted = self.restarts = 0
        self.slowest_s = 0.0
        self._server: LocalServer
        self._client: Client
        self._searcher: Searcher

    def start(self) -> None:
        options = ("--log-level", "error")
        self._server = LocalServer(self._data, *options)
        self._server.start()
        self._client = Client(self._server.address, timeout_s=60.0)
        self._client.create_collection("v", model="none", dimension=DIM, exist_ok=True)
        if not self.acknowledged:
            self.put({f"steady-{n}": n for n in range(STEADY)})
        self._searcher = Searcher(self._server.address)
        self._searcher.start()

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.searches += self._searcher.stop()
        self._client.close()
        if number == signal.SIGKILL:
            os.kill(self._server.pid, number)
        self._server.stop()

    def put(self, versions: dict[str, int]) -> bool:
        """Store items; return whether all were, all others being told of the full disk."""
        items = [new_item(item_id, version) for item_id, version in versions.items()]
        full = 0
        for result in self._client.upsert(items, collection="v"):
            if result.error is None:
                self.acknowledged[result.id] = versions[result.id]
                self.stored += 1
            else:
                assert isinstance(result.error, DiskFull), repr(result.error)
                assert "disk" in str(result.error), str(result.error)
                full += 1
        self.refused += full
        return not full

    def put_some(self) -> bool:
        """Store some items, new ones and others that replace what is there."""
        versions = {}
        for _ in range(self._rng.choice([1, 4, 24])):
            self._version += 1
            number = self._version if self._rng.random() < 0.7 else self._rng.randrange(AT_MOST)
            versions[f"item-{number}"] = self._version
        return self.put(versions)

    def delete(self, count: int) -> None:
        ids = [item_id for item_id in self.acknowledged if not item_id.startswith("steady")]
        chosen = self._rng.sample(ids, min(count, len(ids)))
        assert self._client.delete(chosen, collection="v") == len(chosen)
        for item_id in chosen:
            del self.acknowledged[item_id]
        self.deleted += len(chosen)

    def trim(self) -> None:
        while len(self.acknowledged) > AT_MOST // 2:
            self.delete(20)

    def fill(self) -> None:
        """Store until the disk is full for single items, too."""
        refusals = 0
        while refusals < 3:
            refusals += not self.put_some()

    def resumes(self) -> None:
        """Expect that something can be stored again, soon."""
        began = time.monotonic()
        self._version += 1
        while not self.put({"item-0": self._version}):
            waited = time.monotonic() - began
            assert waited < RESUMES_S, (
                f"nothing could be stored {waited:.1f} s after room came: {self.state()}"
            )
            time.sleep(0.05)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def state(self) -> str:
        files = {p.name: p.stat().st_size for p in self._data.rglob("*") if p.is_file()}
        return f"{self._disk.free()} bytes free, {len(self.acknowledged)} items, {files}"

    def compare(self) -> None:
        """Expect what was acknowledged to be there, and nothing else."""
        found = {}
        for item in self._client.list(collection="v", view="full"):
            version = int(str(item.metadata["version"]))
            vector, text = content(version)
            assert item.metadata["text"] == text, item.id
            assert item.vector is not None
            assert np.allclose(item.vector, vector / np.linalg.norm(vector), atol=1e-6), item.id
            found[item.id] = version
        assert found == self.acknowledged, sorted(
            set(found.items()) ^ set(self.acknowledged.items())
        )

    # ------------------------------------------------------------------ cycles

    def free_by_deleting(self) -> None:
        """The server's own limit is reached; deleting makes room inside the database."""
        self._disk.leave(KEPT_FREE + self._rng.randrange(KEPT_FREE))
        self.fill()
        self.compare()
        for _ in range(10):  # each takes room in the log for a moment, a page an item
            self.delete(AT_MOST // 20)
        self.resumes()
        self._disk.release()
        self.resumes()

    def free_by_others(self) -> None:
        """The server's own limit is reached, then others make room."""
        self._disk.leave(KEPT_FREE + self._rng.randrange(KEPT_FREE))
        self.fill()
        for _ in range(5):
            self.delete(5)
        self._disk.release()
        self.resumes()

    def nothing_left(self) -> None:
        """Others leave nothing at all, even of what was kept for deleting."""
        self._disk.leave(self._rng.choice([0, 0, 8192, 200_000]))
        for _ in range(10):
            self.put_some()
            try:
                self.delete(1)
            except DiskFull:
                self.refused += 1
        self.compare()
        self._disk.release()
        self.resumes()

    def restart_when_full(self) -> None:
        """Stopped or killed on a full disk, started again on the same."""
        self._disk.leave(KEPT_FREE + self._rng.randrange(KEPT_FREE))
        self.fill()
        self.stop(self._rng.choice([signal.SIGTERM, signal.SIGKILL]))
        self.start()
        self.restarts += 1
        self.compare()
        self.delete(5)
        self._disk.release()
        self.resumes()

    def run(self, cycles: int) -> None:
        try:
            self._run(cycles)
        finally:
            self._server.stop(grace_s=2.0)

    def _run(self, cycles: int) -> None:
        self.start()
        kinds: list[Callable[[], None]] = [
            self.free_by_deleting,
            self.nothing_left,
            self.free_by_others,
            self.restart_when_full,
        ]
        for cycle in range(cycles):
            kinds[cycle % len(kinds)]()
            self.compare()
            if len(self.acknowledged) > AT_MOST // 2:
                self.trim()
            if (self._data / "store.db").stat().st_size > LARGE:
                self.stop()
                shutil.rmtree(self._data)
                self.acknowledged.clear()
                self.start()
        self.stop()
        self.start()
        self.compare()
        self.stop()


def main() -> None:
    folder, cycles, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.environ["LOOKALIKE_DATA__MIN_FREE_BYTES"] = str(KEPT_FREE)
    os.environ["LOOKALIKE_ENGINE__OPTIONS"] = '{"delta_limit": 64}'
    proof = Proof(folder, seed)
    proof.run(cycles)
    print(
        f"seed {seed}: the disk was full {cycles} times, {proof.stored} items stored, "
        f"{proof.refused} refused, {proof.deleted} deleted, {proof.searches} searches right, "
        f"{proof.restarts} restarts; stored again {proof.slowest_s:.2f} s after room came at most"
    )


if __name__ == "__main__":
    main()
