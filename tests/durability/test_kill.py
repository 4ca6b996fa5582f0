"""A server that is killed, at whatever moment, keeps what it acknowledged and nothing else.

Real servers, real clients, SIGKILL; the judge is the client's own journal. PROVE_KILLS,
PROVE_POINT_KILLS and PROVE_SEED set how much and which.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from durability.kills import AT_BIRTH, OUTSIDE, KillLoop
from lookalike.backends.crashpoints import NAMES

SEED = int(os.environ.get("PROVE_SEED", "0")) or random.randrange(1, 10**6)
KILLS = 25
KILLS_S = 40.0
"""After so long it is enough: on a busy machine one start takes seconds."""
LEAST = 6
POINTS = sorted(NAMES.keys() - OUTSIDE)


def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    print(f"PROVE_SEED={SEED}")
    rng = random.Random(SEED)
    points = rng.sample([name for name in POINTS if name not in AT_BIRTH], KILLS)
    ends = time.monotonic() + KILLS_S
    with KillLoop(tmp_path, SEED) as loop:
        loop.run(rng.choice(sorted(AT_BIRTH)))
        while loop.tally.kills < KILLS:
            if loop.tally.kills >= LEAST and time.monotonic() > ends:
                break
            loop.run(points.pop() if loop.tally.kills % 2 else "")
        loop.compare()
        loop.verify()
        print(loop.tally, loop.tally.table(), sep="\n")
        assert loop.tally.answered > 50
        assert loop.tally.items > 20
        assert loop.tally.points


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_what_was_acknowledged_survives_many_kills(tmp_path: Path) -> None:
    kills = int(os.environ.get("PROVE_KILLS", "250"))
    with KillLoop(tmp_path, SEED) as loop:
        while loop.tally.kills < kills:
            loop.run()
        loop.compare()
        loop.verify()
    print(f"PROVE_SEED={SEED}: {loop.tally}")


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_every_crash_point_is_survived(tmp_path: Path) -> None:
    wanted = int(os.environ.get("PROVE_POINT_KILLS", "10"))
    with KillLoop(tmp_path, SEED) as loop:
        loop.run()
        for point in POINTS:
            for _ in range(3 * wanted):
                if loop.tally.points[point] < wanted:
                    loop.run(point)
        loop.compare()
    print(f"PROVE_SEED={SEED}: {loop.tally}", loop.tally.table(), sep="\n")
    few = {point: loop.tally.points[point] for point in POINTS}
    assert min(few.values()) >= wanted, few
