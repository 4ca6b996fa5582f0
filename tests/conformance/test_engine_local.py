"""The local engine keeps the contract, with segments made early and late."""

from __future__ import annotations

from typing import ClassVar

from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.testing.engine import EngineConformance
from lookalike.backends.types import IndexSpec


class TestLocalDeltaOnly(EngineConformance):
    engine_cls = LocalEngine


class TestLocalTinySegments(EngineConformance):
    engine_cls = LocalEngine
    options: ClassVar[dict[str, object]] = {"delta_limit": 16}


class TestLocalAuto(EngineConformance):
    engine_cls = LocalEngine
    index = IndexSpec("auto")
    options: ClassVar[dict[str, object]] = {"delta_limit": 32}
