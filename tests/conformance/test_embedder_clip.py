"""CLIP, SigLIP and DINOv2 checkpoints keep the embedder's contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lookalike.backends.embed.base import Embedder, EmbedderOptions
from lookalike.backends.embed.drawn import dead_leaves
from lookalike.backends.registry import embedders
from lookalike.backends.testing.embed import EmbedderConformance
from lookalike.backends.types import RgbImage
from tiny_clip import tiny_clip, tiny_dino, tiny_siglip


@pytest.fixture(scope="module")
def leaves() -> list[RgbImage]:
    """Make the suite's pictures once for all classes: it takes seconds."""
    print("seed", EmbedderConformance.seed)
    rng = np.random.default_rng(EmbedderConformance.seed)
    sizes = [(96, 128), (128, 96), (100, 150), (64, 64)] * 8
    return [dead_leaves(rng, height, width) for height, width in sizes]


class Checkpoints(EmbedderConformance):
    embedder_cls = embedders.resolve("clip")
    make: ClassVar[Callable[[Path], Path]]
    extra: ClassVar[dict[str, object]] = {}
    needs: ClassVar[str] = ""

    # Opened once for all tests of a class: they do not change it, and loading takes a while.
    @pytest.fixture(scope="class")
    @classmethod
    def options(cls, tmp_path_factory: pytest.TempPathFactory) -> EmbedderOptions:
        if cls.needs and find_spec(cls.needs) is None:
            pytest.skip(f"{cls.needs} is not installed")
        folder = cls.make(tmp_path_factory.mktemp("checkpoint"))
        return EmbedderOptions(str(folder), device="cpu", threads=1, extra=cls.extra)

    @pytest.fixture(scope="class")
    @classmethod
    def embedder(cls, options: EmbedderOptions) -> Iterator[Embedder]:
        opened = cls.embedder_cls.open(options)
        yield opened
        opened.close()

    @pytest.fixture
    def pictures(self, leaves: list[RgbImage]) -> list[RgbImage]:
        return leaves


@pytest.mark.clip
class TestClip(Checkpoints):
    make = tiny_clip


@pytest.mark.clip
class TestClipInHalfPrecision(Checkpoints):
    make = tiny_clip
    extra: ClassVar[dict[str, object]] = {"runtime": "torch", "precision": "bf16"}


@pytest.mark.clip
class TestClipInOpenVino(Checkpoints):
    make = tiny_clip
    extra: ClassVar[dict[str, object]] = {"runtime": "openvino", "precision": "fp32"}
    needs = "openvino"


@pytest.mark.clip
class TestClipInOpenVinoInHalfPrecision(Checkpoints):
    make = tiny_clip
    extra: ClassVar[dict[str, object]] = {
        "runtime": "openvino",
        "precision": "bf16",
        "streams": 2,
    }
    needs = "openvino"


@pytest.mark.clip
class TestClipInInt8(Checkpoints):
    make = tiny_clip
    extra: ClassVar[dict[str, object]] = {"precision": "int8", "force_precision": True}
    needs = "nncf"


@pytest.mark.clip
class TestSiglip(Checkpoints):
    make = tiny_siglip


@pytest.mark.clip
class TestDino(Checkpoints):
    make = tiny_dino
