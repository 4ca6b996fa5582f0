"""The parity gate sees what it has to see."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.backends.embed.parity import BARS, Comparison, compare, cosines
from lookalike.backends.types import Vectors

SEED = 11


def cone(count: int, dim: int = 32) -> Vectors:
    """Make vectors in a narrow cone, as CLIP's are."""
    print("seed", SEED)
    rng = np.random.default_rng(SEED)
    return (3 + rng.normal(size=(count, dim))).astype(np.float32)


def noisy(vectors: Vectors, share: float) -> Vectors:
    rng = np.random.default_rng(SEED + 1)
    return (vectors + share * rng.normal(size=vectors.shape)).astype(np.float32)


def test_a_way_is_as_good_as_itself() -> None:
    vectors = cone(50)
    found = compare(vectors, vectors * 7, vectors[:5] * 7, (vectors, vectors))
    assert found.raw_min == pytest.approx(1)
    assert found.centred_mean < 1, "centred, another length is another vector"
    same = compare(vectors, vectors, vectors[:5])
    numbers = (same.raw_min, same.centred_min, same.overlap, same.batch_min, same.text_min)
    np.testing.assert_allclose(numbers, 1)
    assert all(not same.faults(precision) for precision in BARS)


def test_centred_cosines_and_neighbours_see_what_raw_ones_hide() -> None:
    vectors = cone(200)
    found = compare(vectors, noisy(vectors, 0.3), vectors[:1])
    assert found.raw_min > 0.98
    assert found.centred_mean < found.raw_mean - 0.01
    assert found.overlap < 0.8
    assert "neighbour overlap" in " ".join(found.faults("int8"))


def test_overlap_is_that_of_a_plain_count() -> None:
    vectors = cone(60)
    other = noisy(vectors, 0.2)

    def nearest(rows: Vectors, row: int) -> set[int]:
        scores = cosines(rows, np.repeat(rows[row : row + 1], len(rows), axis=0))
        scores[row] = -2
        return set(np.argsort(-scores)[:10].tolist())

    expected = np.mean([len(nearest(vectors, r) & nearest(other, r)) / 10 for r in range(60)])
    assert compare(vectors, other, other[:1]).overlap == pytest.approx(expected)
    assert compare(vectors[:10], other[:10], other[:1]).overlap == 1.0


@pytest.mark.parametrize(
    ("precision", "change", "told"),
    [
        ("fp32", {"raw_min": 0.99998}, "lowest cosine 0.999980, wanted 0.99999"),
        ("bf16", {"raw_min": 0.99989}, "wanted 0.9999"),
        ("bf16", {"text_min": 0.99}, "texts"),
        ("bf16", {"batch_min": 0.99}, "alone"),
        ("int8", {"centred_mean": 0.989}, "centred"),
        ("int8", {"overlap": 0.949}, "neighbour"),
        ("int8", {"overlap": float("nan")}, "neighbour"),
    ],
)
def test_each_bar_is_held_by_itself(precision: str, change: dict[str, float], told: str) -> None:
    numbers = {**Comparison(100, 1, 1, 1, 1, 1, 1).as_record(), **change}
    [fault] = Comparison.of_record(numbers).faults(precision)
    assert told in fault


def test_int8_may_be_off_where_only_the_cone_shows() -> None:
    assert not Comparison(100, 0.99, 0.995, 0.9, 0.992, 0.96, 1).faults("int8")
