"""A data folder as the recipe wants it, of pictures made here: closed curves of 60 kinds.

A kind is how many lobes a closed curve has, how deep they are, how finely it is striped and
whether it has a hole; colours, place, size, turn and ground are by lot. The "teacher" knows
the kind. Kinds are made of the same few traits, so some of them teach what tells others apart.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KINDS = list(itertools.product((2, 3, 4, 5, 6), (0.25, 0.5), (0, 8, 20), (False, True)))
"""Lobes, their depth, stripes across the picture, hole."""
WIDTH = 10
SIDE = 128


def write_folder(folder: Path, kinds: int, each: int, seed: int) -> None:
    """Write tars, index.tsv, targets.npy and teacher_pca.npz."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["shard\tname\tsource\tlabel\twidth\theight"]
    targets = []
    with tarfile.open(folder / "images-000.tar", "w") as tar:
        for kind in rng.permutation(len(KINDS))[:kinds]:
            for i in range(each):
                buffer = io.BytesIO()
                Image.fromarray(_curve(int(kind), rng)).save(buffer, "JPEG", quality=85)
                name = f"made/kind{kind:03d}/{i:04d}.jpg"
                member = tarfile.TarInfo(name)
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
                lines.append(f"images-000.tar\t{name}\tmade\tkind{kind:03d}\t{SIDE}\t{SIDE}")
                targets.append(_traits(int(kind)))
    (folder / "index.tsv").write_text("\n".join(lines) + "\n")
    rows = np.stack(targets)
    mean = rows.mean(axis=0)
    np.save(folder / "targets.npy", (rows - mean).astype(np.float16))
    np.savez(
        folder / "teacher_pca.npz",
        mean=mean,
        components=np.eye(WIDTH, dtype=np.float16),
        variance=rows.var(axis=0),
    )


def _traits(kind: int) -> NDArray[np.float32]:
    lobes, depth, stripes, hole = KINDS[kind]
    parts = (np.eye(5)[lobes - 2], [depth > 0.3], np.eye(3)[(0, 8, 20).index(stripes)], [hole])
    return np.concatenate(parts).astype(np.float32)


def _curve(kind: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    lobes, depth, stripes, hole = KINDS[kind]
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    x, y = x - rng.uniform(0.4, 0.6), y - rng.uniform(0.4, 0.6)
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    border = 1 + depth * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
    size = rng.uniform(0.24, 0.32)
    inside = (radius < size * border) & ~(hole & (radius < 0.4 * size * (1 - depth) + 0.03))
    ink, ground = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    while np.abs(ink - ground).sum() < 120:
        ground = rng.uniform(0, 255, 3)
    way = rng.uniform(0, np.pi)
    wave = np.sin((x * np.cos(way) + y * np.sin(way)) * 2 * np.pi * stripes)
    shade = np.where(inside, 1 + 0.4 * (wave > 0.3), 1 + 0.2 * rng.uniform(-1, 1) * x)
    pixels = np.where(inside[..., None], ink, ground) * shade[..., None]
    noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255)
    return np.asarray(noisy, np.uint8)
