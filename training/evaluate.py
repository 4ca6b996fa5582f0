"""Measure an exported student on a folder of photographs, with the measures of bench/.

For reporting only: nothing of the recipe is chosen by these figures.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from training.data import squash

_BENCH = Path(__file__).resolve().parent.parent / "bench"
_SEED = 20240607


class Exported:
    """An ONNX student that sees picture files."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.side: int = self._session.get_inputs()[0].shape[1]
        self._threads = threads

    def see(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Return (n, d) float32 of length 1."""
        with ThreadPoolExecutor(self._threads) as pool:
            ready = list(pool.map(self._prepare, files))
        found = [
            self._session.run(None, {"image": np.stack(ready[i : i + 32])})[0]
            for i in range(0, len(ready), 32)
        ]
        return np.concatenate(found)

    def _prepare(self, data: bytes) -> NDArray[np.uint8]:
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB", (2 * self.side, 2 * self.side))
        return squash(ImageOps.exif_transpose(picture), self.side)

    def latency_ms(self, count: int = 30) -> float:
        """Return the median time of one picture, already prepared."""
        picture = np.zeros((1, self.side, self.side, 3), np.uint8)
        times = []
        for _ in range(count):
            started = time.perf_counter()
            self._session.run(None, {"image": picture})
            times.append(time.perf_counter() - started)
        return float(np.median(times) * 1000)


def report(student: Path, photos: Path, sample: int, say: Callable[[str], None]) -> None:
    """Say kNN-1 and mAP@10 with intervals, and recall@1 of altered copies."""
    sys.path.insert(0, str(_BENCH))
    from _copies import CHANGES, copies
    from _scores import category, kinds, nearest

    seer = Exported(student)
    paths = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    started = time.process_time()
    vectors = seer.see([path.read_bytes() for path in paths])
    spent = (time.process_time() - started) / len(paths) * 1000
    say(f"{len(paths)} photographs, {spent:.1f} ms of processor time each, file to vector")
    say(f"one picture on one thread: {seer.latency_ms():.1f} ms without decoding")
    categories = [category(path.relative_to(photos).as_posix()) for path in paths]
    for part, figures in kinds(vectors, categories).items():
        say(f"{part:10s} kNN-1 {figures.knn1}  mAP@10 {figures.map10}")
    rng = np.random.default_rng(_SEED)
    rows = np.sort(rng.choice(len(paths), min(sample, len(paths)), replace=False))
    made: dict[str, list[bytes]] = {name: [] for name in CHANGES}
    for row in rows:
        picture = ImageOps.exif_transpose(Image.open(paths[row])).convert("RGB")
        for name, data in copies(picture, rng):
            made[name].append(data)
    for name, files in made.items():
        recall = float(np.mean(nearest(seer.see(files), vectors, 1)[:, 0] == rows))
        say(f"copy: {name:14s} recall@1 {recall:.3f}")
