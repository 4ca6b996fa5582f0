"""What is sent a second time, and the built-in embedder's part of the embedding bench."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _photographs
from _embed_ours import serving

from lookalike.client import NewItem

_SIDES = (512, 384)
"""Of the made-up photographs that are sent again, px."""
_DISTINCT = 64
"""Made of so many pictures; each file has a hash of its own."""


def measure_again(photos: Path | None, count: int) -> dict[str, float]:
    """Upload files, then the same files; return images/s of both and the model's inputs."""
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as place:
        files = _files_of(photos, count) if photos else _made(Path(place), count)
        items = [NewItem(id=str(i), image=path) for i, path in enumerate(files)]
        with serving(None, {}) as ours:
            began = time.perf_counter()
            ours.client.upload(items)
            first = len(items) / (time.perf_counter() - began)
            before, rates = ours.embedded(), []
            for _ in range(3):
                began, cpu, own = time.perf_counter(), ours.cpu_s(), time.process_time()
                report = ours.client.upload(items)
                rates.append(len(items) / (time.perf_counter() - began))
                server_s, client_s = ours.cpu_s() - cpu, time.process_time() - own
                assert report.unchanged == len(items), report
            began = time.perf_counter()
            ours.client.create_collection("other")
            report = ours.client.upload(items, collection="other")
            elsewhere = len(items) / (time.perf_counter() - began)
            assert report.created == len(items), report
            embedded = ours.embedded() - before
    found = {
        "files": len(items),
        "first_images_per_s": first,
        "again_images_per_s": statistics.median(rates),
        "again_server_cpu_ms": server_s / len(items) * 1e3,
        "again_client_cpu_ms": client_s / len(items) * 1e3,
        "elsewhere_images_per_s": elsewhere,
        "embedded_again": embedded,
    }
    print(
        f"  {len(items)} files: {first:.0f} images/s, unchanged "
        f"{found['again_images_per_s']:.0f} images/s ({found['again_server_cpu_ms']:.2f} + "
        f"{found['again_client_cpu_ms']:.2f} ms of processor in server and client), into another "
        f"collection {elsewhere:.0f} images/s; {embedded:.0f} embedded again"
    )
    return found


def measure_builtin(files: Mapping[str, Sequence[Path]], seconds: float) -> dict[str, Any]:
    """Return rates of the built-in embedder over the wire, and where one picture's time goes."""
    import numpy as np

    from lookalike.backends import registry
    from lookalike.backends.embed.base import EmbedderOptions
    from lookalike.server.images import decode, thumbnail

    embedder = registry.embedders.resolve("builtin").open(EmbedderOptions())
    found: dict[str, Any] = {}
    for size, paths in files.items():
        data = [path.read_bytes() for path in paths]
        with serving(None, {}) as ours:
            ours.upload(data, 1.0)
            rates = ours.upload(data, seconds)
        steps: dict[str, list[float]] = {"decode": [], "prepare": [], "thumbnail": []}
        for file in data:
            marks = [time.thread_time()]
            picture = decode(file, max_pixels=10**8, side=embedder.decode_side).image
            marks.append(time.thread_time())
            embedder.prepare(picture)
            marks.append(time.thread_time())
            thumbnail(picture)
            marks.append(time.thread_time())
            for step, spent in zip(steps.values(), np.diff(marks), strict=True):
                step.append(float(spent) * 1e3)
        found[size] = {**rates, "steps_ms": {k: statistics.median(v) for k, v in steps.items()}}
        told = ", ".join(f"{k} {v:.2f}" for k, v in found[size]["steps_ms"].items())
        print(
            f"  builtin {size}: {rates['images'] / rates['seconds']:.0f} images/s, "
            f"{rates['cpu_s'] / rates['images'] * 1e3:.2f} ms of processor each; alone: {told} ms"
        )
    return found


def _files_of(photos: Path, count: int) -> list[Path]:
    endings = (".jpg", ".jpeg", ".png")
    return sorted(p for p in photos.rglob("*") if p.suffix.lower() in endings)[:count]


def _made(folder: Path, count: int) -> list[Path]:
    pictures = [_photographs.make(*_SIDES, seed) for seed in range(_DISTINCT)]
    paths = [folder / f"{i}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(_photographs.numbered(pictures[i % _DISTINCT], i))
    return paths
