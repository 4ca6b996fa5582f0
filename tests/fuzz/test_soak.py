"""Mixed traffic for a long time: no wrong answer, and the server does not grow."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from fuzz.outside import MIB, Outside, server
from fuzz.soak import Sample, Soak, slope

SHORT_S = 15.0
MOST_GROWTH = 96 * MIB
MOST_MIB_AN_HOUR = 2.0
WARM_UP = 0.25
"""Part of the time."""
MORE = 6
"""Threads and descriptors, in the last quarter than in the first after warming up."""
SLACK = 32 * MIB


def soaked(outside: Outside, seconds: float) -> Sequence[Sample]:
    """Return the samples after warming up, when all but memory has been judged."""
    seed = int(os.environ.get("PROVE_SEED", random.randrange(10**9)))
    print(f"PROVE_SEED={seed}")
    soak = Soak(outside, seed)
    soak.run(seconds, every_s=min(5.0, seconds / 40))
    print(soak.done)
    assert soak.wrong == []
    assert all(soak.done.values()), soak.done
    log = outside.log()
    assert " ERROR " not in log
    assert "Traceback" not in log
    samples = [sample for sample in soak.samples if sample.at > WARM_UP * seconds]
    quarter = len(samples) // 3
    first, last = samples[:quarter], samples[-quarter:]
    for name in ("threads", "files", "folder", "rss"):
        print(name, [max(getattr(one, name) for one in part) for part in (first, last)])
    assert max(one.threads for one in last) <= max(one.threads for one in first) + MORE
    assert max(one.files for one in last) <= max(one.files for one in first) + MORE
    assert max(one.folder for one in last) <= 1.5 * max(one.folder for one in first) + SLACK
    return samples


def test_mixed_traffic_gets_right_answers(tmp_path: Path) -> None:
    with server(tmp_path) as outside:
        samples = soaked(outside, SHORT_S)
    assert samples[-1].rss - samples[0].rss <= MOST_GROWTH


@pytest.mark.prove
@pytest.mark.timeout(0)
def test_a_long_time_of_mixed_traffic_leaks_nothing(tmp_path: Path) -> None:
    minutes = float(os.environ.get("PROVE_SOAK_MIN", "60"))
    with server(tmp_path) as outside:
        samples = soaked(outside, minutes * 60)
    middle, low, high = slope(samples, window_s=60.0)
    print(f"memory grows by {middle:.2f} MiB/h ({low:.2f} to {high:.2f})")
    assert low <= MOST_MIB_AN_HOUR or minutes < 30, "it grows"
    assert middle <= MOST_MIB_AN_HOUR or minutes < 30, "it grows"


@pytest.mark.parametrize(("leak", "most"), [(0.0, 0.5), (10.0, 11.0)])
def test_the_slope_is_that_of_the_leak(leak: float, most: float) -> None:
    rng = random.Random(1)
    samples = [
        Sample(at, int((200 + leak * at / 3600 + rng.expovariate(0.1)) * MIB), 1, 1, 1)
        for at in range(0, 3600, 5)
    ]
    middle, low, high = slope(samples, window_s=60.0)
    assert low <= middle <= high
    assert leak - 1 <= middle <= most
