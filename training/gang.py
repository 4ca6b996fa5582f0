"""Several threads that share one student: each sees its part of a batch.

One torch operation spread over threads waits for its slowest thread some hundred times a
step, which costs most of the speed on a machine that has other work. Here threads meet
once a step. Sums are taken in a fixed order, so the outcome does not depend on timing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

Judge = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""(vectors, targets) -> parts with "loss"."""


class Gang:
    """Computes gradients of a student's weights with `workers` threads of one core each.

    Each thread has batch norms of its own (so a batch is normed in parts); their running
    figures are averaged after each step.
    """

    def __init__(self, student: nn.Module, workers: int) -> None:
        self._replicas = [student, *(_twin(student) for _ in range(workers - 1))]
        self._weights = list(student.parameters())
        self.pool = ThreadPoolExecutor(workers, "gang", torch.set_num_threads, (1,))
        self._norms = [
            [b for b in replica.buffers() if b.is_floating_point()] for replica in self._replicas
        ]

    def gradients(self, x: Tensor, target: Tensor, judge: Judge) -> dict[str, float]:
        """Set each weight's `grad`; return the parts of the loss, averaged."""
        count = len(self._replicas)
        work = zip(self._replicas, x.chunk(count), target.chunk(count), strict=True)
        done = list(self.pool.map(lambda item: self._one(item[0], item[1], item[2], judge), work))
        for i, weight in enumerate(self._weights):
            weight.grad = done[0][1][i]
            for _, gradients in done[1:]:
                weight.grad += gradients[i]
            if count > 1:
                weight.grad /= count
        self._level()
        names = done[0][0]
        return {name: sum(parts[name] for parts, _ in done) / count for name in names}

    def _one(
        self, replica: nn.Module, x: Tensor, target: Tensor, judge: Judge
    ) -> tuple[dict[str, float], tuple[Tensor, ...]]:
        with torch.autocast(x.device.type, torch.bfloat16):
            seen = replica(x)
        parts = judge(seen, target)
        gradients = torch.autograd.grad(parts["loss"], self._weights)
        return {name: float(value.detach()) for name, value in parts.items()}, gradients

    @torch.no_grad()
    def _level(self) -> None:
        first, *others = self._norms
        for other in others:
            torch._foreach_add_(first, other)
        if others:
            torch._foreach_div_(first, len(self._norms))
        self.spread()

    @torch.no_grad()
    def spread(self) -> None:
        """Give every replica the student's running figures: once after loading them, too."""
        first, *others = self._norms
        for other in others:
            torch._foreach_copy_(other, first)


def _twin(student: nn.Module) -> nn.Module:
    """Return a student with the same weights, not equal ones, and norms of its own."""
    twin = copy.deepcopy(student)
    for mine, its in zip(student.modules(), twin.modules(), strict=True):
        its._parameters.update(mine._parameters)
    return twin
