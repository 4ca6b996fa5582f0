"""The fake embedder keeps the contract, so tests with it mean something."""

from __future__ import annotations

from lookalike.backends.testing.embed import EmbedderConformance
from lookalike.backends.testing.fakes import FakeEmbedder


class TestFake(EmbedderConformance):
    embedder_cls = FakeEmbedder
