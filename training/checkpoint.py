"""Checkpoints without pickle: tensors in one safetensors file, the rest in its header."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save(
    path: Path,
    student: nn.Module,
    average: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    facts: dict[str, Any],
) -> None:
    """Write all, then rename: a kill at any moment leaves the old file or the new one."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("student", student), ("average", average)):
        tensors |= {f"{prefix}/{name}": t for name, t in module.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{number}/{name}": t for name, t in state.items()}
    unfinished = path.with_suffix(".part")
    kept = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    save_file(kept, unfinished, {"facts": json.dumps(facts)})
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(path)


def load(
    path: Path,
    student: nn.Module,
    average: nn.Module,
    optimizers: list[torch.optim.Optimizer],
) -> dict[str, Any]:
    """Read all back into place; return the facts."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    for prefix, module in (("student", student), ("average", average)):
        module.load_state_dict(_under(tensors, prefix))
    for i, optimizer in enumerate(optimizers):
        whole = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for name, t in _under(tensors, f"optimizer/{i}").items():
            number, field = name.split("/")
            state.setdefault(int(number), {})[field] = t
        optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
        _lay_out(optimizer)
    return facts


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Lay state out in memory as its weights are: the fused AdamW takes that for granted."""
    for p, state in optimizer.state.items():
        for name, t in state.items():
            if t.shape == p.shape:
                state[name] = torch.empty_like(p).copy_(t)


def facts_of(path: Path) -> dict[str, Any]:
    """Read only the facts."""
    with safe_open(path, "pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["facts"])
    return facts


def load_average(path: Path, student: nn.Module) -> None:
    """Read only the averaged weights."""
    with safe_open(path, "pt") as file:
        names = [n for n in file.keys() if n.startswith("average/")]  # noqa: SIM118
        student.load_state_dict({n.removeprefix("average/"): file.get_tensor(n) for n in names})


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix + "/"): t
        for name, t in tensors.items()
        if name.startswith(prefix + "/")
    }
