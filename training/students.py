"""Student networks: small, square-input, one pooled vector out.

Every student is a chain of three kinds of step (convolution with batch norm, block with
a shortcut, pool and project), so that export can fold and write it without tracing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution, batch norm, and maybe ReLU."""

    def __init__(
        self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return torch.relu_(y) if self.relu else y


class Block(nn.Module):
    """x + steps(x), then maybe ReLU; the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, steps: list[Conv], into: int, out: int, stride: int, relu: bool) -> None:
        super().__init__()
        self.steps = nn.Sequential(*steps)
        same = into == out and stride == 1
        self.shortcut: Conv | None = None
        self.plain = not same and not relu  # as in MobileNetV2: no shortcut where shapes differ
        if not same and relu:
            self.shortcut = Conv(into, out, 1, stride, relu=False)
        self.relu = relu
        nn.init.zeros_(steps[-1].norm.weight) if not self.plain else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.steps(x)
        if self.plain:
            return y
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return torch.relu_(y) if self.relu else y


class Head(nn.Module):
    """Mean over all places, then one matrix.

    The norm takes away what all pictures share (means of what passed a ReLU are all
    positive): else a fresh student's vectors all point one way, and it learns late.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(into)
        self.project = nn.Linear(into, out)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.norm(x.mean(dim=(2, 3))))
        return y


@dataclass(frozen=True)
class Shape:
    """A student's shape: `stages` are (width, blocks, stride) after the stem."""

    kind: str
    stem: tuple[int, ...]
    stages: tuple[tuple[int, int, int], ...]
    expand: int = 4
    last: int = 0


SHAPES: dict[str, Shape] = {
    # for tests: seconds
    "tiny": Shape("resnet", (8, 16), ((16, 1, 1), (32, 1, 2))),
    # plain residual blocks of two 3x3
    "resnet": Shape("resnet", (32, 64), ((64, 1, 1), (128, 2, 2), (256, 2, 2))),
    "resnet-thin": Shape("resnet", (24, 48), ((48, 1, 1), (96, 2, 2), (192, 2, 2), (320, 1, 2))),
    # one 3x3 that widens, one 1x1 that narrows (EfficientNetV2's early blocks)
    "fused": Shape("fused", (32, 48), ((48, 1, 1), (96, 2, 2), (160, 3, 2)), 3, 768),
    # MobileNetV2: 1x1, depthwise 3x3, 1x1
    "depthwise": Shape(
        "depthwise", (24, 32), ((32, 2, 1), (64, 3, 2), (128, 4, 2), (192, 2, 2)), 4, 960
    ),
}


def build(name: str, out: int = 256) -> nn.Sequential:
    """Build a student by its name in SHAPES; input (n, 3, s, s) float, output (n, out)."""
    shape = SHAPES[name]
    layers: list[nn.Module] = []
    into = 3
    for width in shape.stem:
        layers.append(Conv(into, width, 3, 2))
        into = width
    for width, blocks, stride in shape.stages:
        for i in range(blocks):
            layers.append(_block(shape, into, width, stride if i == 0 else 1))
            into = width
    if shape.last:
        layers.append(Conv(into, shape.last, 1))
        into = shape.last
    layers.append(Head(into, out))
    student = nn.Sequential(*layers)
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return student


def _block(shape: Shape, into: int, width: int, stride: int) -> Block:
    if shape.kind == "resnet":
        steps = [Conv(into, width, 3, stride), Conv(width, width, 3, relu=False)]
        return Block(steps, into, width, stride, relu=True)
    inner = into * shape.expand
    if shape.kind == "fused":
        steps = [Conv(into, inner, 3, stride), Conv(inner, width, 1, relu=False)]
    else:
        steps = [
            Conv(into, inner, 1),
            Conv(inner, inner, 3, stride, groups=inner),
            Conv(inner, width, 1, relu=False),
        ]
    return Block(steps, into, width, stride, relu=False)


def weights(student: nn.Module) -> int:
    """Count the weights of a student, batch norms folded."""
    return sum(
        m.weight.numel() + m.weight.shape[0]
        for m in student.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    )
