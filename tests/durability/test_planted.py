"""Every check sees the bug that it is for: the bugs are planted in real servers."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from durability import powercut
from durability.kills import KillLoop
from durability.planted import PLANTS
from durability.probes import PROBES, Probe
from durability.violation import Violation

SEED = int(os.environ.get("PROVE_SEED", "0")) or random.randrange(1, 10**6)
LOOPS = 50
QUICK = (
    "acknowledge-before-commit",
    "applied-twice",
    "swapped-ids",
    "unclamped-k",
    "unchecked-rows",
)
"""Those that `make test` plants; `make prove` plants all."""


def hunt(name: str, folder: Path) -> tuple[Violation, int]:
    """Return what saw a bug, and after how many kills."""
    plant = PLANTS[name]
    if (check := PROBES.get(plant.found_by[0])) is not None:
        servers = Probe(folder, [name])
        try:
            check(servers)
        except Violation as violation:
            return violation, 0
        finally:
            servers.close()
        pytest.fail(f"nobody noticed that {plant.what}")
    with KillLoop(folder, SEED, plants=[name], second_kills=0.0) as loop:
        try:
            for _ in range(LOOPS):
                loop.run(plant.crash, most_answers=200)
        except Violation as violation:
            return violation, loop.tally.kills
    pytest.fail(f"in {LOOPS} kills nobody noticed that {plant.what}")


@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    print(f"PROVE_SEED={SEED}")
    violation, kills = hunt(name, tmp_path)
    print(f"{name}: {kills} kills: {violation}")
    assert violation.check in PLANTS[name].found_by, violation


def probe(check: str, folder: Path) -> None:
    servers = Probe(folder, [])
    try:
        PROBES[check](servers)
    finally:
        servers.close()


def test_damage_is_never_answered(tmp_path: Path) -> None:
    probe("damage is never answered", tmp_path)


@pytest.mark.prove
@pytest.mark.parametrize("check", PROBES)
def test_nothing_is_found_where_nothing_is_planted(check: str, tmp_path: Path) -> None:
    probe(check, tmp_path)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_every_planted_bug_is_found(tmp_path: Path) -> None:
    found = {name: hunt(name, tmp_path / name) for name in PLANTS}
    print(f"PROVE_SEED={SEED}")
    for name, (violation, kills) in found.items():
        print(f"{kills:4d} kills  {name:28s} {violation.check}")
    missed = {n: str(v) for n, (v, _) in found.items() if v.check not in PLANTS[n].found_by}
    assert not missed


def test_the_page_names_every_bug_and_what_sees_it() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/reliability.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    expected = [(name, plant.what, plant.found_by[0]) for name, plant in PLANTS.items()]
    expected += [(name, what, "power cuts") for name, what in powercut.PLANTS.items()]
    assert sorted(rows) == sorted(expected)
