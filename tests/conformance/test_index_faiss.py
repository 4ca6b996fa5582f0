"""FAISS's kinds of index against the contract."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("lookalike.backends.testing.index")

from lookalike.backends.testing.index import IndexConformance
from lookalike.backends.types import FlatParams, HnswParams, IndexSpec, IvfParams


class TestFaissFlat(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", FlatParams())
    min_recall = 1.0


class TestFaissHnsw(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", HnswParams())
    min_recall = 0.98


class TestFaissIvf(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", IvfParams())
    min_recall = 0.98


class TestFaissCodesRefined(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", options={"factory": "IVF16,PQ16x4fs,RFlat"})


class TestFaissAllCodes(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", options={"factory": "PQ16x4fs"})


class TestFaissScalarCodes(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", options={"factory": "SQ8"})


class TestFaissRotatedCodes(IndexConformance):
    backend = "faiss"
    spec = IndexSpec("faiss", options={"factory": "PCAR24,IVF16,SQfp16"})
