"""Measure how well an embedder keeps kinds together and finds originals of copies.

    python bench/quality.py --photos DIR [--embedder builtin] [--copies] [--check]
    python bench/quality.py --vectors vectors.npz

DIR holds one folder per category. The file holds two arrays, `ids` ("category/name")
and `vectors`. Everything is seeded: the same pictures give the same figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from _copies import CHANGES, copies
from _scores import Kinds, category, kinds, nearest, unit
from _sight import EmbedderSight, Sight, Source, full
from PIL import Image

from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.registry import embedders
from lookalike.backends.types import Vectors
from lookalike.server.images import DECODER

BARS = {"kNN-1": 0.72, "mAP@10": 0.45, "copies": 0.95, "all at once": 0.60}
"""Of all photographs; "copies" is the mean over the kinds of copies but the hardest."""
HARDEST = "all at once"
SEED = 20240607
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}


def measure_copies(
    sights: dict[str, tuple[Sight, Vectors]], sources: Sequence[Source], sample: int, threads: int
) -> dict[str, dict[str, float]]:
    """Return recall@1 "overall" and of each change, for each sight, among all pictures."""
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.choice(len(sources), min(sample, len(sources)), replace=False))
    made: dict[str, list[Source]] = {name: [] for name in CHANGES}
    for row in rows:
        picture = Image.fromarray(full(sources[row]()).image)
        for name, data in copies(picture, rng):
            made[name].append(partial(bytes, data))
    found = {}
    for name, (sight, vectors) in sights.items():
        recall = {
            change: float(np.mean(nearest(sight.see(files, threads), vectors, 1)[:, 0] == rows))
            for change, files in made.items()
        }
        overall = float(np.mean([share for change, share in recall.items() if change != HARDEST]))
        found[name] = {"overall": overall, **recall}
    return found


def measure_photos(args: argparse.Namespace) -> dict[str, object]:
    """Embed a folder in process and measure; return the report."""
    paths = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in ENDINGS)
    if not paths:
        sys.exit(f"There are no pictures in {args.photos}.")
    sources: list[Source] = [path.read_bytes for path in paths]
    categories = [category(path.relative_to(args.photos).as_posix()) for path in paths]
    options = EmbedderOptions(model=args.model, device=args.device)
    embedder = embedders.resolve(args.embedder).open(options)
    seen: dict[str, tuple[Sight, Vectors]] = {}
    seconds = {}
    for sight in (EmbedderSight(args.embedder, embedder), Sight()):
        started = time.perf_counter()
        seen[sight.name] = (sight, sight.see(sources, args.threads))
        seconds[sight.name] = time.perf_counter() - started
    report: dict[str, object] = {
        "pictures": len(paths),
        "embedder": args.embedder,
        "space": f"{embedder.space}+{DECODER}",
        "dim": embedder.dim,
        "pictures_per_s": len(paths) / seconds[args.embedder],
        "threads": args.threads,
        "seed": SEED,
        "kinds": {name: kinds(vectors, categories) for name, (_, vectors) in seen.items()},
    }
    if args.copies or args.check:
        sample = 60 if args.quick else args.sample
        report["sample"] = min(sample, len(paths))
        report["copies"] = measure_copies(seen, sources, sample, args.threads)
    embedder.close()
    return report


def measure_vectors(path: Path) -> dict[str, object]:
    """Measure vectors that were made elsewhere."""
    with np.load(path, allow_pickle=False) as file:
        ids, vectors = [str(item) for item in file["ids"]], unit(file["vectors"])
    found = kinds(vectors, [category(item) for item in ids])
    return {"pictures": len(ids), "dim": vectors.shape[1], "kinds": {"vectors": found}}


def print_report(report: dict[str, object]) -> None:
    facts = {k: v for k, v in report.items() if k not in ("kinds", "copies")}
    print(
        "  ".join(f"{k}={v:.0f}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())
    )
    every = report["kinds"]
    assert isinstance(every, dict)
    for name, found in every.items():
        print(f"\n{name:14s} {'queries':>7s}   {'kNN-1 [95 %]':22s} mAP@10 [95 %]")
        for part, figures in found.items():
            print(f"{part:14s} {figures.queries:7d}   {figures.knn1!s:22s} {figures.map10}")
    recalls = report.get("copies")
    if isinstance(recalls, dict):
        print(f"\n{'copies @1':14s}" + "".join(f"{name:>16s}" for name in recalls))
        for change in next(iter(recalls.values())):
            print(f"{change:14s}" + "".join(f"{of[change]:16.3f}" for of in recalls.values()))


def shortfalls(report: dict[str, object]) -> list[str]:
    """Name each bar that the first way of seeing does not reach."""
    every, recalls = report["kinds"], report.get("copies")
    assert isinstance(every, dict)
    whole: Kinds = next(iter(every.values()))["all"]
    reached = {"kNN-1": whole.knn1.value, "mAP@10": whole.map10.value}
    if isinstance(recalls, dict):
        ours = next(iter(recalls.values()))
        reached |= {"copies": ours["overall"], HARDEST: ours[HARDEST]}
    return [
        f"{name}: {value:.4f} is below {BARS[name]}"
        for name, value in reached.items()
        if value < BARS[name]
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Quality of an embedder.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--photos", type=Path, help="folder of pictures, one folder per category")
    what.add_argument("--vectors", type=Path, help=".npz with arrays ids and vectors")
    parser.add_argument("--embedder", default="builtin", help="name in the registry")
    parser.add_argument("--model", default="", help="checkpoint folder, for embedders with one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2, help="that decode and prepare")
    parser.add_argument("--copies", action="store_true", help="altered copies of some pictures too")
    parser.add_argument("--sample", type=int, default=300, help="how many originals are copied")
    parser.add_argument("--quick", action="store_true", help="copy 60 originals only")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is not reached")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    report = measure_vectors(args.vectors) if args.vectors else measure_photos(args)
    print_report(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, default=asdict) + "\n")
    short = shortfalls(report) if args.check else []
    for line in short:
        print(f"FALLS SHORT {line}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
