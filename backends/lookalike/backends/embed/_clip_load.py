"""Loads a checkpoint with transformers, quietly, and explains what fails."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lookalike.backends.embed._checkpoint import Checkpoint, refuse_incomplete
from lookalike.backends.embed.base import EmbedderOptions
from lookalike.backends.errors import BackendUnavailable, ModelInvalid
from lookalike.backends.types import RgbImage

_ADAPTER = "clip/1"
"""Version of what the embedder itself does to pictures and texts; part of every space."""
_BACKEND = "pil"
"""transformers' image processing; the torchvision one gives other pixels."""
_RUNTIMES = ("auto", "torch", "openvino")
_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_EXTRA = ("force_precision", "offline", "precision", "revision", "runtime", "streams")


@dataclass(frozen=True, slots=True)
class Settings:
    device: torch.device
    runtime: str
    precision: str
    force_precision: bool
    threads: int
    streams: int
    offline: bool
    revision: str | None
    calibration: Callable[[], Sequence[RgbImage]] | None

    @classmethod
    def read(cls, options: EmbedderOptions) -> Self:
        """Raises ModelInvalid for what is unknown or does not go together."""
        extra = options.extra
        _check_names(extra)
        revision = extra.get("revision")
        device = _device(options.device)
        runtime = _one_of("runtime", extra.get("runtime", "auto"), _RUNTIMES)
        precision = _one_of("precision", extra.get("precision", "auto"), _PRECISIONS)
        _check_together(runtime, precision, device)
        return cls(
            device=device,
            runtime=runtime,
            precision=precision,
            force_precision=_flag("force_precision", extra),
            threads=options.threads or len(os.sched_getaffinity(0)),
            streams=_streams(extra),
            offline=_flag("offline", extra),
            revision=None if revision is None else str(revision),
            calibration=options.calibration,
        )


@dataclass(frozen=True, slots=True)
class Parts:
    model: Any
    """In torch, fp32; None once another runtime has taken its place."""
    processor: Any
    tokenizer: Any
    """None: the model knows pictures only."""
    space: Callable[..., str]
    """Gives the fingerprint of the checkpoint and of further facts."""


def load(checkpoint: Checkpoint, settings: Settings) -> Parts:
    """Load a checkpoint as it is, in fp32."""
    source: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model = load_model(checkpoint, settings)
    processor = _processor(checkpoint, source)
    tokenizer = _tokenizer(checkpoint, source) if _knows_text(model) else None
    contents = checkpoint.contents()

    def space(*facts: str) -> str:
        return "clip/" + contents.fingerprint(_ADAPTER, type(processor).__name__, _BACKEND, *facts)

    return Parts(model, processor, tokenizer, space)


def load_model(checkpoint: Checkpoint, settings: Settings) -> Any:
    """Load the weights alone."""
    model, report = AutoModel.from_pretrained(
        checkpoint.folder,
        dtype=torch.float32,  # the default would be the file's own precision
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # so that they are reported, and refused here by name
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    refuse_incomplete(checkpoint.name, report["missing_keys"], report["mismatched_keys"])
    return model.to(settings.device)


def _processor(checkpoint: Checkpoint, source: dict[str, Any]) -> Any:
    if not checkpoint.has_preprocessing:
        raise ModelInvalid(
            f"The checkpoint {checkpoint.name!r} has no preprocessor_config.json, so how to "
            "prepare pictures is not known. Copy the file from where the checkpoint comes from.",
            model=checkpoint.name,
        )
    return AutoImageProcessor.from_pretrained(checkpoint.folder, backend=_BACKEND, **source)


def _tokenizer(checkpoint: Checkpoint, source: dict[str, Any]) -> Any:
    if not checkpoint.has_vocabulary:
        raise ModelInvalid(
            f"The checkpoint {checkpoint.name!r} has no tokenizer files (tokenizer.json, or "
            "vocab.json and merges.txt). Copy them from where the checkpoint comes from.",
            model=checkpoint.name,
        )
    return AutoTokenizer.from_pretrained(checkpoint.folder, **source)


def _knows_text(model: Any) -> bool:
    return hasattr(model, "get_image_features") and hasattr(model, "get_text_features")


def _check_names(extra: Mapping[str, object]) -> None:
    for name in extra:
        if name not in _EXTRA:
            near = difflib.get_close_matches(name, _EXTRA, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ModelInvalid(
                f"The clip embedder has no setting {name!r}.{hint} It knows: {', '.join(_EXTRA)}."
            )


def _one_of(name: str, value: object, known: Sequence[str]) -> str:
    if value in known:
        return str(value)
    near = difflib.get_close_matches(str(value).lower(), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ModelInvalid(f"The {name} {value!r} is unknown.{hint} Use one of {', '.join(known)}.")


def _flag(name: str, extra: Mapping[str, object]) -> bool:
    value = extra.get(name, False)
    if not isinstance(value, bool):
        raise ModelInvalid(f"The setting {name} is true or false, not {value!r}.")
    return value


def _streams(extra: Mapping[str, object]) -> int:
    value = extra.get("streams", 1)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 64:
        raise ModelInvalid(f"The setting streams is a whole number from 1 to 64, not {value!r}.")
    return value


def _check_together(runtime: str, precision: str, device: torch.device) -> None:
    """Raise ModelInvalid for what no machine could do."""
    on_gpu = device.type == "cuda"
    if runtime == "openvino" and on_gpu:
        raise ModelInvalid(
            f"The runtime openvino computes on the CPU, not on {device}. Set device to cpu, or "
            "runtime to torch."
        )
    if precision == "int8" and (runtime == "torch" or on_gpu):
        where = f"on {device}" if on_gpu else "in torch"
        raise ModelInvalid(
            f"The precision int8 is not there {where}. Use runtime openvino on the CPU, or "
            "precision bf16."
        )
    if precision == "fp16" and runtime == "openvino":
        raise ModelInvalid(
            "The precision fp16 is not there in openvino. Use bf16, or runtime torch."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ModelInvalid(f"The device {name!r} is unknown. Use auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise BackendUnavailable(
            f"The device {name!r} is not there: torch sees {count} CUDA devices. Use auto or cpu, "
            "or install a driver and a torch built for CUDA."
        )
    return device


@contextmanager
def explained(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn whatever loading raises into ModelInvalid; transformers raises almost anything."""
    try:
        yield
    except (ModelInvalid, BackendUnavailable):
        raise
    except ImportError as error:
        # SigLIP's first tokenizer; the others come with transformers.
        wants_pieces = "sentencepiece" in str(error).lower()
        cure = "pip install sentencepiece" if wants_pieces else _one_line(error, checkpoint)
        raise ModelInvalid(
            f"The checkpoint {checkpoint.name!r} needs a library that is not installed: {cure}",
            model=checkpoint.name,
        ) from error
    except Exception as error:
        raise ModelInvalid(
            f"The checkpoint {checkpoint.name!r} cannot be loaded as an image encoder "
            f"({type(error).__name__}: {_one_line(error, checkpoint)}). Use a CLIP, SigLIP or "
            "DINOv2 checkpoint in the layout of transformers.",
            model=checkpoint.name,
        ) from error


def _one_line(error: Exception, checkpoint: Checkpoint) -> str:
    text = " ".join(str(error).split()).replace(str(checkpoint.folder), "the folder")
    return text if len(text) <= 200 else text[:200] + "..."


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and reports out of the log, for the time of a load."""
    verbosity = transformers_logging.get_verbosity()
    has_bars = transformers_logging.is_progress_bar_enabled()
    had_hub_bars = not are_progress_bars_disabled()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()
        if had_hub_bars:
            enable_progress_bars()
