"""Fixed views of every picture with the target that the teachers give to that very view.

A student learns most from a teacher who sees the same crop (Beyer et al., "Knowledge
distillation: a good teacher is patient and consistent", 2022). Asking the teachers costs
three training steps a view, so each view is asked about once and used for many epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data import SIDE
from training.teachers import SIDE as TEACHER_SIDE

_STEP = 256
See = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def boxes(count: int, view: int) -> NDArray[np.float32]:
    """Return (count, 4) left, top, right, bottom in 0..1; the same for the same `view`.

    30 to 100 % of the area, aspect 3:4 to 4:3 of the squashed picture's.
    """
    rng = np.random.default_rng([20250217, view])
    area = rng.uniform(0.3, 1, count)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), count))
    width = np.minimum(np.sqrt(area * aspect), 1)
    height = np.minimum(np.sqrt(area / aspect), 1)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return np.stack([left, top, left + width, top + height], axis=1).astype(np.float32)


def cut(pixels: NDArray[np.uint8], box: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """Return one view as (side, side, 3) uint8."""
    left, top, right, bottom = (float(x) for x in box * SIDE)
    picture = Image.fromarray(pixels)
    return np.asarray(
        picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, right, bottom))
    )


def make_view(
    pixels: NDArray[np.uint8], cache: Path, view: int, see: See, say: Callable[[str], None]
) -> None:
    """Ask the teachers about one view of each picture; goes on where it was stopped."""
    path, unfinished = cache / f"view-{view}.npy", cache / f"view-{view}.part.npy"
    if path.exists():
        return
    count, box = len(pixels), boxes(len(pixels), view)
    if unfinished.exists():
        out = np.lib.format.open_memmap(unfinished, mode="r+")
    else:
        out = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.float16, shape=(count, 256))
    for start in range(0, count, _STEP):
        end = min(start + _STEP, count)
        if out[end - 1].any():  # a target is never all zero, an unwritten row is
            continue
        cuts = [cut(pixels[row], box[row], TEACHER_SIDE) for row in range(start, end)]
        out[start:end] = see(np.stack(cuts)).astype(np.float16)
        if start // _STEP % 8 == 0:
            out.flush()
            say(f"view {view}: {end} of {count}")
    out.flush()
    unfinished.rename(path)


def finished_views(cache: Path) -> list[int]:
    """Return the numbers of the views that are ready, rising."""
    numbers = (path.name.split(".")[0].split("-")[1] for path in cache.glob("view-*.npy"))
    return sorted(int(n) for n in set(numbers) if (cache / f"view-{n}.npy").exists())
