"""Muon for matrices, AdamW for the rest.

Muon (K. Jordan, 2024, https://kellerjordan.github.io/posts/muon/): momentum whose matrix is
made nearly orthogonal by a Newton-Schulz iteration before it is applied.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the post's quintic: fast rather than exact


def orthogonal(gradient: Tensor, steps: int = 5) -> Tensor:
    """Return about U V^T of the matrix's singular value decomposition U S V^T."""
    x = gradient.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = _A * x + (_B * a + _C * a @ a) @ x
    return (x.T if tall else x).float()


class Muon(torch.optim.Optimizer):
    """For convolutions of more than one input channel a group, as (out, rest) matrices."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        decay: float,
        pool: Executor,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})
        self._pool = pool

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            ahead = [self._ahead(p, group["momentum"]) for p in group["params"]]
            for p, update in zip(group["params"], self._pool.map(_update, ahead), strict=True):
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"])

    def _ahead(self, p: nn.Parameter, momentum: float) -> Tensor:
        """Take the gradient into the momentum; return Nesterov's look ahead."""
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        m: Tensor = state["momentum"]
        assert p.grad is not None
        m.mul_(momentum).add_(p.grad)
        return p.grad.add(m, alpha=momentum)


@torch.no_grad()
def _update(ahead: Tensor) -> Tensor:
    # An update of the same size in every layer: its RMS is 0.2, about AdamW's.
    size = 0.2 * float(max(ahead.shape[0], ahead[0].numel())) ** 0.5
    return orthogonal(ahead.reshape(len(ahead), -1)).reshape(ahead.shape) * size


def optimizers(
    student: nn.Module, lr: float, decay: float, muon: bool, pool: Executor
) -> list[torch.optim.Optimizer]:
    """Return the optimizers; each group's "base" is its highest learning rate."""
    matrices, others, plain = [], [], []
    for module in student.modules():
        for name, p in module.named_parameters(recurse=False):
            dense = isinstance(module, nn.Conv2d) and module.groups == 1 and p.ndim == 4
            if muon and dense and p.shape[1] > 3:
                matrices.append(p)
            elif p.ndim > 1 and name == "weight":
                others.append(p)
            else:
                plain.append(p)
    groups = [{"params": others, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    made: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    ]
    if matrices:
        made.append(Muon(matrices, lr, 0.9, decay, pool))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["base"] = lr
    return made
