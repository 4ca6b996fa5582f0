"""Batches, each a pure function of the seed and its number, made ahead in one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augment import Augment, Chances
from training.measure import normal
from training.views import boxes, finished_views

_JITTER = 0.03


@dataclass(frozen=True)
class Batch:
    """`x` is (n, 3, side, side), `target` (n, d) of length 1."""

    number: int
    side: int
    x: Tensor
    target: Tensor


class Views:
    """Every ready view's boxes and scaled targets; view 0 is the whole picture."""

    def __init__(
        self,
        whole: NDArray[np.float32],
        cache: Path,
        scale: Callable[[NDArray[np.float32]], Tensor],
    ) -> None:
        self._cache, self._scale = cache, scale
        full = np.tile(np.array([[0, 0, 1, 1]], np.float32), (len(whole), 1))
        self._numbers = [0]
        self._boxes, self._targets = [full], [scale(whole)]
        self.width = whole.shape[1]

    def look(self) -> int:
        """Take up the views that became ready; return how many there are."""
        for number in finished_views(self._cache):
            if number not in self._numbers:
                self._numbers.append(number)
                self._boxes.append(boxes(len(self._boxes[0]), number))
                made = np.load(self._cache / f"view-{number}.npy").astype(np.float32)
                self._targets.append(self._scale(made))
        return len(self._numbers)

    def pick(self, rows: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return (boxes, targets) of one view a row by lot, boxes moved by up to 3 %."""
        which = rng.integers(0, len(self._numbers), len(rows))
        box = np.stack([self._boxes[v][row] for v, row in zip(which, rows, strict=True)])
        target = torch.stack([self._targets[v][row] for v, row in zip(which, rows, strict=True)])
        moved = box + rng.uniform(-_JITTER, _JITTER, box.shape).astype(np.float32)
        return torch.from_numpy(moved.clip(0, 1)), target

    def bank(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the whole pictures' targets of these rows."""
        return self._targets[0][torch.from_numpy(rows)]


class Feed:
    """Iterates over batches from number `start` on, two ready ahead."""

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        views: Views,
        rows: NDArray[np.int64],
        size: int,
        side_of: Callable[[int], int],
        chances: Chances,
        seed: int,
        device: str,
    ) -> None:
        self._pixels = pixels
        # A GPU would wait for the disk: there all pictures lie beside it (1.4 GB).
        self._near = None if device == "cpu" else torch.from_numpy(np.array(pixels)).to(device)
        self._views, self._rows, self._size = views, rows, size
        self._side_of, self._seed = side_of, seed
        self._generator = torch.Generator()
        self._augment = Augment(chances, self._generator, device)
        self._stop = threading.Event()

    def batches(self, start: int) -> Generator[Batch, None, None]:
        ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=2)

        def fill() -> None:
            number = start
            try:
                while not self._stop.is_set():
                    batch = self._make(number)
                    number += 1
                    while not self._stop.is_set():
                        try:
                            ready.put(batch, timeout=0.5)
                            break
                        except queue.Full:
                            continue
            except BaseException as error:
                ready.put(error)

        thread = threading.Thread(target=fill, name="feed", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()
            thread.join()

    def _make(self, number: int) -> Batch:
        steps = max(1, len(self._rows) // self._size)  # an epoch's rest is left out
        epoch, place = divmod(number, steps)
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._rows))
        rows = np.sort(self._rows[order[place * self._size : (place + 1) * self._size]])
        self._generator.manual_seed(self._seed * 1_000_003 + number)
        box, target = self._views.pick(rows, np.random.default_rng([self._seed, 1, number]))
        side = self._side_of(number)
        if self._near is None:
            pixels = torch.from_numpy(self._pixels[rows])
        else:
            pixels = self._near[torch.from_numpy(rows).to(self._near.device)]
        x = self._augment(pixels, box, side)
        x = normal(x).contiguous(memory_format=torch.channels_last)
        return Batch(number, side, x, target.to(x.device))
