"""python -m training run --data DIR --teacher DIR --out DIR: all of it, in one command.

Every step goes on where it was stopped, so the same command resumes after a kill.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.data import Pictures, open_pictures, split

if TYPE_CHECKING:
    from training.feed import Views
    from training.train import Recipe, Training

_WHAT = {
    "prepare": "decode the pictures into one array",
    "views": "ask the teachers about views of every picture",
    "train": "train, or go on training",
    "export": "write the averaged student as ONNX, and check it",
    "run": "all of these, in this order",
    "evaluate": "measure the exported student on --photos, for the report",
}


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "what", choices=_WHAT, help="; ".join(f"{k}: {v}" for k, v in _WHAT.items())
    )
    parser.add_argument("--data", type=Path, help="index.tsv, tars, targets.npy")
    parser.add_argument("--teacher", type=Path, help="the teachers' folder")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, curve, export")
    parser.add_argument("--cache", type=Path, help="decoded pictures and views; default OUT/cache")
    parser.add_argument("--shape", help="name of the student's shape")
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument(
        "--sides", help="SIDE, or SHARE:SIDE,... of the run; the last is the final one"
    )
    parser.add_argument("--seed", type=int)
    parser.add_argument("--views", type=int, default=3, help="views a picture, beside the whole")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"))
    parser.add_argument("--hold-sources", default="trashnet", help="never taught, comma-separated")
    parser.add_argument("--hold-every", type=int, default=8, help="and each n-th class of the rest")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=1, help="threads that train; one more feeds")
    parser.add_argument("--save-s", type=float, default=180, help="seconds between checkpoints")
    parser.add_argument("--look-s", type=float, default=420, help="seconds between validations")
    parser.add_argument("--photos", type=Path, help="evaluate: a folder for each category")
    parser.add_argument("--sample", type=int, default=100, help="evaluate: originals to copy")
    parser.add_argument("--stored", default="mixed", help="export: mixed, int8, float16, float32")
    return parser.parse_args(arguments)


def recipe_of(args: argparse.Namespace) -> Recipe:
    from training.train import Recipe

    given = {k: getattr(args, k) for k in ("shape", "epochs", "batch", "lr", "seed")}
    recipe = replace(Recipe(), **{k: v for k, v in given.items() if v is not None})
    if args.sides:
        pairs = [part.rpartition(":") for part in args.sides.split(",")]
        sides = tuple((float(share or 0), int(side)) for share, _, side in pairs)
        recipe = replace(recipe, sides=sides, final_side=sides[-1][1])
    return recipe


def make_views(args: argparse.Namespace, pictures: Pictures) -> None:
    if args.views <= 0 or args.teacher is None:
        return
    from training.teachers import Projection, TeacherPool
    from training.views import finished_views, make_view

    if len([v for v in finished_views(args.cache) if v <= args.views]) >= args.views:
        return
    pool = TeacherPool(args.teacher, Projection.load(args.data), args.workers)
    for view in range(1, args.views + 1):
        make_view(pictures.pixels, args.cache, view, pool.see, say)


def open_training(args: argparse.Namespace, pictures: Pictures) -> Training:
    import torch

    from training.feed import Views
    from training.losses import scaled
    from training.teachers import Projection
    from training.train import Training

    torch.set_num_threads(1)
    if pictures.targets is None:
        sys.exit("The data folder has no targets.npy.")
    variance = torch.from_numpy(Projection.load(args.data).variance)
    views: Views = Views(
        pictures.targets, args.cache, lambda t: scaled(torch.from_numpy(t), variance)
    )
    views.look()
    parts = split(pictures, tuple(args.hold_sources.split(",")), args.hold_every)
    recipe = recipe_of(args)
    return Training(recipe, pictures, parts, views, args.out, say, args.device, args.workers)


def export_student(args: argparse.Namespace, pictures: Pictures) -> bool:
    """Write OUT/student.onnx and its card; return False where the file strays."""
    from training import checkpoint
    from training.export import compare, export
    from training.students import build, weights

    source = args.out / "last.safetensors"
    facts = checkpoint.facts_of(source)
    student = build(facts["recipe"]["shape"], facts["width"])
    checkpoint.load_average(source, student)
    side, path = facts["recipe"]["final_side"], args.out / "student.onnx"
    size = export(student, side, path, args.stored)
    rows = np.linspace(0, len(pictures) - 1, 64).astype(int)
    lowest = compare(path, student, shrunk(pictures, rows, side))
    card = {
        "side": side,
        "bytes": size,
        "stored": args.stored,
        "weights": weights(student),
        "lowest_cosine": round(lowest, 6),
        "steps": facts["number"],
        "minutes": round(facts["seconds"] / 60, 1),
        "recipe": facts["recipe"],
    }
    (args.out / "student.json").write_text(json.dumps(card, indent=1) + "\n")
    say(f"{path.name}: {size / 1e6:.2f} MB, lowest cosine to the student's vectors {lowest:.5f}")
    return lowest >= 0.999


def shrunk(pictures: Pictures, rows: Sequence[int] | np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    from training.data import squash

    return np.stack([squash(Image.fromarray(pictures.pixels[row]), side) for row in rows])


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    args.cache = args.cache or args.out / "cache"
    if args.what == "evaluate":
        from training.evaluate import report

        report(args.out / "student.onnx", args.photos, args.sample, say)
        return 0
    pictures = open_pictures(args.data, args.cache)
    if args.what in ("views", "run"):
        make_views(args, pictures)
    if args.what in ("train", "run"):
        training = open_training(args, pictures)
        training.run(args.budget_minutes * 60, args.save_s, args.look_s)
    if args.what in ("export", "run"):
        return 0 if export_student(args, pictures) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
