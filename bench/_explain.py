"""Measure whether the regions that explain a match lie where they should.

A photograph is pasted, at 40 % of the area, on another; asked is why the collage
matches the photograph. The strongest region must overlap the planted one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _sight import Source
from numpy.typing import NDArray
from PIL import Image

from lookalike.server.agreement import agree
from lookalike.server.domain import Region
from lookalike.server.images import decode

SHARE = 0.4
"""Of the collage's area that the planted photograph covers."""
IOU_BAR, SHARE_BAR = 0.5, 0.8
_SIDE = 256


def overlap(one: Region, other: Region) -> float:
    """Return intersection over union of two regions."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    both = max(width, 0.0) * max(height, 0.0)
    return both / (one.width * one.height + other.width * other.height - both)


def collage(
    item: NDArray[np.uint8], ground: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], Region]:
    """Paste `item`, in its proportions, somewhere on `ground`; return where it is."""
    made = Image.fromarray(ground)
    shape = item.shape[1] / item.shape[0]
    area = SHARE * made.width * made.height
    width = min(round((area * shape) ** 0.5), made.width)
    height = min(round(area / width), made.height)
    left = int(rng.integers(0, made.width - width + 1))
    top = int(rng.integers(0, made.height - height + 1))
    small = Image.fromarray(item).resize((width, height), Image.Resampling.LANCZOS)
    made.paste(small, (left, top))
    place = Region(left / made.width, top / made.height, width / made.width, height / made.height)
    return np.asarray(made), place


def measure_explain(sources: Sequence[Source], sample: int, seed: int) -> dict[str, float]:
    """Return the share of collages whose strongest region lies on the planted one."""
    rng = np.random.default_rng(seed)
    overlaps, strengths, strangers, seconds = [], [], [], []
    for _ in range(sample):
        chosen = rng.choice(len(sources), 3, replace=False)
        item, ground, stranger = (
            decode(sources[i](), max_pixels=10**8, side=_SIDE).image for i in chosen
        )
        query, place = collage(item, ground, rng)
        started = time.perf_counter()
        found = agree(query, item).matches
        seconds.append(time.perf_counter() - started)
        overlaps.append(overlap(found[0].query_region, place) if found else 0.0)
        strengths.append(found[0].strength if found else 0.0)
        others = agree(query, stranger).matches
        strangers.append(others[0].strength if others else 0.0)
    return {
        "collages": sample,
        "seed": seed,
        "share_iou_above_half": float(np.mean(np.array(overlaps) > IOU_BAR)),
        "median_iou": float(np.median(overlaps)),
        "median_strength": float(np.median(strengths)),
        "median_strength_of_strangers": float(np.median(strangers)),
        "p95_strength_of_strangers": float(np.quantile(strangers, 0.95)),
        "median_ms": 1e3 * float(np.median(seconds)),
    }


if __name__ == "__main__":
    import argparse
    import json
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20240607)
    args = parser.parse_args()
    files: list[Source] = [p.read_bytes for p in sorted(args.photos.rglob("*.jpg"))]
    report = measure_explain(files, args.sample, args.seed)
    print(json.dumps(report, indent=2))
    sys.exit(report["share_iou_above_half"] < SHARE_BAR)
