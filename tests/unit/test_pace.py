"""Uploads leave the model to queries in time, and take all of it when nobody asks."""

from __future__ import annotations

import pytest

from lookalike.server.pace import Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def learned(alone_s: float, each_s: float, most: int = 8) -> tuple[Pace, Clock]:
    clock = Clock()
    pace = Pace(most, clock)
    for _ in range(10):
        pace.took(1, alone_s)
        pace.took(most, each_s * most)
    return pace, clock


def test_batches_are_full_until_anything_is_known() -> None:
    pace = Pace(8, Clock())
    pace.asked()
    assert pace.most() == 8


def test_beside_queries_a_call_of_uploads_takes_hardly_longer_than_one_of_a_query() -> None:
    pace, _ = learned(alone_s=0.020, each_s=0.010)
    pace.asked()
    assert pace.most() == 2


def test_batches_are_full_again_when_nobody_has_asked_for_a_while() -> None:
    pace, clock = learned(alone_s=0.020, each_s=0.010)
    pace.asked()
    clock.now += 11.0
    assert pace.most() == 8


def test_a_fast_device_keeps_large_batches_beside_queries() -> None:
    pace, _ = learned(alone_s=0.005, each_s=0.0003, most=64)
    pace.asked()
    assert pace.most() == 20


def test_a_slow_model_is_never_taken_for_longer_than_half_a_second() -> None:
    pace, _ = learned(alone_s=0.4, each_s=0.2, most=32)
    assert pace.most() == 2


@pytest.mark.parametrize("each_s", [1.0, 60.0])
def test_there_is_always_room_for_one(each_s: float) -> None:
    pace, _ = learned(alone_s=each_s, each_s=each_s)
    pace.asked()
    assert pace.most() == 1


def test_batches_of_one_do_not_keep_it_from_learning_that_larger_ones_pay() -> None:
    pace = Pace(8, Clock())
    for _ in range(50):
        pace.asked()
        pace.took(1, 0.1)
    assert pace.most() > 1
