"""The loop: one student, one schedule, checkpoints, curves."""

from __future__ import annotations

import copy
import csv
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training import checkpoint
from training.augment import Chances
from training.data import Pictures, Split
from training.feed import Batch, Feed, Views
from training.gang import Gang
from training.losses import Losses
from training.measure import embed, kinds
from training.optim import optimizers
from training.students import build, weights


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the outcome, with the seed.

    `sides` are (share of the run, side in pixels): from that share on, that side. The
    learning rate rises over `warm` steps, stays, and falls to 0 over the last `fall` of
    the run: so a run can be made longer up to the fall, from the checkpoint before it.
    """

    shape: str = "fused"
    epochs: float = 60.0
    batch: int = 128
    lr: float = 4e-3
    decay: float = 0.05
    muon: bool = True
    warm: int = 100
    fall: float = 0.3
    average: float = 0.998
    sides: tuple[tuple[float, int], ...] = ((0.0, 64), (0.5, 80), (0.8, 96))
    final_side: int = 128
    bank: int = 1024
    seed: int = 1
    losses: Losses = field(default_factory=Losses)
    chances: Chances = field(default_factory=Chances)

    def side(self, share: float) -> int:
        return [side for start, side in self.sides if share >= start][-1]

    def rate(self, number: int, total: int) -> float:
        """Return the share of the highest learning rate; a short run also warms up shorter."""
        warm = min(self.warm, max(1.0, 0.06 * total))
        return min(1.0, (number + 1) / warm, (1 - number / total) / self.fall)


class Training:
    """One run in a folder `out`: goes on from `out/last.safetensors` where there is one."""

    def __init__(
        self,
        recipe: Recipe,
        pictures: Pictures,
        split: Split,
        views: Views,
        out: Path,
        say: Callable[[str], None],
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self._pictures, self._split, self._views = recipe, pictures, split, views
        self._out, self._say, self._device = out, say, device
        self.student = build(recipe.shape, views.width).to(
            device, memory_format=torch.channels_last
        )
        self.average = copy.deepcopy(self.student)
        self._gang = Gang(self.student, workers)
        self._optimizers = optimizers(
            self.student, recipe.lr, recipe.decay, recipe.muon, self._gang.pool
        )
        self._steps = max(1, len(split.train) // recipe.batch)
        self._total = max(1, round(recipe.epochs * self._steps))
        self._bank_rows = np.random.default_rng(recipe.seed).choice(
            split.train, min(recipe.bank, len(split.train)), replace=False
        )
        self._bank = views.bank(self._bank_rows).to(device)
        self.number, self._seconds, self._stopped = 0, 0.0, False
        self._sums: dict[str, float] = {}
        out.mkdir(parents=True, exist_ok=True)
        if (out / "last.safetensors").exists():
            self._resume()

    def run(self, budget_s: float = float("inf"), save_s: float = 180, look_s: float = 420) -> bool:
        """Train to the end, the budget's end or a SIGTERM; return True at the end."""
        if self.number == 0:
            count = weights(self.student)
            self._say(f"{self.recipe.shape}: {count / 1e6:.2f} M weights, {self._total} steps")
            self.look()  # the untrained student's figures: the curve's first line
        before = signal.signal(signal.SIGTERM, self._on_signal)
        started = saved = looked = time.monotonic()
        share_before = self._seconds
        feed = Feed(
            self._pictures.pixels, self._views, self._split.train, self.recipe.batch,
            lambda n: self.recipe.side(n / self._total), self.recipe.chances,
            self.recipe.seed, self._device,
        )  # fmt: skip
        batches = feed.batches(self.number)
        try:
            while self.number < self._total and not self._stopped:
                if self.number % self._steps == 0:
                    self._views.look()
                self._step(next(batches))
                now = time.monotonic()
                self._seconds = share_before + now - started
                if self.number == round(self._total * (1 - self.recipe.fall)):
                    self._save("before-fall")
                if now - saved > save_s:
                    self._save("last")
                    saved = now
                if now - looked > look_s:
                    self.look()
                    looked = time.monotonic()
                if now - started > budget_s:
                    break
        finally:
            batches.close()
            signal.signal(signal.SIGTERM, before)
        self._save("last")
        if not self._stopped:  # who asks to stop is waiting
            self.look()
        return self.number >= self._total

    def look(self) -> tuple[float, float]:
        """Measure the averaged student on the held-out classes; write a line of the curve."""
        held = self._split.held
        vectors = self.embed(held, self.recipe.final_side)
        knn1, map10 = kinds(vectors, [self._pictures.classes[row] for row in held])
        count = max(1.0, self._sums.pop("count", 1.0))
        parts = {name: value / count for name, value in self._sums.items()}
        line: dict[str, Any] = {
            "step": self.number,
            "epoch": round(self.number / self._steps, 3),
            "minutes": round(self._seconds / 60, 2),
            "side": self.recipe.side(self.number / self._total),
            "regress": round(parts.get("regress", float("nan")), 4),
            "relate": round(parts.get("relate", float("nan")), 4),
            "knn1": round(knn1, 4),
            "map10": round(map10, 4),
            "images_per_s": round(self.number * self.recipe.batch / max(self._seconds, 1e-9), 1),
        }
        self._sums = {}
        path = self._out / "curve.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(line))
            if fresh:
                writer.writeheader()
            writer.writerow(line)
        self._say("  ".join(f"{name} {value}" for name, value in line.items()))
        return knn1, map10

    def embed(self, rows: NDArray[np.int64], side: int) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = embed(
            self.average, self._pictures.pixels, rows, side, self._device
        )
        return vectors

    def _step(self, batch: Batch) -> None:
        rate = self.recipe.rate(batch.number, self._total)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * rate
        parts = self._gang.gradients(
            batch.x, batch.target, lambda seen, target: self.recipe.losses(seen, target, self._bank)
        )
        for optimizer in self._optimizers:
            optimizer.step()
        self.number = batch.number + 1
        self._follow(min(self.recipe.average, (self.number + 1) / (self.number + 10)))
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._sums["count"] = self._sums.get("count", 0.0) + 1

    @torch.no_grad()
    def _follow(self, keep: float) -> None:
        pairs = zip(_floats(self.average), _floats(self.student), strict=True)
        slow, fast = (list(tensors) for tensors in zip(*pairs, strict=True))
        torch._foreach_lerp_(slow, fast, 1 - keep)

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopped = True

    def _save(self, name: str) -> None:
        facts = {
            "number": self.number,
            "seconds": self._seconds,
            "sums": self._sums,
            "width": self._views.width,
            "recipe": asdict(self.recipe),
        }
        checkpoint.save(
            self._out / f"{name}.safetensors", self.student, self.average, self._optimizers, facts
        )

    def _resume(self) -> None:
        facts = checkpoint.load(
            self._out / "last.safetensors", self.student, self.average, self._optimizers
        )
        self._gang.spread()
        self.number, self._seconds = facts["number"], facts["seconds"]
        self._sums = facts["sums"]
        self._say(f"going on from step {self.number} of {self._total}")


def _floats(module: nn.Module) -> list[Tensor]:
    return [t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()]
