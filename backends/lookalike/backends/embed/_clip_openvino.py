"""The same checkpoint in OpenVINO: converted once, kept, and run on the CPU."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.backends.embed._clip_runtime import (
    CPU_BATCH,
    Pixels,
    Runtime,
    Tokens,
    image_features,
    pooled_tensor,
)
from lookalike.backends.embed._kept import Kept
from lookalike.backends.errors import BackendUnavailable, ModelInvalid
from lookalike.backends.types import Vectors

_log = logging.getLogger(__name__)

_CONVERSION = "openvino-2"
"""Version of what is done here to a model; part of the name that it is kept by."""
_HINTS = {"fp32": "f32", "bf16": "bf16"}
IMAGE, TEXT = "image", "text"


def openvino() -> Any:
    """Import the library. Raises BackendUnavailable.

    It comes with a package that reports each import and conversion to its makers
    unless somebody has said no; without the package it reports nothing.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", cast(Any, None))
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise BackendUnavailable(
            "The runtime openvino is not installed. Install it with: "
            "pip install 'lookalike[openvino]', or set runtime to torch.",
            backend="openvino",
            extra="openvino",
        ) from error


def is_installed() -> bool:
    """Say whether the library can be imported."""
    try:
        openvino()
    except BackendUnavailable:
        return False
    return True


def version() -> str:
    """Return the library's version, "" where it is not installed."""
    return str(openvino().__version__).split("-")[0] if is_installed() else ""


def computes_bf16() -> bool:
    """Say whether this CPU multiplies bf16 matrices in hardware."""
    found = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in found


@dataclass(frozen=True, slots=True)
class Source:
    """A loaded checkpoint, for conversion."""

    model: Any
    """In torch, fp32, on the CPU."""
    example: Pixels
    """Two prepared pictures."""
    tokens: Tokens | None
    """Two tokenized texts, None for a model without."""
    fingerprint: str
    """Of the checkpoint's content and of whatever else changes a conversion."""


def converted(source: Source, kept: Kept) -> Mapping[str, Any]:
    """Return the towers as OpenVINO models, from the disk if they were kept there.

    Raises ModelInvalid for a model that cannot be converted.
    """
    name = f"{_CONVERSION}-{source.fingerprint}"
    ways = [IMAGE] if source.tokens is None else [IMAGE, TEXT]
    if (folder := kept.folder(name)) is not None:
        return read(folder, ways)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: about shapes, which are fixed here
        models = {IMAGE: _traced_images(source)}
        if source.tokens is not None:
            models[TEXT] = _traced_texts(source.model, source.tokens)
    _log.info("checkpoint converted for openvino")
    return keep(kept, name, models)


def keep(kept: Kept, name: str, models: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the models as they were kept; as they are, where nothing can be kept."""

    def save(folder: Path) -> None:
        for way, model in models.items():
            openvino().save_model(model, folder / f"{way}.xml", compress_to_fp16=False)

    folder = kept.keep_folder(name, save)
    # Read again, their weights are pages of a file, and not memory twice.
    return models if folder is None else read(folder, list(models))


def read(folder: Path, ways: Sequence[str]) -> dict[str, Any]:
    """Read models that were kept."""
    core = openvino().Core()
    return {way: core.read_model(folder / f"{way}.xml") for way in ways}


class OpenVinoRuntime(Runtime):
    """Models compiled for this CPU.

    Batches have no fixed size: a model compiled for any gave within 3 % the speed of
    one compiled for eight, and bit for bit the same vector in each size.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        precision: str,
        *,
        threads: int,
        streams: int = 1,
        text_precision: str = "",
    ) -> None:
        core = openvino().Core()
        self.best_batch = CPU_BATCH * streams

        def compiled(way: str, hint: str, streams: int) -> Any:
            settings = {
                "INFERENCE_PRECISION_HINT": _HINTS[hint],
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": streams,
                # Pinned to cores, its threads wait for whatever decodes pictures there.
                "ENABLE_CPU_PINNING": False,
            }
            return core.compile_model(models[way], "CPU", settings)

        images = compiled(IMAGE, precision, streams)
        self._images = [images.create_infer_request() for _ in range(streams)]
        self._texts = None
        if TEXT in models:
            texts = compiled(TEXT, text_precision or precision, 1)
            self._texts = texts.create_infer_request()
            self._names = [port.any_name for port in texts.inputs]

    def images(self, pixels: Pixels) -> Vectors:
        streams = min(len(self._images), -(-len(pixels) // 2))
        if streams == 1:
            return _infer(self._images[0], {0: pixels})
        parts = np.array_split(pixels, streams)
        for request, part in zip(self._images, parts, strict=False):
            request.start_async({0: part}, share_inputs=True)
        for request in self._images[:streams]:
            request.wait()
        found = [request.get_output_tensor(0).data for request in self._images[:streams]]
        return np.concatenate(found)

    def texts(self, tokens: Tokens) -> Vectors:
        assert self._texts is not None
        return _infer(self._texts, {name: tokens[name] for name in self._names})

    def close(self) -> None:
        self._images, self._texts = [], None


def _infer(request: Any, inputs: Mapping[Any, NDArray[Any]]) -> Vectors:
    request.infer(inputs, share_inputs=True, share_outputs=True)
    # A copy: the next call writes into the same memory.
    return np.array(request.get_output_tensor(0).data, np.float32)


class _Pictures(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pooled_tensor(image_features(self.model, pixels), len(pixels)).flatten(1)


class _Texts(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)

    def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
        given = dict(zip(self.names, tokens, strict=True))
        return pooled_tensor(self.model.get_text_features(**given), len(tokens[0])).flatten(1)


def _traced_images(source: Source) -> Any:
    example = torch.from_numpy(source.example)
    shape = [-1, *source.example.shape[1:]]
    return _traced(_Pictures(source.model), [example], [shape], ["pixels"])


def _traced_texts(model: Any, tokens: Tokens) -> Any:
    names = sorted(tokens)
    example = [torch.from_numpy(tokens[name]) for name in names]
    return _traced(_Texts(model, names), example, [[-1, -1]] * len(names), names)


def _traced(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    shapes: Sequence[Sequence[int]],
    names: Sequence[str],
) -> Any:
    try:
        with torch.no_grad():
            # Without its check, which runs the model three more times.
            traced = torch.jit.trace(module, tuple(example), check_trace=False, strict=False)
            model = openvino().convert_model(traced, input=[list(shape) for shape in shapes])
    except Exception as error:
        raise ModelInvalid(
            "The checkpoint cannot be converted for OpenVINO "
            f"({type(error).__name__}). Set its runtime to torch."
        ) from error
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    return model
