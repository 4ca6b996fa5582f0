"""What computes the vectors of a checkpoint; torch as it is."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.backends.errors import ModelInvalid
from lookalike.backends.types import Vectors

TORCH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BATCH = 8
"""ViT-B/32 on 2 cores, CPU ms a picture in batches of 1, 4, 8, 32: OpenVINO bf16 75, 59, 57,
52; fp32 120, 103, 105, 97. What comes meanwhile waits for a whole batch, so not more."""
_CUDA_BATCH = 64

Pixels = NDArray[np.float32]
"""(n, 3, H, W), normalised, contiguous."""
Tokens = Mapping[str, NDArray[np.int64]]
"""(n, width) each: what the tokenizer gives, by the model's names."""


class Runtime(ABC):
    """Both towers of one checkpoint in one precision. One thread at a time."""

    best_batch: int = CPU_BATCH

    @abstractmethod
    def images(self, pixels: Pixels) -> Vectors:
        """Return (n, dim) of n > 0 prepared pictures."""

    @abstractmethod
    def texts(self, tokens: Tokens) -> Vectors:
        """Return (n, dim) of n > 0 tokenized texts."""

    def close(self) -> None:  # noqa: B027 - not every runtime holds what must be released
        """Release the model."""


class TorchRuntime(Runtime):
    """The model as transformers made it. Attention is torch's own fused one (SDPA)."""

    def __init__(self, model: Any, device: torch.device, precision: str, threads: int) -> None:
        self.model = model.to(device, TORCH_TYPES[precision])
        self._device = device
        self._dtype = TORCH_TYPES[precision]
        self._threads = threads
        self._local = threading.local()
        self._has_graphics = device.type == "cuda"
        self.best_batch = _CUDA_BATCH if self._has_graphics else CPU_BATCH

    def images(self, pixels: Pixels) -> Vectors:
        with self.computing():
            # A GPU's libraries plan and keep memory for each new shape: so there are few.
            count = len(pixels)
            if self._has_graphics:
                pixels = _padded(pixels)
            return pooled(image_features(self.model, self.read(pixels)), len(pixels))[:count]

    def texts(self, tokens: Tokens) -> Vectors:
        with self.computing():
            given = {n: torch.from_numpy(a).to(self._device) for n, a in tokens.items()}
            count = len(next(iter(tokens.values())))
            return pooled(self.model.get_text_features(**given), count)

    def read(self, pixels: Pixels) -> torch.Tensor:
        """Return a tensor on the model's device, in its precision."""
        tensor = torch.from_numpy(pixels)
        if self._has_graphics:
            return tensor.pin_memory().to(self._device, non_blocking=True).to(self._dtype)
        return tensor.to(self._dtype)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Set what belongs to the calling thread: the number of threads, and inference mode."""
        if not getattr(self._local, "is_set", False):
            torch.set_num_threads(self._threads)
            self._local.is_set = True
        with torch.inference_mode():
            yield

    def close(self) -> None:
        self.model = None
        if self._has_graphics:
            torch.cuda.empty_cache()


def image_features(model: Any, pixels: torch.Tensor) -> Any:
    """Run the vision tower; DINOv2 and its like are nothing else."""
    if hasattr(model, "get_image_features"):
        return model.get_image_features(pixel_values=pixels)
    return model(pixel_values=pixels)


def pooled_tensor(output: Any, count: int) -> torch.Tensor:
    """Take the pooled vectors out of what a model returned. Raises ModelInvalid."""
    # transformers 4 returned the tensor itself, 5 wraps it.
    tensor = output if isinstance(output, torch.Tensor) else getattr(output, "pooler_output", None)
    if not isinstance(tensor, torch.Tensor) or tensor.shape[0] != count:
        raise ModelInvalid(
            "The model gives no pooled vector for a picture. Use an encoder such as CLIP, SigLIP "
            "or DINOv2."
        )
    return tensor


def pooled(output: Any, count: int) -> Vectors:
    """Return them as a matrix."""
    tensor = pooled_tensor(output, count)
    # DINOv2 gives a slice of all its tokens: not contiguous, and it would keep them in memory.
    return np.ascontiguousarray(tensor.reshape(count, -1).float().cpu().numpy())


def _padded(pixels: Pixels) -> Pixels:
    """Fill a batch up to a power of two with black pictures."""
    count = len(pixels)
    missing = (1 << (count - 1).bit_length()) - count
    return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)])
