"""Embedders from checkpoints that transformers loads: CLIP, SigLIP, DINOv2 and their like."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lookalike.backends.embed._checkpoint import Checkpoint
from lookalike.backends.embed._clip_load import Parts, Settings, explained, load, quiet
from lookalike.backends.embed._clip_patches import PatchReader, without_far_ends
from lookalike.backends.embed.base import (
    Embedder,
    EmbedderOptions,
    PatchEmbedder,
    PatchVectors,
    TextEmbedder,
    TextVectors,
    Window,
)
from lookalike.backends.errors import ModelInvalid
from lookalike.backends.types import Prepared, RgbImage, Vectors

_WIDTH_STEP = 8
"""Texts are padded to a multiple of this many tokens: few shapes, so memory stays flat."""
_MAX_CONTEXT = 512
"""Tokens read at most of a model that names no limit."""
_CPU_BATCH = 8
"""ViT-B/32 on 2 cores: 15.3 pictures/s in batches of 8, 14.2 of 32 (fp32); 49 and 38 (bf16)."""
_CUDA_BATCH = 64

# transformers sets process-wide flags while it builds a model (default dtype, initialisation)
# and imports its modules lazily: one load at a time.
_loading = threading.Lock()


class ClipEmbedder(Embedder):
    """A vision model in torch. `open` gives one with the capabilities that a checkpoint has.

    The vectors are those of `get_image_features`, or `pooler_output` where a model
    has no such method (DINOv2). `extra`: "precision" is "fp32" (default), "bf16" or
    "fp16"; "offline" true never asks the hub; "revision" is a branch, tag or commit
    of a hub name.
    """

    def __init__(self, parts: Parts) -> None:
        self._model = parts.model
        self._processor = parts.processor
        self._device = parts.device
        self._dtype = parts.dtype
        self._threads = parts.threads
        self._local = threading.local()
        self.space = parts.space
        self.device = str(parts.device)
        self.max_batch = _CUDA_BATCH if parts.device.type == "cuda" else _CPU_BATCH
        # Twice the side that is resized to: shrinking to it moved pixels by 0.24 of 255.
        self.decode_side = 2 * _resized_side(parts.processor)
        self._keeps_aspect = bool(getattr(parts.processor.size, "shortest_edge", None))

    @classmethod
    def open(cls, options: EmbedderOptions) -> ClipEmbedder:
        """Load a checkpoint; pick the class by what it knows. Any thread, one at a time.

        Raises ModelInvalid for a checkpoint that is absent, incomplete, pickled or of
        an unknown kind, BackendUnavailable for a device that is not there.
        """
        settings = Settings.read(options)
        with _loading, quiet():
            checkpoint = Checkpoint.find(
                options.model, offline=settings.offline, revision=settings.revision
            )
            with explained(checkpoint):
                parts = load(checkpoint, settings)
                # In a thread that ends with it: OpenMP keeps a pool for each thread that computed.
                with ThreadPoolExecutor(1, thread_name_prefix="clip-probe") as pool:
                    return pool.submit(_opened, parts).result()

    def prepare(self, image: RgbImage) -> Prepared:
        """Return (3, H, W) float32 `pixel_values` of transformers' own processor. Any thread."""
        if self._keeps_aspect:
            image = _without_far_ends(image)
        made = self._processor(images=image, return_tensors="np", input_data_format="channels_last")
        pixels: Prepared = made["pixel_values"][0]
        return pixels

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        if not batch:
            return np.zeros((0, self.dim), np.float32)
        with self._computing():
            pixels = self._read(batch)
            if hasattr(self._model, "get_image_features"):
                return _vectors(self._model.get_image_features(pixel_values=pixels), len(batch))
            return _vectors(self._model(pixel_values=pixels), len(batch))

    def close(self) -> None:
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _read(self, batch: Sequence[Prepared]) -> torch.Tensor:
        return torch.from_numpy(np.stack(batch)).to(self._device, self._dtype)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # Both settings belong to the calling thread, so they are made in it.
        if not getattr(self._local, "is_set", False):
            torch.set_num_threads(self._threads)
            self._local.is_set = True
        with torch.inference_mode():
            yield

    def _probe(self) -> None:
        """Find `dim`; raise ModelInvalid if pictures cannot be batched or come out equal."""
        wide = np.zeros((48, 96, 3), np.uint8)
        tall = np.full((96, 48, 3), 255, np.uint8)
        prepared = [self.prepare(wide), self.prepare(tall)]
        if {p.ndim for p in prepared} != {3} or len({p.shape for p in prepared}) != 1:
            raise ModelInvalid(
                "The checkpoint's preprocessing gives pictures of different shapes, which cannot "
                "be batched. Use a checkpoint with a fixed picture size."
            )
        vectors = self.embed_prepared(prepared)
        self.dim = vectors.shape[1]
        _check_apart(vectors, "pictures", "weights and preprocessing do not belong together")


class ClipTextEmbedder(ClipEmbedder, TextEmbedder):
    """A model that puts pictures and texts into one space."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._tokenizer = parts.tokenizer
        text = getattr(parts.model.config, "text_config", parts.model.config)
        limits = (parts.tokenizer.model_max_length, getattr(text, "max_position_embeddings", None))
        self._context = min(int(limit) for limit in (*limits, _MAX_CONTEXT) if limit)
        # Others, SigLIP first of all, were trained on texts padded to the full length and
        # give wrong vectors for shorter ones; CLIP ends at its end mark and does not see the rest.
        self._pads_fully = parts.model.config.model_type != "clip"

    def embed_texts(self, texts: Sequence[str]) -> TextVectors:
        if not texts:
            return TextVectors(np.zeros((0, self.dim), np.float32), [])
        whole = self._tokenizer(list(texts), verbose=False)["input_ids"]
        counts = [len(ids) for ids in whole]
        tokens = self._tokenizer(
            list(texts),
            truncation=True,
            padding="max_length",
            max_length=self._width(max(counts)),
            return_tensors="pt",
        )
        with self._computing():
            output = self._model.get_text_features(**tokens.to(self._device))
            vectors = _vectors(output, len(texts))
        return TextVectors(vectors, [count > self._context for count in counts])

    def close(self) -> None:
        super().close()
        self._tokenizer = None

    def _width(self, longest: int) -> int:
        steps = -(-longest // _WIDTH_STEP)
        return self._context if self._pads_fully else min(steps * _WIDTH_STEP, self._context)

    def _probe(self) -> None:
        super()._probe()
        vectors = self.embed_texts(["a dog", "seven ships at sea"]).vectors
        if vectors.shape[1] != self.dim:
            raise ModelInvalid(
                f"The checkpoint gives texts {vectors.shape[1]} and pictures {self.dim} dimensions; "
                "they cannot be compared. Use a checkpoint with one space for both."
            )
        _check_apart(vectors, "texts", "tokenizer does not belong to its weights")


class ClipPatchEmbedder(ClipEmbedder, PatchEmbedder):
    """A vision transformer whose patches are known, too."""

    def __init__(self, parts: Parts, patches: PatchReader) -> None:
        super().__init__(parts)
        self._patches = patches
        self.patches_know_texts = patches.projects and parts.tokenizer is not None

    def embed_patches(self, batch: Sequence[Prepared]) -> PatchVectors:
        """Return what `PatchReader` reads."""
        with self._computing():
            return self._patches(self._read(batch))

    def patch_window(self, height: int, width: int) -> Window:
        return self._patches.framing.window(height, width)


class ClipPatchTextEmbedder(ClipPatchEmbedder, ClipTextEmbedder):
    """One that puts texts into the same space."""


def _opened(parts: Parts) -> ClipEmbedder:
    """Return an embedder of the right class, tried out. Raises ModelInvalid."""
    knows_text = parts.tokenizer is not None
    embedder = ClipTextEmbedder(parts) if knows_text else ClipEmbedder(parts)
    embedder._probe()
    with embedder._computing():
        found = PatchReader.find(parts.model, parts.processor, embedder.prepare, embedder._read)
    if found is None:
        return embedder
    seeing = ClipPatchTextEmbedder if knows_text else ClipPatchEmbedder
    opened = seeing(parts, found)
    opened.dim = embedder.dim
    return opened


def _vectors(output: Any, count: int) -> Vectors:
    """Take the pooled vectors out of what a model returned."""
    # transformers 4 returned the tensor itself, 5 wraps it.
    tensor = output if isinstance(output, torch.Tensor) else getattr(output, "pooler_output", None)
    if not isinstance(tensor, torch.Tensor) or tensor.shape[0] != count:
        raise ModelInvalid(
            "The model gives no pooled vector for a picture. Use an encoder such as CLIP, SigLIP "
            "or DINOv2."
        )
    # DINOv2 gives a slice of all its tokens: not contiguous, and it would keep them in memory.
    return np.ascontiguousarray(tensor.reshape(count, -1).float().cpu().numpy())


def _check_apart(vectors: Vectors, what: str, why: str) -> None:
    """Raise ModelInvalid if the model gives no numbers, or the same for different inputs."""
    if not np.isfinite(vectors).all() or np.array_equal(vectors[0], vectors[1]):
        raise ModelInvalid(
            f"The model gives no usable vectors for {what}: its {why}, or its weights are "
            "damaged. Download the checkpoint again, as a whole."
        )


def _resized_side(processor: Any) -> int:
    """Return the side in pixels that pictures are resized to, 0 if they are not resized."""
    if not getattr(processor, "do_resize", False):
        return 0
    sides = (getattr(processor.size, name, None) for name in ("shortest_edge", "height", "width"))
    return max((int(side) for side in sides if side), default=0)


def _without_far_ends(image: RgbImage) -> RgbImage:
    """Cut a very long picture to its middle, which is all that the centre crop keeps.

    Resized whole, a picture of 1 x 60000 pixels would take 9 GB.
    """
    height, width = image.shape[:2]
    tall, wide = without_far_ends(height, width)
    if (tall, wide) == (height, width):
        return image
    top, left = (height - tall) // 2, (width - wide) // 2
    return np.ascontiguousarray(image[top : top + tall, left : left + wide])
