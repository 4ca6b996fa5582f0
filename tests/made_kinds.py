"""A data folder as the recipe wants it, of pictures made here: closed curves of many kinds.

A kind is how strongly a closed curve is bent at each frequency, and the stripes in it;
colours, place, size, turn, mirror and ground are by lot. The "teacher" knows the kind: its
target is the bends and the stripes. So a student learns from some kinds what tells others
apart.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BENDS = 5
WIDTH = BENDS + 3
SIDE = 128


def write_folder(folder: Path, kinds: int, each: int, seed: int) -> None:
    """Write tars, index.tsv, targets.npy and teacher_pca.npz."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["shard\tname\tsource\tlabel\twidth\theight"]
    targets = []
    with tarfile.open(folder / "images-000.tar", "w") as tar:
        for kind in range(kinds):
            traits = _traits(rng)
            for i in range(each):
                buffer = io.BytesIO()
                Image.fromarray(_curve(traits, rng)).save(buffer, "JPEG", quality=85)
                name = f"made/kind{kind:03d}/{i:04d}.jpg"
                member = tarfile.TarInfo(name)
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
                lines.append(f"images-000.tar\t{name}\tmade\tkind{kind:03d}\t{SIDE}\t{SIDE}")
                targets.append(traits)
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


def _traits(rng: np.random.Generator) -> NDArray[np.float32]:
    bends = rng.uniform(0, 1, BENDS) ** 2
    stripes = np.eye(3)[rng.integers(3)]
    return np.concatenate([bends / max(bends.sum(), 0.3), 0.5 * stripes]).astype(np.float32)


def _curve(traits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
    x, y = x - rng.uniform(0.4, 0.6), y - rng.uniform(0.4, 0.6)
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    border = np.ones_like(x)
    for j, bend in enumerate(traits[:BENDS]):
        border += 0.6 * bend * np.cos((j + 2) * (angle + rng.uniform(0, 2 * np.pi)))
    inside = radius < rng.uniform(0.22, 0.32) * border
    ink, ground = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    while np.abs(ink - ground).sum() < 120:
        ground = rng.uniform(0, 255, 3)
    way = rng.uniform(0, np.pi)
    period = (0, 9, 22)[int(traits[BENDS:].argmax())]
    wave = np.sin((x * np.cos(way) + y * np.sin(way)) * 2 * np.pi * period)
    shade = np.where(inside, 1 + 0.4 * (wave > 0.3), 1 + 0.2 * rng.uniform(-1, 1) * x)
    pixels = np.where(inside[..., None], ink, ground) * shade[..., None]
    noisy = np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255)
    return np.asarray(noisy, np.uint8)
