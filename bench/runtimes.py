"""What each runtime and precision of the `clip` embedder costs, and what the embedder adds.

    .venv/bin/python bench/runtimes.py [--model FOLDER] [--cache FOLDER] [--quick] [--json FILE]

One process, one thread of calls, ready tensors, interleaved rounds. Pictures a second are by
the wall clock; CPU milliseconds a picture are of the whole process and hold on a busy machine,
too. "share": the runtime's own CPU time for a batch over the embedder's for the same one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _vit import make

from lookalike.backends import registry
from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.embed.drawn import drawn
from lookalike.backends.errors import BackendUnavailable

WAYS = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
LEAST_SHARE = 0.9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a checkpoint; else one of ViT-B/32's size")
    parser.add_argument("--cache", type=Path, help="where conversions are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--quick", action="store_true", help="two rounds, batches of 1 and 8")
    parser.add_argument("--check", action="store_true", help="fail if a share is below 0.9")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rounds, batches = (2, [1, 8]) if args.quick else (args.rounds, args.batches)
    with tempfile.TemporaryDirectory() as scratch:
        model = args.model or make(Path(scratch) / "model")
        cache = args.cache or Path(scratch) / "cache"
        opened = {way: one for way in WAYS if (one := _open(model, cache, *way)) is not None}
        rows = _measured(opened, batches, rounds)
    for row in rows:
        print(
            f"{row['runtime']:9}{row['precision']:5} batch {row['batch']:3}"
            f"{row['pictures_per_s']:8.1f} pictures/s{row['cpu_ms']:8.1f} CPU ms"
            f"   share {row['share']:.3f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    low = [row for row in rows if row["batch"] >= 8 and row["share"] < LEAST_SHARE]
    return 1 if args.check and low else 0


def _open(model: Path, cache: Path, runtime: str, precision: str) -> Any:
    extra = {"runtime": runtime, "precision": precision, "force_precision": True}
    options = EmbedderOptions(str(model), "cpu", 0, extra, cache=cache)
    try:
        return registry.embedders.resolve("clip").open(options)
    except BackendUnavailable as error:
        print(f"left out: {runtime} {precision}: {error.message}")
        return None


def _measured(opened: dict[Any, Any], batches: list[int], rounds: int) -> list[dict[str, Any]]:
    cases: dict[tuple[Any, int, str], Callable[[], Any]] = {}
    for way, embedder in opened.items():
        prepared = [embedder.prepare(picture) for picture in drawn(max(batches))]
        for batch in batches:
            ready = np.stack(prepared[:batch])
            runtime = embedder._runtime
            cases[way, batch, "own"] = lambda r=runtime, x=ready: r.images(x)
            some = prepared[:batch]
            cases[way, batch, "ours"] = lambda e=embedder, x=some: e.embed_prepared(x)
    wall: dict[Any, list[float]] = {case: [] for case in cases}
    cpu: dict[Any, list[float]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        for case, run in cases.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            if number:  # the first one warms up
                wall[case].append(time.perf_counter() - start)
                cpu[case].append(time.process_time() - used)
    rows = []
    for way in opened:
        for batch in batches:
            ours, own = (way, batch, "ours"), (way, batch, "own")
            rows.append(
                {
                    "runtime": way[0],
                    "precision": way[1],
                    "batch": batch,
                    "pictures_per_s": batch / statistics.median(wall[ours]),
                    "cpu_ms": statistics.median(cpu[ours]) / batch * 1e3,
                    "share": statistics.median(cpu[own]) / statistics.median(cpu[ours]),
                }
            )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
