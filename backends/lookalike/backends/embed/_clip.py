"""Embedders from checkpoints that transformers loads: CLIP, SigLIP, DINOv2 and their like."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from lookalike.backends.embed._checkpoint import Checkpoint
from lookalike.backends.embed._clip_choice import PLAIN, TEXTS, Chooser
from lookalike.backends.embed._clip_load import (
    Parts,
    Settings,
    explained,
    load,
    load_model,
    quiet,
)
from lookalike.backends.embed._clip_patches import PatchReader, without_far_ends
from lookalike.backends.embed._clip_runtime import CPU_BATCH, Pixels, Runtime, Tokens, TorchRuntime
from lookalike.backends.embed._kept import Kept
from lookalike.backends.embed.base import (
    CheckedEmbedder,
    EmbedderOptions,
    PatchEmbedder,
    PatchVectors,
    TextEmbedder,
    TextVectors,
    Verdict,
    Window,
)
from lookalike.backends.embed.parity import compare
from lookalike.backends.errors import InvalidArgument, ModelInvalid
from lookalike.backends.types import Prepared, RgbImage, Vectors

_WIDTH_STEP = 8
"""Texts are padded to a multiple of this many tokens: few shapes, so memory stays flat."""
_LEAST = 32
"""Pictures that a comparison needs at least."""
_ALONE = 32
"""Pictures that are also embedded one by one, to compare with the batch."""
_MAX_CONTEXT = 512
"""Tokens read at most of a model that names no limit."""

# transformers sets process-wide flags while it builds a model (default dtype, initialisation)
# and imports its modules lazily: one load at a time.
_loading = threading.Lock()


class ClipEmbedder(CheckedEmbedder):
    """A vision model. `open` gives one with the capabilities that a checkpoint has.

    The vectors are those of `get_image_features`, or `pooler_output` where a model
    has no such method (DINOv2). `extra`: "runtime" is "auto" (default), "torch" or
    "openvino"; "precision" is "auto" (default), "fp32", "bf16", "fp16" or "int8";
    "force_precision" true uses one that the parity gate refuses; "streams" is how
    many batches OpenVINO computes side by side; "offline" true never asks the hub;
    "revision" is a branch, tag or commit of a hub name.
    """

    def __init__(self, opening: Opening, runtime: Runtime) -> None:
        parts = opening.parts
        self._opening = opening
        self._runtime = runtime
        self._processor = parts.processor
        self.device = str(opening.settings.device)
        self.max_batch = runtime.best_batch
        # Twice the side that is resized to: shrinking to it moved pixels by 0.24 of 255.
        self.decode_side = 2 * _resized_side(parts.processor)
        self._keeps_aspect = bool(getattr(parts.processor.size, "shortest_edge", None))

    @classmethod
    def open(cls, options: EmbedderOptions) -> ClipEmbedder:
        """Load a checkpoint; pick the class by what it knows. Any thread, one at a time.

        Raises ModelInvalid for a checkpoint that is absent, incomplete, pickled or of
        an unknown kind, and for a precision that the parity gate refuses;
        BackendUnavailable for a device or a library that is not there.
        """
        settings = Settings.read(options)
        with _loading, quiet():
            checkpoint = Checkpoint.find(
                options.model, offline=settings.offline, revision=settings.revision
            )
            with explained(checkpoint):
                kept = Kept(options.cache, may_write=not options.cache_read_only)
                opening = Opening(checkpoint, settings, load(checkpoint, settings), kept)
                # In a thread that ends with it: OpenMP keeps a pool for each thread that computed.
                with ThreadPoolExecutor(1, thread_name_prefix="clip-probe") as pool:
                    return pool.submit(_opened, opening).result()

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
        return self._runtime.images(np.stack(batch))

    def verify(self, pictures: Iterable[RgbImage]) -> Verdict:
        """Compare with transformers in fp32, which computes all of them again."""
        plain, runtime = self._opening.plain(), self._runtime
        rows: list[tuple[Vectors, Vectors]] = []
        alone: list[Vectors] = []
        for some in _batches(pictures, CPU_BATCH):
            pixels: Pixels = np.stack([self.prepare(picture) for picture in some])
            rows.append((plain.images(pixels), runtime.images(pixels)))
            if len(alone) < _ALONE:
                alone += [runtime.images(pixels[i : i + 1]) for i in range(len(pixels))]
        if sum(len(row[0]) for row in rows) < _LEAST:
            raise InvalidArgument(
                f"Too few pictures to compare on: take {_LEAST} or more, best some hundreds."
            )
        reference, found = (np.concatenate(one) for one in zip(*rows, strict=True))
        tokens = self.tokens(TEXTS) if isinstance(self, ClipTextEmbedder) else None
        texts = None if tokens is None else (plain.texts(tokens), runtime.texts(tokens))
        comparison = compare(reference, found, np.concatenate(alone), texts)
        if self._opening.verdict_name:
            self._opening.kept.keep_record(self._opening.verdict_name, comparison.as_record())
        return Verdict(comparison, comparison.faults(self.numerics["precision"]))

    def close(self) -> None:
        self._runtime.close()
        self._opening.forget()

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

    def __init__(self, opening: Opening, runtime: Runtime) -> None:
        super().__init__(opening, runtime)
        parts = opening.parts
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
        counts = self._counts(texts)
        vectors = self._runtime.texts(self._tokens(texts, max(counts)))
        return TextVectors(vectors, [count > self._context for count in counts])

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return what the text tower reads of some texts."""
        return self._tokens(texts, max(self._counts(texts)))

    def _counts(self, texts: Sequence[str]) -> list[int]:
        whole = self._tokenizer(list(texts), verbose=False)["input_ids"]
        return [len(ids) for ids in whole]

    def _tokens(self, texts: Sequence[str], longest: int) -> Tokens:
        made = self._tokenizer(
            list(texts),
            truncation=True,
            padding="max_length",
            max_length=self._width(longest),
            return_tensors="np",
        )
        return {name: np.asarray(array, np.int64) for name, array in made.items()}

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
    """A vision transformer whose patches are known, too.

    They are computed in torch, whatever computes the vectors.
    """

    def __init__(self, opening: Opening, runtime: Runtime, patches: PatchReader) -> None:
        super().__init__(opening, runtime)
        self._patches = patches
        self.patches_know_texts = patches.projects and opening.parts.tokenizer is not None

    def embed_patches(self, batch: Sequence[Prepared]) -> PatchVectors:
        """Return what `PatchReader` reads."""
        plain = self._opening.plain()
        with plain.computing():
            return replace(self._patches, model=plain.model)(plain.read(np.stack(batch)))

    def patch_window(self, height: int, width: int) -> Window:
        return self._patches.framing.window(height, width)


class ClipPatchTextEmbedder(ClipPatchEmbedder, ClipTextEmbedder):
    """One that puts texts into the same space."""


@dataclass(slots=True)
class Opening:
    """A checkpoint being opened, and what is left of it then."""

    checkpoint: Checkpoint
    settings: Settings
    parts: Parts
    kept: Kept
    verdict_name: str = ""
    """What `verify` keeps its result by; "" for the reference itself."""
    _plain: TorchRuntime | None = None

    def plain(self) -> TorchRuntime:
        """Return the model in torch and fp32, loading it if it was let go. One thread."""
        if self._plain is None:
            settings = self.settings
            model = self.parts.model
            if model is None:
                with _loading, quiet(), explained(self.checkpoint):
                    model = load_model(self.checkpoint, settings)
            self._plain = TorchRuntime(model, settings.device, "fp32", settings.threads)
        return self._plain

    def forget(self) -> None:
        """Let the model in torch go."""
        self.parts = replace(self.parts, model=None)
        self._plain = None


def _opened(opening: Opening) -> ClipEmbedder:
    """Return an embedder of the right class, tried out. Raises ModelInvalid."""
    knows_text = opening.parts.tokenizer is not None
    plain = opening.plain()
    tried = (ClipTextEmbedder if knows_text else ClipEmbedder)(opening, plain)
    tried._probe()
    with plain.computing():
        model, processor = opening.parts.model, opening.parts.processor
        found = PatchReader.find(
            model, processor, tried.prepare, lambda batch: plain.read(np.stack(batch))
        )
    tokens = tried.tokens if isinstance(tried, ClipTextEmbedder) else None
    chosen = Chooser(opening.parts, opening.settings, opening.kept, tried.prepare, tokens).choose()
    opened = _of_kind(opening, chosen.runtime, found)
    opened.dim, opened.space, opened.also = tried.dim, chosen.space, chosen.also
    opened.numerics = {**chosen.way._asdict(), "parity": chosen.standing.word}
    if chosen.way != PLAIN:
        opening.verdict_name = chosen.verdict_name
        opening.forget()
    return opened


def _of_kind(opening: Opening, runtime: Runtime, patches: PatchReader | None) -> ClipEmbedder:
    knows_text = opening.parts.tokenizer is not None
    if patches is None:
        return (ClipTextEmbedder if knows_text else ClipEmbedder)(opening, runtime)
    kind = ClipPatchTextEmbedder if knows_text else ClipPatchEmbedder
    return kind(opening, runtime, replace(patches, model=None))


def _batches(pictures: Iterable[RgbImage], count: int) -> Iterator[list[RgbImage]]:
    source = iter(pictures)
    while batch := list(islice(source, count)):
        yield batch


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
