"""Chooses runtime and precision, and lets in only what has passed the parity gate."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from lookalike.backends.embed import _clip_openvino
from lookalike.backends.embed._clip_int8 import Calibrated, calibrated
from lookalike.backends.embed._clip_load import Parts, Settings
from lookalike.backends.embed._clip_openvino import OpenVinoRuntime, Source
from lookalike.backends.embed._clip_runtime import Pixels, Runtime, Tokens, TorchRuntime
from lookalike.backends.embed._kept import Kept
from lookalike.backends.embed.drawn import NAME as DRAWN
from lookalike.backends.embed.drawn import drawn
from lookalike.backends.embed.parity import Comparison, compare
from lookalike.backends.errors import LookalikeError, ModelInvalid
from lookalike.backends.types import Prepared, RgbImage, Vectors

_log = logging.getLogger(__name__)

_CHECKED = 16
"""Drawn pictures of the short check at the first start."""
TEXTS = ("a dog", "seven ships at sea", "x", "a red bicycle that leans against a white wall")
_BATCH = 8
_TIMED = 3
"""Batches timed; the fastest counts, for others may be at work beside."""
_QUICK_S = 0.05
"""A model that embeds eight pictures in less gains nothing by being chosen for: pictures take
longer to decode."""


class Way(NamedTuple):
    """How vectors are computed."""

    runtime: str
    precision: str


PLAIN = Way("torch", "fp32")
"""What all others are compared with: transformers as it is."""
_SAME = Comparison(0, 1, 1, 1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the parity gate says of a way."""

    comparison: Comparison | None
    """None: never compared."""
    faults: Sequence[str]
    by_user: bool = False
    """Compared on the user's own pictures by `lookalike model verify`."""

    @property
    def passed(self) -> bool:
        return self.comparison is not None and not self.faults

    @property
    def word(self) -> str:
        if self.comparison is _SAME:
            return "reference"
        if not self.passed:
            return "forced"
        return "verified" if self.by_user else "checked"


@dataclass(frozen=True, slots=True)
class Chosen:
    runtime: Runtime
    way: Way
    space: str
    also: frozenset[str]
    standing: Standing
    verdict_name: str
    """What a comparison on the user's own pictures is kept by."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How fast a way is."""

    way: Way
    seconds: float
    """For a picture, in batches of eight."""
    fault: str = ""
    """Why it is not to be used."""

    def __str__(self) -> str:
        speed = f" images_per_s={1 / self.seconds:.1f}" if self.seconds else ""
        fault = f" not used: {self.fault}" if self.fault else ""
        return f"runtime={self.way.runtime} precision={self.way.precision}{speed}{fault}"


@dataclass(slots=True)
class Chooser:
    """Opens runtimes of one loaded checkpoint. One thread."""

    parts: Parts
    settings: Settings
    kept: Kept
    prepare: Callable[[RgbImage], Prepared]
    tokens: Callable[[Sequence[str]], Tokens] | None
    """None: the model knows pictures only."""
    _int8: Calibrated | None = None
    _known: dict[str, Vectors | Pixels] = field(default_factory=dict)

    def choose(self) -> Chosen:
        """Return the runtime that the settings ask for. Raises ModelInvalid if it is refused."""
        ways = possible(self.settings)
        way = ways[0] if len(ways) == 1 else self._remembered(ways) or self._measured(ways)
        runtime = self.build(way)
        standing = self.standing(way, runtime)
        if not standing.passed and not self.settings.force_precision:
            runtime.close()
            raise _refusal(way, standing)
        alone, name = self.space(way), self.verdict_name(way)
        if way.precision == "int8" or not standing.passed:
            return Chosen(runtime, way, alone, frozenset({alone}), standing, name)
        # What stands the gate is as good as fp32: one collection may hold vectors of both.
        shared = self.space(PLAIN)
        return Chosen(runtime, way, shared, frozenset({shared, alone}), standing, name)

    def space(self, way: Way) -> str:
        """Return the fingerprint of vectors that are computed in this way alone."""
        facts = [way.precision]
        if way.runtime != "torch":
            facts.append(way.runtime)
        if way.precision == "int8":
            facts.append(self._calibrated().digest)
        return self.parts.space(*facts)

    def build(self, way: Way) -> Runtime:
        """Return a runtime; the model in torch stays as it is."""
        settings, model = self.settings, self.parts.model
        if way.runtime == "torch":
            if way != PLAIN:
                model = copy.deepcopy(model)
            return TorchRuntime(model, settings.device, way.precision, settings.threads)
        rest, models = way.precision, self._converted
        if way.precision == "int8":
            rest = "bf16" if _clip_openvino.computes_bf16() else "fp32"
            models = self._calibrated().models
        return OpenVinoRuntime(models, rest, threads=settings.threads, streams=settings.streams)

    def standing(self, way: Way, runtime: Runtime) -> Standing:
        """Return what is known of a way; compare it shortly if that will do and was not done."""
        if way == PLAIN:
            return Standing(_SAME, [])
        if (verdict := self._record(self.verdict_name(way))) is not None:
            return Standing(verdict, verdict.faults(way.precision), by_user=True)
        if way.precision == "int8":
            return Standing(None, [])
        name = f"check-{_digest(self._facts(), way, DRAWN)}"
        comparison = self._record(name)
        if comparison is None:
            comparison = self._check(runtime)
            self.kept.keep_record(name, {**self._facts(), **comparison.as_record()})
        return Standing(comparison, comparison.faults(way.precision))

    def verdict_name(self, way: Way) -> str:
        """Return the name that a comparison on the user's own pictures is kept by."""
        return f"verdict-{_digest(self.space(way), way)}"

    def _calibrated(self) -> Calibrated:
        if self._int8 is None:
            self._int8 = calibrated(
                self._converted,
                self.kept,
                self.parts.space("int8")[-16:],
                self.settings.calibration,
                self.prepare,
            )
        return self._int8

    @property
    def _converted(self) -> Mapping[str, Any]:
        torch_name = f"{torch.__version__}+{transformers.__version__}"
        tokens = self._tokens(TEXTS[:2])
        source = Source(
            self.parts.model,
            self._pixels(2),
            tokens,
            self.parts.space("converted", _clip_openvino.version(), torch_name)[-16:],
        )
        return _clip_openvino.converted(source, self.kept)

    def _tokens(self, texts: Sequence[str]) -> Tokens | None:
        return None if self.tokens is None else self.tokens(texts)

    def _pixels(self, count: int) -> Pixels:
        made = self._known.get("pixels")
        if made is None:
            made = np.stack([self.prepare(picture) for picture in drawn(_CHECKED)])
            self._known["pixels"] = made
        return made[:count]

    def _record(self, name: str) -> Comparison | None:
        found = self.kept.record(name)
        try:
            return None if found is None else Comparison.of_record(found)
        except (KeyError, TypeError, ValueError):
            return None

    def _check(self, runtime: Runtime) -> Comparison:
        plain = TorchRuntime(self.parts.model, self.settings.device, "fp32", self.settings.threads)
        pixels, tokens = self._pixels(_CHECKED), self._tokens(TEXTS)
        if "reference" not in self._known:
            self._known["reference"] = _batched(plain, pixels)
        found = _batched(runtime, pixels)
        alone = np.concatenate([runtime.images(pixels[i : i + 1]) for i in range(3)])
        texts = None if tokens is None else (plain.texts(tokens), runtime.texts(tokens))
        return compare(self._known["reference"], found, alone, texts)

    # ------------------------------------------------------------ the choice

    def _remembered(self, ways: Sequence[Way]) -> Way | None:
        record = self.kept.record(self._choice_name(ways)) or {}
        way = Way(str(record.get("runtime")), str(record.get("precision")))
        if way not in ways:
            return None
        verdict = self._record(self.verdict_name(way))
        return None if verdict is not None and verdict.faults(way.precision) else way

    def _measured(self, ways: Sequence[Way]) -> Way:
        """Time each way that stands the gate; remember the fastest, with all figures."""
        plain_s = self._timed(self.build(PLAIN))
        if plain_s * _BATCH < _QUICK_S:
            return PLAIN if PLAIN in ways else ways[0]
        tried = [Trial(way, plain_s) if way == PLAIN else self._tried(way) for way in ways]
        for trial in tried:
            _log.info("runtime tried %s", trial)
        usable = [trial for trial in tried if not trial.fault]
        if not usable:
            reasons = "; ".join(f"{trial.way.precision}: {trial.fault}" for trial in tried)
            raise ModelInvalid(
                f"No precision that the settings allow can be used ({reasons}). Set precision to "
                "fp32."
            )
        best = min(usable, key=lambda trial: trial.seconds)
        figures = [
            {**t.way._asdict(), "ms": round(t.seconds * 1e3, 5), "not_used": t.fault} for t in tried
        ]
        record = {**best.way._asdict(), "figures": figures, "machine": self._facts()}
        self.kept.keep_record(self._choice_name(ways), record)
        return best.way

    def _tried(self, way: Way) -> Trial:
        try:
            runtime = self.build(way)
        except LookalikeError as error:
            return Trial(way, 0.0, error.message)
        try:
            standing = self.standing(way, runtime)
            return Trial(way, self._timed(runtime), "; ".join(standing.faults))
        finally:
            runtime.close()

    def _timed(self, runtime: Runtime) -> float:
        """Return the seconds that a picture takes in a batch."""
        pixels = self._pixels(_BATCH)
        times = []
        for _ in range(_TIMED + 1):
            start = time.perf_counter()
            runtime.images(pixels)
            times.append(time.perf_counter() - start)
        return min(times[1:]) / len(pixels)

    def _choice_name(self, ways: Sequence[Way]) -> str:
        return f"choice-{_digest(self._facts(), list(ways))}"

    def _facts(self) -> dict[str, Any]:
        """Return what the speed and the numbers of a way depend on."""
        return {
            "checkpoint": self.parts.space("fp32"),
            "cpu": _cpu(),
            "device": str(self.settings.device),
            "threads": self.settings.threads,
            "streams": self.settings.streams,
            "torch": str(torch.__version__),
            "transformers": str(transformers.__version__),
            "openvino": _clip_openvino.version(),
        }


def possible(settings: Settings) -> list[Way]:
    """Return the ways that the settings leave open on this machine, at least one."""
    on_gpu = settings.device.type == "cuda"
    runtime, precision = settings.runtime, settings.precision
    if runtime == "openvino" or precision == "int8":
        _clip_openvino.openvino()
    if precision == "int8":
        return [Way("openvino", "int8")]
    if on_gpu or precision == "fp16" or runtime == "torch":
        runtimes = ["torch"]
    elif runtime == "openvino":
        runtimes = ["openvino"]
    else:
        runtimes = ["torch", *(["openvino"] if _clip_openvino.is_installed() else [])]
    if precision != "auto":
        return [Way(name, precision) for name in runtimes]
    precisions = ["fp32", *(["bf16"] if on_gpu or _has_bf16() else [])]
    return [Way(name, precision) for name in runtimes for precision in precisions]


def _batched(runtime: Runtime, pixels: Pixels) -> Vectors:
    step = runtime.best_batch
    return np.concatenate(
        [runtime.images(pixels[i : i + step]) for i in range(0, len(pixels), step)]
    )


def _refusal(way: Way, standing: Standing) -> ModelInvalid:
    if standing.comparison is None:
        what = "was never compared with fp32 on pictures of yours"
        cure = "Run lookalike model verify --photos DIR"
    else:
        what = f"is too far from fp32 ({'; '.join(standing.faults)})"
        cure = "Use another precision"
    return ModelInvalid(
        f"The precision {way.precision} in {way.runtime} {what}. {cure}, or set "
        "force_precision = true in the model's options.",
        precision=way.precision,
        runtime=way.runtime,
    )


def _has_bf16() -> bool:
    """Say whether the CPU multiplies bf16; without, torch is slower with it than without."""
    return not _cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(x.split()) for x in lines if x.startswith(("flags", "Features"))), set())


def _cpu() -> str:
    """Return the processor's name and what it can do that matters here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    named = [fields.get(name, "") for name in ("model name", "cpu family", "model\t")]
    able = sorted(f for f in _cpu_flags() if f.startswith(("avx", "amx", "bf16", "asimd")))
    return " ".join([*named, os.uname().machine, *able]).strip()


def _digest(*facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
