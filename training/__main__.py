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

from training.data import Pictures, Split, open_pictures, split

if TYPE_CHECKING:
    from training.feed import Views
    from training.train import Recipe, Training

_WHAT = {
    "prepare": "decode the pictures into one array",
    "views": "ask the teachers about views of every picture",
    "train": "train, or go on training",
    "export": "write the averaged student as ONNX, and check it",
    "join": "set the form beside it, and write what the embedder runs",
    "run": "all of these, in this order",
    "evaluate": "measure the exported student on --photos, for the report",
}


_FITTED = 6000
"""Pictures that the projection of the form is fitted to."""
_TRIED = 256
"""Held-out pictures that the shipped file is calibrated and compared with."""


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
    parser.add_argument("--form-width", type=int, default=128, help="join: numbers of the form")
    parser.add_argument("--stored", default="float16", help="export: float16 or float32")
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
    parts = open_split(args, pictures)
    recipe = recipe_of(args)
    return Training(recipe, pictures, parts, views, args.out, say, args.device, args.workers)


def open_split(args: argparse.Namespace, pictures: Pictures) -> Split:
    return split(pictures, tuple(args.hold_sources.split(",")), args.hold_every)


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


def join_student(args: argparse.Namespace, pictures: Pictures) -> bool:
    """Write OUT/builtin.onnx and what it is made of; False where the file strays."""
    from training import checkpoint
    from training.export import export
    from training.join import best_joint, forms_of, squares_of
    from training.measure import kinds
    from training.quantize import LEAST, quantize
    from training.students import build

    source, path = args.out / "last.safetensors", args.out / "builtin.onnx"
    facts = checkpoint.facts_of(source)
    student = build(facts["recipe"]["shape"], facts["width"])
    checkpoint.load_average(source, student)
    side, parts = facts["recipe"]["final_side"], open_split(args, pictures)
    few = np.random.default_rng(facts["recipe"]["seed"]).choice(
        parts.train, min(_FITTED, len(parts.train)), replace=False
    )
    teaching = forms_of(pictures.pixels, np.sort(few), args.cache)
    forms = forms_of(pictures.pixels, parts.held, args.cache)
    squares = squares_of(pictures.pixels, parts.held, side)
    alone = run_file(args.out / "student.onnx", image=squares)
    classes = [pictures.classes[row] for row in parts.held]
    joint = best_joint(teaching, args.form_width, alone, forms, classes, say)
    whole = args.out / "builtin-float32.onnx"
    export(student, side, whole, "float32", joint)
    tried = np.linspace(0, len(forms) - 1, min(_TRIED, len(forms))).astype(int)
    lowest, kept = quantize(whole, path, {"image": squares[tried], "form": forms[tried]}, run_file)
    knn1, map10 = kinds(run_file(path, image=squares, form=forms), classes)
    say(f"as it is shipped: held-out kinds kNN-1 {knn1:.4f} mAP@10 {map10:.4f}")
    size, width = path.stat().st_size, joint.matrix.shape[1] + facts["width"]
    card = json.loads((args.out / "student.json").read_text())
    card |= {"bytes": size, "share_of_form": joint.share, "form_width": args.form_width}
    card |= {"numbers": width, "lowest_cosine": round(lowest, 6), "float32_convolutions": kept}
    card |= {"held_out": {"kNN-1": round(knn1, 4), "mAP@10": round(map10, 4)}}
    (args.out / "builtin.json").write_text(json.dumps(card, indent=1) + "\n")
    say(f"{path.name}: {size / 1e6:.2f} MB, lowest cosine to float32 {lowest:.5f}")
    return lowest >= LEAST


def run_file(path: Path, **inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    count = len(next(iter(inputs.values())))
    batches = [
        session.run(None, {name: given[i : i + 64] for name, given in inputs.items()})[0]
        for i in range(0, count, 64)
    ]
    return np.concatenate(batches)


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
    good = True
    if args.what in ("export", "run"):
        good = export_student(args, pictures)
    if args.what in ("join", "run"):
        good = join_student(args, pictures) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
