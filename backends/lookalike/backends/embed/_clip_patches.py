"""Patch vectors of vision transformers, and which part of a picture they cover."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.backends.embed.base import PatchVectors, Window
from lookalike.backends.types import Prepared, RgbImage

_log = logging.getLogger(__name__)

MAX_RATIO = 64
"""Longer side over shorter side, beyond which the ends are cut off before resizing."""
_RAMPS = ((120, 200), (200, 120), (160, 160))
"""Pictures, height and width in px, that a computed window is checked with."""
_OFF = 0.01
"""Most that it may be off, of the picture's side; half a patch is 0.016 at the least."""


@dataclass(frozen=True, slots=True)
class Framing:
    """What a processor keeps of a picture: resized, then the middle cut out.

    As in `get_resize_output_image_size` and `center_crop` of transformers'
    image_transforms.py.
    """

    shorter: int
    """Side that the shorter one is resized to, px; 0 = both are resized, to `height` x `width`."""
    height: int
    width: int
    """What is kept, px."""

    @classmethod
    def of(cls, processor: Any, shape: tuple[int, int]) -> Framing | None:
        """Read a processor that prepares pictures of `shape`, None if it does something else."""
        size, (height, width) = processor.size, shape
        if not getattr(processor, "do_resize", False):
            return None
        if getattr(size, "longest_edge", None) or getattr(size, "max_height", None):
            return None
        shorter = int(getattr(size, "shortest_edge", None) or 0)
        if shorter:
            # Less than the crop is filled up with black, which is no part of the picture.
            return cls(shorter, height, width) if shorter >= max(height, width) else None
        resized = (getattr(size, "height", None), getattr(size, "width", None))
        return cls(0, height, width) if resized == (height, width) else None

    def window(self, height: int, width: int) -> Window:
        if not self.shorter:
            return Window(0.0, 0.0, 1.0, 1.0)
        tall, wide = without_far_ends(height, width)
        least = min(tall, wide)
        new_tall, new_wide = (int(self.shorter * side / least) for side in (tall, wide))
        down, right = (new_tall - self.height) // 2, (new_wide - self.width) // 2
        row, column = tall / new_tall, wide / new_wide
        return Window(
            ((width - wide) // 2 + right * column) / width,
            ((height - tall) // 2 + down * row) / height,
            self.width * column / width,
            self.height * row / height,
        )


def without_far_ends(height: int, width: int) -> tuple[int, int]:
    """Return the size that is left of a very long picture: its middle."""
    most = MAX_RATIO * min(height, width)
    return min(height, most), min(width, most)


@dataclass(frozen=True, slots=True)
class PatchReader:
    """Reads patch vectors out of a model; one thread, in `torch.inference_mode`."""

    model: Any
    rows: int
    columns: int
    extra: int
    """Tokens before the patches: that of the whole picture, and registers."""
    projects: bool
    """Patches are brought into the space that pictures share with texts."""
    framing: Framing

    @classmethod
    def find(
        cls, model: Any, processor: Any, prepare: Callable[[RgbImage], Prepared], read: Any
    ) -> PatchReader | None:
        """Return a reader if the model has patches and their places are known, else None.

        `read` makes tensors of prepared pictures. Whatever is not just as expected
        gives None: no answer is better than one about the wrong place.
        """
        try:
            return cls._found(model, processor, prepare, read)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            # A model of another make: it embeds whole pictures all the same.
            _log.debug("no patches in a %s", type(model).__name__, exc_info=True)
            return None

    @classmethod
    def _found(
        cls, model: Any, processor: Any, prepare: Callable[[RgbImage], Prepared], read: Any
    ) -> PatchReader | None:
        shape = prepare(np.zeros((*_RAMPS[0], 3), np.uint8)).shape[-2:]
        framing = Framing.of(processor, (shape[0], shape[1]))
        config = getattr(model.config, "vision_config", model.config)
        side = getattr(config, "patch_size", None)
        if framing is None or not isinstance(side, int) or not _is_exact(framing, prepare):
            return None
        rows, columns = shape[0] // side, shape[1] // side
        tower = getattr(model, "vision_model", model)
        pixels = read([prepare(np.zeros((*_RAMPS[0], 3), np.uint8))])
        tokens = getattr(tower(pixel_values=pixels), "last_hidden_state", None)
        if not isinstance(tokens, torch.Tensor) or tokens.ndim != 3:
            return None
        extra = tokens.shape[1] - rows * columns
        if extra not in (0, 1 + (getattr(config, "num_register_tokens", None) or 0)):
            return None
        reader = cls(model, rows, columns, extra, _projects(model), framing)
        return reader if np.isfinite(reader(pixels)).all() else None

    def __call__(self, pixels: torch.Tensor) -> PatchVectors:
        """Return (n, rows, columns, d) of (n, 3, H, W).

        A CLIP was trained for one vector of the whole picture, and its last
        attention blends the patches for that. As in MaskCLIP (Zhou, Loy & Dai,
        "Extract Free Dense Labels from CLIP", ECCV 2022), each patch there attends
        to itself alone; then follows what makes a picture's vector of a token, the
        layer norm and the projection. Patches of others are the last hidden states
        after their layer norm, as DINOv2 does it (Oquab et al., TMLR 2024).
        """
        if self.projects:
            tokens = self._projected(pixels)
        else:
            tower = getattr(self.model, "vision_model", self.model)
            tokens = tower(pixel_values=pixels).last_hidden_state
        patches = tokens[:, self.extra :].float()
        patches = torch.nn.functional.normalize(patches, dim=-1)
        grid = patches.reshape(len(pixels), self.rows, self.columns, -1)
        return np.ascontiguousarray(grid.cpu().numpy())

    def _projected(self, pixels: torch.Tensor) -> torch.Tensor:
        tower = self.model.vision_model
        last = tower.encoder.layers[-1]
        tokens = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        attention = last.self_attn
        values = attention.out_proj(attention.v_proj(last.layer_norm1(tokens)))
        tokens = tokens + values
        tokens = tokens + last.mlp(last.layer_norm2(tokens))
        projected: torch.Tensor = self.model.visual_projection(tower.post_layernorm(tokens))
        return projected


def _projects(model: Any) -> bool:
    """Return whether the model is built as CLIP is."""
    tower = getattr(model, "vision_model", None)
    layers = getattr(getattr(tower, "encoder", None), "layers", None)
    if not layers or not hasattr(model, "visual_projection"):
        return False
    parts = ("self_attn.v_proj", "self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp")
    known = {name for name, _ in layers[-1].named_modules()}
    return hasattr(tower, "post_layernorm") and known.issuperset(parts)


def _is_exact(framing: Framing, prepare: Callable[[RgbImage], Prepared]) -> bool:
    """Look whether ramps come out of the processor where the window says."""
    for height, width in _RAMPS:
        black = np.zeros((height, width, 3), np.uint8)
        ramp = black.copy()
        ramp[..., 0] = (np.arange(width) + 0.5) / width * 255
        ramp[..., 1] = (np.arange(height)[:, np.newaxis] + 0.5) / height * 255
        low, made, high = (_prepared(prepare, picture) for picture in (black, ramp, ~black))
        if low.shape != made.shape or not (high > low).all():
            return False
        places = (made - low) / (high - low)  # whatever mean and deviation are
        rows, columns = made.shape[-2:]
        window = framing.window(height, width)
        right = window.left + (np.arange(columns) + 0.5) / columns * window.width
        down = window.top + (np.arange(rows) + 0.5) / rows * window.height
        off = (places[0] - right, places[1] - down[:, np.newaxis])
        # The median, for resizing bends ramps at the border.
        if max(float(np.median(np.abs(one))) for one in off) > _OFF:
            return False
    return True


def _prepared(prepare: Callable[[RgbImage], Prepared], picture: RgbImage) -> NDArray[np.float64]:
    return np.asarray(prepare(picture), np.float64)
