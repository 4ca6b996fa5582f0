"""hnswlib against the contract."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("lookalike.backends.testing.index")

from lookalike.backends.testing.index import IndexConformance


class TestHnswlib(IndexConformance):
    backend = "hnswlib"
    min_recall = 0.98
