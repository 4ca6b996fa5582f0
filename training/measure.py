"""Figures of merit: kNN-1 and mAP@10, leave one out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

DEPTH = 10


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(rows, np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def kinds(vectors: NDArray[np.float32], classes: Sequence[str]) -> tuple[float, float]:
    """Return kNN-1 and mAP@10 as bench/quality.py defines them, over all rows."""
    _, number = np.unique(np.asarray(classes), return_inverse=True)
    others = np.bincount(number)[number] - 1
    vectors, average, first = unit(vectors), [], []
    for start in range(0, len(vectors), 512):
        rows = np.arange(start, min(start + 512, len(vectors)))
        scores = vectors[rows] @ vectors.T
        scores[np.arange(len(rows)), rows] = -np.inf
        found = np.argpartition(-scores, DEPTH, axis=1)[:, :DEPTH]
        order = np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable")
        hit = number[np.take_along_axis(found, order, 1)] == number[rows][:, None]
        precision = np.cumsum(hit, axis=1) / np.arange(1, DEPTH + 1)
        average.append((precision * hit).sum(1) / np.clip(others[rows], 1, DEPTH))
        first.append(hit[:, 0])
    asked = others > 0
    return (
        float(np.concatenate(first)[asked].mean()),
        float(np.concatenate(average)[asked].mean()),
    )


@torch.no_grad()
def embed(
    student: nn.Module, pixels: NDArray[np.uint8], rows: NDArray[np.int64], side: int, device: str
) -> NDArray[np.float32]:
    """Embed whole stored pictures at `side`; batch norms in evaluation mode meanwhile."""
    was, found = student.training, []
    student.eval()
    for start in range(0, len(rows), 128):
        part = torch.from_numpy(pixels[rows[start : start + 128]]).to(device)
        x = part.permute(0, 3, 1, 2).float() / 255
        if side != x.shape[-1]:
            x = torch.nn.functional.interpolate(
                x, size=(side, side), mode="bilinear", antialias=True, align_corners=False
            )
        x = normal(x).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            y = student(x)
        found.append(y.float().cpu().numpy())
    student.train(was)
    return np.concatenate(found)


def normal(x: torch.Tensor) -> torch.Tensor:
    """Move 0..1 to about -2..2, the same for all colours."""
    return (x - 0.45) * 4
