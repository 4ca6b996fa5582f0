"""Read photographs out of tar files into one array on disk, with labels and targets."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 128
"""Side of a stored picture, in pixels: the whole picture, squashed to a square."""


@dataclass(frozen=True)
class Split:
    """Which rows teach and which validate; no source or class is in both."""

    train: NDArray[np.int64]
    held: NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """All pictures of a data folder, in the order of its index.

    `pixels` is (n, 128, 128, 3) uint8, mapped from disk; `names` are
    "source/class/id.jpg"; `classes` are "source/class", "" where there is no label;
    `targets` is (n, t) float32, or None where the folder has none.
    """

    pixels: NDArray[np.uint8]
    names: list[str]
    classes: list[str]
    targets: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.names)


def open_pictures(data: Path, cache: Path, threads: int = 2) -> Pictures:
    """Open a data folder; the first time, decode it into `cache`.

    The folder holds `index.tsv` (columns shard, name, source, label, ...), the tar
    files it names and, if there are targets, `targets.npy` and `teacher_pca.npz`.
    An interrupted decoding leaves nothing that a later call would take for whole.
    """
    lines = (data / "index.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    names = [row[1] for row in rows]
    classes = ["" if row[3] == "-" else f"{row[1].split('/')[0]}/{row[3]}" for row in rows]
    path = cache / f"pixels-{SIDE}-{len(rows)}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _decode_all(data, rows, path, threads)
    targets = None
    if (data / "targets.npy").exists():
        targets = np.load(data / "targets.npy").astype(np.float32)
    return Pictures(np.load(path, mmap_mode="r"), names, classes, targets)


def _decode_all(data: Path, rows: list[list[str]], path: Path, threads: int) -> None:
    unfinished = path.with_suffix(".part")
    out = np.lib.format.open_memmap(
        unfinished, mode="w+", dtype=np.uint8, shape=(len(rows), SIDE, SIDE, 3)
    )
    number = {row[1]: i for i, row in enumerate(rows)}
    with ThreadPoolExecutor(threads) as pool:
        for shard in sorted({row[0] for row in rows}):
            with tarfile.open(data / shard) as tar:
                files = [(number[m.name], tar.extractfile(m)) for m in tar if m.name in number]
                ready = [(row, file.read()) for row, file in files if file is not None]
            for (row, _), pixels in zip(ready, pool.map(_decode, ready), strict=True):
                out[row] = pixels
    out.flush()
    unfinished.rename(path)


def _decode(item: tuple[int, bytes]) -> NDArray[np.uint8]:
    return squash(Image.open(io.BytesIO(item[1])))


def squash(picture: Image.Image, side: int = SIDE) -> NDArray[np.uint8]:
    """Return the whole picture as (side, side, 3) uint8, bicubic with antialiasing."""
    return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def split(pictures: Pictures, sources: tuple[str, ...], every: int, seed: int = 7) -> Split:
    """Hold out whole sources, and in each other source every n-th class by lot.

    Pictures without a label always teach. Classes of one word in two sources (their
    "photo_" or "art_" prefix apart) are held out together or not at all.
    """
    rng = np.random.default_rng(seed)
    out: set[str] = set()
    for source in sorted({name.split("/")[0] for name in pictures.names}):
        mine = sorted({c for c in pictures.classes if c.startswith(source + "/")})
        if source in sources:
            out.update(mine)
        elif len(mine) > 2 * every:
            out.update(rng.choice(mine, len(mine) // every, replace=False).tolist())
    held = np.array([c in out for c in pictures.classes])
    return Split(np.flatnonzero(~held), np.flatnonzero(held))
