"""How fast pictures come in: over the wire to durable, beside the loop of a tutorial.

    python bench/ingest.py --photos DIR [--rounds 3] [--quick] [--json FILE] [--check]

Rounds are interleaved. The tutorial's loop reads one file after the other with Pillow,
embeds it with the same built-in embedder and keeps the vectors in a list: no wire, no
checks, no disk. Also asks 20 random pictures for themselves.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.backends import registry
from lookalike.backends.embed.base import EmbedderOptions
from lookalike.client import Client
from lookalike.client.local_server import LocalServer

BAR_IMAGES_PER_S = 150.0
BAR_SELF_SCORE = 0.999
SELF_SEARCHES = 20


def files_of(folder: Path, quick: bool) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return files[:500] if quick else files


def over_the_wire(files: list[Path], folder: Path) -> dict[str, float]:
    """Upload to a fresh server; return images/s, counts and how many find themselves."""
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as data:
        with LocalServer(Path(data)) as server, Client(server.address) as client:
            client.wait_ready()
            started = time.perf_counter()
            report = client.upload(
                (_item(path, folder) for path in files), metadata=lambda item: None
            )
            seconds = time.perf_counter() - started
            stored = client.count()
            chosen = random.Random(1).sample(files, min(SELF_SEARCHES, len(files)))
            found = 0
            for path in chosen:
                hit = client.search(image=path, k=1)[0]
                wanted = path.relative_to(folder).as_posix()
                found += hit.id == wanted and hit.score >= BAR_SELF_SCORE
    return {
        "images_per_s": len(files) / seconds,
        "stored": stored,
        "failed": report.failed,
        "lost": len(files) - report.failed - stored,
        "self_first": found,
        "self_asked": len(chosen),
    }


def _item(path: Path, folder: Path) -> object:
    from lookalike.client import NewItem

    return NewItem(id=path.relative_to(folder).as_posix(), image=path)


def tutorial(files: list[Path]) -> dict[str, float]:
    """Embed one file after the other in this process."""
    embedder = registry.embedders.resolve("builtin").open(EmbedderOptions())
    vectors = []
    started = time.perf_counter()
    for path in files:
        picture = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
        vectors.append(embedder.embed_images([picture])[0])
    seconds = time.perf_counter() - started
    return {"images_per_s": len(files) / seconds}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="500 pictures, under 3 minutes")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 if a bar is missed")
    args = parser.parse_args()
    files = files_of(args.photos, args.quick)
    rounds = []
    for i in range(args.rounds):
        ours, loop = over_the_wire(files, args.photos), tutorial(files)
        rounds.append({"ours": ours, "tutorial": loop})
        print(
            f"round {i + 1}: ours {ours['images_per_s']:.0f} images/s to durable and findable, "
            f"tutorial {loop['images_per_s']:.0f} images/s; {ours['stored']:.0f} stored, "
            f"{ours['lost']:.0f} lost, {ours['self_first']:.0f}/{ours['self_asked']:.0f} "
            "find themselves"
        )
    rates = [r["ours"]["images_per_s"] for r in rounds]
    ratios = [r["ours"]["images_per_s"] / r["tutorial"]["images_per_s"] for r in rounds]
    print(
        f"{len(files)} pictures, {os.cpu_count()} cores: {statistics.median(rates):.0f} images/s "
        f"[{min(rates):.0f}-{max(rates):.0f}], {statistics.median(ratios):.2f}x the tutorial's "
        f"loop [{min(ratios):.2f}-{max(ratios):.2f}]"
    )
    if args.json:
        args.json.write_text(json.dumps({"pictures": len(files), "rounds": rounds}, indent=1))
    missed = []
    if statistics.median(rates) < BAR_IMAGES_PER_S:
        missed.append(f"images/s {statistics.median(rates):.0f} < {BAR_IMAGES_PER_S:.0f}")
    if any(r["ours"]["lost"] for r in rounds):
        missed.append("pictures were lost")
    if any(r["ours"]["self_first"] < r["ours"]["self_asked"] for r in rounds):
        missed.append(f"not every picture finds itself first with {BAR_SELF_SCORE}")
    for bar in missed:
        print(f"MISSED: {bar}", file=sys.stderr)
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
