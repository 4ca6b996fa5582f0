"""How sure a measured recall is."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.backends.recall import found_shares, of_queries, of_trials, wilson, without_own


def test_wilson_gives_the_intervals_of_the_book() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0 / 20, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(29 / 29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)
    assert of_trials(81, 263).low == pytest.approx(0.2553, abs=5e-5)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("spread", [2.0, 8.0, 1e6])
def test_the_interval_holds_the_truth_19_times_in_20_though_misses_come_together(
    share: float, spread: float
) -> None:
    """`spread`: how alike queries are; 2: many find nothing, 1e6: hits are independent."""
    seed = 5
    print("seed", seed)
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(1000):
        each = rng.beta(share * spread, (1 - share) * spread, 256)
        found = of_queries(rng.binomial(10, each) / 10, 10)
        held += found.low <= share <= found.high
    assert 0.92 <= held / 1000 <= 0.985, held


def test_an_interval_is_narrow_where_nothing_is_missed() -> None:
    found = of_queries(np.ones(250), 10)
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(0.99847, abs=1e-5)
    assert of_queries(np.ones(1), 10).low < 0.8
    assert of_queries(np.zeros(250), 10).high < 0.002


def test_a_hit_as_good_as_the_last_true_one_counts_whichever_it_is() -> None:
    truth = np.array([[0.9, 0.8, 0.8]] * 4, np.float32)
    found = np.array(
        [
            [0.9, 0.8, 0.8],
            [0.8, 0.8, 0.79],
            [0.9, 0.9, 0.9],
            [0.9, -np.inf, -np.inf],
        ],
        np.float32,
    )
    assert found_shares(found, truth) == pytest.approx([1, 2 / 3, 1, 1 / 3])
    rounded = np.nextafter(truth, np.float32(0))
    assert found_shares(rounded, truth).tolist() == [1, 1, 1, 1]


def test_a_query_is_left_out_of_its_own_hits() -> None:
    ids = np.array([[7, 1, 2], [1, 8, 2], [1, 2, 3]])
    scores = np.array([[1, 0.5, 0.4], [1, 1, 0.4], [0.9, 0.8, 0.7]], np.float32)
    kept = without_own(ids, scores, np.array([7, 8, 9]))
    assert kept == pytest.approx(np.array([[0.5, 0.4], [1, 0.4], [0.9, 0.8]]))
