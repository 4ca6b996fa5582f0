"""Measure what answers are worth: false-match rates, tiers, duplicates, regions.

    python bench/results.py --photos DIR [--only tiers] [--quick] [--json FILE] [--check]

DIR holds one folder per category. Everything goes over the wire to a server of its own.
Seeded: the same pictures give the same figures. Intervals are 95 %.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from _copies import CHANGES as EVERY_CHANGE
from _explain import IOU_BAR, collage, overlap
from _scores import Figure, category
from numpy.typing import NDArray
from PIL import Image

from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer

SEED = 20240607
ASKED_RATE = 0.01
PROMISED = ("jpeg q10", "25 % size", "crop to 80 %", "grayscale", "text over it")
"""The changes that a copy must survive to be called the same picture."""
ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}

Report = dict[str, Any]
Pair = frozenset[str]
Photos = dict[str, Path]
"""Files by id, "category/name"."""


_BEYOND = ("crop to 50 %", "mirrored", "border", "all at once")
"""Copies that the comparison of pictures, which knows no mirror, does not promise to see."""
CHANGES = {name: change for name, change in EVERY_CHANGE.items() if name not in _BEYOND}


def measure_rates(client: Client, photos: Photos, quick: bool) -> Report:
    """Ask for 1 % with pictures that the calibration did not see."""
    rng = np.random.default_rng(SEED)
    ids = rng.permutation(sorted(photos)).tolist()
    seen, unseen = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    fill(client, "seen", ((i, photos[i].read_bytes()) for i in seen))
    kinds = [category(i) for i in seen]
    shares, other_shares = [], []
    for query in unseen[: 100 if quick else None]:
        hits = client.search(
            image=photos[query],
            k=min(1000, len(seen)),
            max_false_match_rate=ASKED_RATE,
            view="id",
            collection="seen",
        )
        other = sum(category(hit.id) != category(query) for hit in hits)
        shares.append(len(hits) / len(seen))
        other_shares.append(other / sum(kind != category(query) for kind in kinds))
    return {
        "queries": len(shares),
        "items": len(seen),
        "asked": ASKED_RATE,
        "measured": figure(shares),
        "measured, other categories only": figure(other_shares),
    }


def measure_tiers(client: Client, photos: Photos, quick: bool) -> Report:
    """Search with altered copies, and with pictures that have none, and look at the tiers."""
    fill(client, "all", ((i, path.read_bytes()) for i, path in photos.items()))
    rng = np.random.default_rng(SEED)
    ids = sorted(photos)
    chosen = rng.choice(ids, min(60 if quick else 300, len(ids)), replace=False).tolist()
    same: dict[str, list[float]] = {name: [] for name in CHANGES}
    wrong: dict[tuple[str, str], bool] = {}
    spent = []
    for original in chosen:
        for name in CHANGES:
            hits = client.search(
                image=altered(photos[original], name, rng), k=20, judge=True, collection="all"
            )
            tiers = {hit.id: hit.tier for hit in hits}
            same[name].append(float(tiers.get(original) == "same_picture"))
        hits = client.search(image=photos[original], k=20, judge=True, collection="all")
        spent.append(hits.info.rank_ms)
        for hit in hits:
            if hit.id != original and category(hit.id) == category(original):
                wrong[original, hit.id] = hit.tier == "same_picture"
    promised = [value for name in PROMISED for value in same[name]]
    return {
        "originals": len(chosen),
        "copies called the same": figure(promised),
        "by change": {name: float(np.mean(values)) for name, values in same.items()},
        "others of a category among 20 hits": len(wrong),
        "others called the same": figure([float(value) for value in wrong.values()]),
        "which": [f"{a} = {b}" for (a, b), value in wrong.items() if value],
        "ms to judge 20 hits": statistics.median(spent),
    }


def measure_duplicates(client: Client, photos: Photos, quick: bool) -> Report:
    """Plant altered copies among all pictures and look for duplicates.

    Real folders have duplicates of their own. They are what is found before anything is
    planted; they are listed, to be looked at, and a copy may join those of its original.
    """
    rng = np.random.default_rng(SEED + 1)
    ids = sorted(photos)
    if quick:
        ids = rng.choice(ids, min(600, len(ids)), replace=False).tolist()
    planted = rng.choice(ids, min(100 if quick else 500, len(ids)), replace=False).tolist()
    change_of = {original: PROMISED[i % len(PROMISED)] for i, original in enumerate(planted)}
    fill(client, "planted", ((i, photos[i].read_bytes()) for i in ids))
    own, _ = found_pairs(client, "planted")
    copies = ((f"{i}#copy", altered(photos[i], change_of[i], rng)) for i in planted)
    fill(client, "planted", copies)
    found, seconds = found_pairs(client, "planted")

    def is_right(pair: Pair) -> bool:
        originals = {name.removesuffix("#copy") for name in pair}
        return len(originals) == 1 or frozenset(originals) in own

    missed = [i for i in planted if frozenset((i, f"{i}#copy")) not in found]
    return {
        "items": len(ids) + len(planted),
        "planted": len(planted),
        "pairs": len(found),
        "precision": figure([float(is_right(pair)) for pair in found]),
        "recall": figure([float(i not in missed) for i in planted]),
        "missed": [f"{i}: {change_of[i]}" for i in sorted(missed)],
        "wrong": lines(pair for pair in found if not is_right(pair)),
        "found before planting": lines(own),
        "seconds": seconds,
    }


def measure_regions(client: Client, photos: Photos, quick: bool) -> Report:
    """Search with a box on collages, and ask where the hit agrees with the collage."""
    fill(client, "all", ((i, path.read_bytes()) for i, path in photos.items()))
    rng = np.random.default_rng(SEED + 2)
    ids = sorted(photos)
    first, first_whole, overlaps = [], [], []
    for _ in range(60 if quick else 200):
        planted, ground = rng.choice(ids, 2, replace=False).tolist()
        made, place = collage(pixels(photos[planted]), pixels(photos[ground]), rng)
        box = (place.left, place.top, place.width, place.height)
        with_box = client.search(image=made, region=box, k=1, collection="all")
        first.append(float(with_box[0].id == planted))
        whole = client.search(image=made, k=1, collection="all")
        first_whole.append(float(whole[0].id == planted))
        matches = client.explain(planted, image=made, collection="all").matches
        overlaps.append(overlap(matches[0].query_region, place) if matches else 0.0)
    return {
        "original first with the box": figure(first),
        "original first without": figure(first_whole),
        "why box on the planted region": figure([float(o > IOU_BAR) for o in overlaps]),
        "median overlap": statistics.median(overlaps),
    }


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def found_pairs(client: Client, collection: str) -> tuple[set[Pair], float]:
    """Return all pairs of items in one group, and how long it took to find them."""
    started = time.perf_counter()
    groups = list(client.find_duplicates(collection=collection))
    seconds = time.perf_counter() - started
    members = [sorted(member.id for member in group.members) for group in groups]
    return {frozenset(pair) for group in members for pair in combinations(group, 2)}, seconds


def lines(pairs: Iterable[Pair]) -> list[str]:
    return sorted(" = ".join(sorted(pair)) for pair in pairs)


MEASURES: dict[str, Callable[[Client, Photos, bool], Report]] = {
    "rates": measure_rates,
    "tiers": measure_tiers,
    "duplicates": measure_duplicates,
    "regions": measure_regions,
}
"""What is measured, by name."""


def shortfalls(report: dict[str, Report]) -> list[str]:
    """Name each bar that is not reached."""
    bars = [
        ("rates", "measured", "at most", 0.015),
        ("tiers", "copies called the same", "at least", 0.95),
        ("tiers", "others called the same", "at most", 0.01),
        ("duplicates", "precision", "at least", 0.99),
        ("duplicates", "recall", "at least", 0.97),
        ("duplicates", "seconds", "at most", 30.0),
        ("regions", "original first with the box", "at least", 0.95),
        ("regions", "why box on the planted region", "at least", 0.80),
    ]
    short = []
    for part, name, side, bar in bars:
        if part not in report:
            continue
        found = report[part][name]
        value = float(found["value"] if isinstance(found, dict) else found)
        if value > bar if side == "at most" else value < bar:
            short.append(f"{part}: {name} is {value:.4f}, wanted {side} {bar}")
    return short


def fill(client: Client, collection: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Store pictures in a collection of their own."""
    client.create_collection(collection, exist_ok=True)
    report = client.upload((NewItem(id=i, image=data) for i, data in files), collection=collection)
    if report.failed:
        sys.exit(f"{report.failed} pictures could not be stored.")


def altered(path: Path, change: str, rng: np.random.Generator) -> bytes:
    """Return an altered copy as a JPEG file."""
    with Image.open(path) as opened:
        copy = CHANGES[change](opened.convert("RGB"), rng)
    out = io.BytesIO()
    copy.save(out, "JPEG", quality=10 if change == "jpeg q10" else 90)
    return out.getvalue()


def figure(samples: Sequence[float]) -> Report:
    """Return a mean with its bootstrap interval."""
    if not samples:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "samples": 0}
    found = Figure.of(np.asarray(samples, np.float64))
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "samples": len(samples),
    }


def print_part(name: str, part: Report) -> None:
    print(f"{name}")
    for key, value in part.items():
        match value:
            case {"value": float(mean), "low": float(low), "high": float(high)}:
                text = f"{mean:.4f} [{low:.4f}, {high:.4f}] of {value['samples']}"
            case dict():
                text = ", ".join(f"{k} {v:.3f}" for k, v in value.items())
            case list():
                text = f"{len(value)}" + "".join(f"\n      {line}" for line in value[:20])
            case float():
                text = f"{value:.2f}"
            case _:
                text = str(value)
        print(f"  {key}: {text}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What answers are worth.")
    parser.add_argument("--photos", type=Path, required=True, help="one folder per category")
    parser.add_argument("--only", choices=sorted(MEASURES), action="append", help="not all")
    parser.add_argument("--quick", action="store_true", help="fewer queries and copies")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is not reached")
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    found = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in ENDINGS)
    if not found:
        sys.exit(f"There are no pictures in {args.photos}.")
    photos = {path.relative_to(args.photos).as_posix(): path for path in found}
    report: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as data:
        with LocalServer(Path(data)) as server, Client(server.address) as client:
            client.wait_ready()
            for name, measure in MEASURES.items():
                if not args.only or name in args.only:
                    report[name] = measure(client, photos, args.quick)
                    print_part(name, report[name])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    short = shortfalls(report)
    for line in short:
        print(f"FALLS SHORT {line}", file=sys.stderr)
    return 1 if args.check and short else 0


if __name__ == "__main__":
    sys.exit(main())
