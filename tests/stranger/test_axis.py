"""The stranger's whole test file: the suite that lookalike ships."""

from lookalike.backends.testing.index import IndexConformance


class TestAxis(IndexConformance):
    backend = "axis"
    min_recall = 0.8
