"""How soon a server answers again: after a stop, after a kill, and without its indexes.

    python bench/recovery.py [--count 100000] [--dim 512] [--quick] [--json FILE] [--check]

Stores vectors on a server of its own, waits until they have an index, and starts it anew
in three ways: after SIGTERM; after SIGKILL in the middle of writing; and after SIGKILL
with the folder of the indexes removed. Each time the files are first dropped from the
page cache, as after a reboot, and it takes the seconds from the start of
the process until it is ready, and until a search has found what it must; then it follows
how many items have an index again, until all have. The time of the processor is that of
the server's process until it is ready: on a busy machine it says more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.client import Client, NewItem
from lookalike.client.errors import LookalikeError
from lookalike.client.local_server import LocalServer

NAME = "recovery"
BARS_S = {"clean": 5.0, "killed": 8.0, "no_index": 10.0}
CHECKED = 20
"""Items that must find themselves before a start counts as over."""
BATCH = 250
INDEX_PATIENCE_S = 3600.0


class Scene:
    """One data folder, and what is stored in it."""

    def __init__(self, folder: Path, dim: int, seed: int) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.dim = dim
        self.count = 0
        self.sample: dict[str, np.ndarray] = {}

    def server(self) -> LocalServer:
        return LocalServer(self.folder, "--log-level", "error", start_timeout_s=600.0)

    def fill(self, client: Client, count: int) -> None:
        """Store vectors that lie about 200 middles, as pictures do about their subjects."""
        middles = self.rng.standard_normal((200, self.dim), dtype=np.float32)
        client.create_collection(NAME, model="none", dimension=self.dim, exist_ok=True)
        for start in range(0, count, BATCH):
            noise = self.rng.standard_normal((min(BATCH, count - start), self.dim), np.float32)
            rows = middles[self.rng.integers(0, 200, len(noise))] + noise
            items = [NewItem(f"v-{start + i}", vector=row) for i, row in enumerate(rows)]
            client.upsert(items, collection=NAME)
            self.sample |= {item.id: row for item, row in zip(items, rows, strict=True)}
            if len(self.sample) > 2000:
                ids = self.rng.choice(sorted(self.sample), 200, replace=False)
                self.sample = {item_id: self.sample[item_id] for item_id in ids.tolist()}
            self.count += len(items)

    def write_on(self, address: str, stop: threading.Event) -> None:
        """Store more until the server is killed, which may keep the last batch or not."""
        with Client(address, timeout_s=30.0) as client:
            number = 0
            while not stop.is_set():
                rows = self.rng.standard_normal((50, self.dim), dtype=np.float32)
                items = [NewItem(f"more-{number + i}", vector=row) for i, row in enumerate(rows)]
                try:
                    client.upsert(items, collection=NAME)
                except LookalikeError:
                    return
                number += len(items)

    def answers(self, client: Client) -> bool:
        """Tell whether items find themselves."""
        ids = self.rng.choice(sorted(self.sample), CHECKED, replace=False).tolist()
        return all(
            client.search(vector=self.sample[i], k=1, view="id", collection=NAME)[0].id == i
            for i in ids
        )


def cpu_s(pid: int) -> float:
    """Return the seconds of processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forgotten(folder: Path) -> None:
    """Drop the files of a folder from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def started(scene: Scene, *, follow: bool = False) -> dict[str, Any]:
    """Start a server over the folder; return what that took. It is stopped again."""
    forgotten(scene.folder)
    server = scene.server()
    began = time.monotonic()
    server.start()
    ready = time.monotonic() - began
    used = cpu_s(server.pid)
    try:
        with Client(server.address, timeout_s=60.0) as client:
            right = scene.answers(client)
            answered = time.monotonic() - began
            shown = client.collection(NAME)
            figures = {
                "ready_s": round(ready, 2),
                "answered_s": round(answered, 2),
                "cpu_s": round(used, 2),
                "right": right,
                "items": shown.item_count,
                "state": str(shown.state),
                "indexed": shown.index_status.indexed_count if shown.index_status else 0,
            }
            if follow:
                figures |= followed(client, began)
    finally:
        server.stop()
    return figures


def followed(client: Client, began: float) -> dict[str, Any]:
    """Wait until all items have an index; return how that went on."""
    steps: list[tuple[float, int, str]] = []
    while time.monotonic() - began < INDEX_PATIENCE_S:
        shown = client.collection(NAME)
        status = shown.index_status
        assert status is not None
        step = (round(time.monotonic() - began, 1), status.indexed_count, str(shown.state))
        if not steps or step[1:] != steps[-1][1:]:
            steps.append(step)
        if not status.building and status.indexed_count:
            break
        time.sleep(0.25)
    return {"indexed_s": steps[-1][0], "steps": steps}


def built(client: Client) -> None:
    """Wait until nothing is built any more."""
    end = time.monotonic() + INDEX_PATIENCE_S
    while time.monotonic() < end:
        status = client.collection(NAME).index_status
        if status is not None and not status.building and status.indexed_count:
            return
        time.sleep(0.25)
    raise SystemExit("the index was not built in time")


def killed_while_writing(scene: Scene) -> None:
    server, stop = scene.server(), threading.Event()
    server.start()
    writer = threading.Thread(target=scene.write_on, args=(server.address, stop))
    writer.start()
    time.sleep(1.0)
    os.kill(server.pid, signal.SIGKILL)
    stop.set()
    writer.join()
    server.stop()


def run(folder: Path, count: int, dim: int, seed: int) -> dict[str, Any]:
    scene = Scene(folder, dim, seed)
    with scene.server() as server, Client(server.address, timeout_s=120.0) as client:
        began = time.monotonic()
        scene.fill(client, count)
        filled = time.monotonic() - began
        built(client)
        indexed = time.monotonic() - began
    figures: dict[str, Any] = {
        "count": count,
        "dim": dim,
        "seed": seed,
        "filled_s": round(filled, 1),
        "first_indexed_s": round(indexed, 1),
        "store_bytes": (folder / "store.db").stat().st_size,
        "clean": started(scene),
    }
    killed_while_writing(scene)
    figures["killed"] = started(scene)
    killed_while_writing(scene)
    shutil.rmtree(folder / "indexes")
    figures["no_index"] = started(scene, follow=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=0, help="vectors; 100,000 (quick: 20,000)")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    count = args.count or (20_000 if args.quick else 100_000)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        figures = run(Path(folder), count, args.dim, args.seed)
    print(f"{count:,} x {args.dim}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    missed = []
    for way, bar in BARS_S.items():
        one = figures[way]
        print(
            f"{way:>9}: ready after {one['ready_s']:.1f} s ({one['cpu_s']:.1f} s of processor), "
            f"answered after {one['answered_s']:.1f} s, {one['indexed']:,} of {one['items']:,} "
            "with an index"
        )
        if not one["right"]:
            missed.append(f"{way}: an item does not find itself")
        if one["answered_s"] > bar:
            missed.append(f"{way}: answered after {one['answered_s']:.1f} s > {bar:g}")
    print(f"without indexes, all had one again after {figures['no_index']['indexed_s']:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    for bar_missed in missed:
        print(f"MISSED: {bar_missed}", file=sys.stderr)
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
