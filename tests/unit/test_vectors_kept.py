from __future__ import annotations

import numpy as np
import pytest

from lookalike.backends.errors import LookalikeError
from lookalike.backends.types import Metric
from lookalike.server.domain import CollectionConfig, Vector
from lookalike.server.vectors import all_as_kept, as_kept


def alone(vector: Vector, config: CollectionConfig) -> object:
    try:
        return as_kept(vector, config).tobytes()
    except LookalikeError as error:
        return (error.reason, error.field)


@pytest.mark.parametrize("metric", list(Metric))
def test_many_vectors_are_kept_bit_by_bit_as_each_alone_is(metric: Metric) -> None:
    for seed in range(30):
        print("seed", seed)
        rng = np.random.default_rng(seed)
        dim = int(rng.integers(1, 700))
        config = CollectionConfig("c", metric=metric, dimension=dim)
        rows = (rng.standard_normal((40, dim)) * 10.0 ** rng.integers(-20, 18)).astype(np.float32)
        rows[:10] /= np.linalg.norm(rows[:10].astype(np.float64), axis=1, keepdims=True)
        rows[11] = 0
        rows[12, 0], rows[13, -1] = np.nan, np.inf
        vectors = list(rows)
        if seed % 3 == 0:
            vectors[20] = np.ones(dim + 1, np.float32)
        found = [
            (one.reason, one.field) if isinstance(one, LookalikeError) else one.tobytes()
            for one in all_as_kept(vectors, config)
        ]
        assert found == [alone(vector, config) for vector in vectors]


def test_what_is_given_stays_as_it_is() -> None:
    rows = [np.array([3.0, 4.0], np.float32), np.array([0.0, 2.0], np.float32)]
    kept = all_as_kept(rows, CollectionConfig("c", dimension=2))
    assert [row.tolist() for row in rows] == [[3.0, 4.0], [0.0, 2.0]]
    assert np.allclose(np.array(kept), [[0.6, 0.8], [0.0, 1.0]])


def test_nothing_is_kept_of_nothing() -> None:
    assert all_as_kept([], CollectionConfig("c", dimension=2)) == []
