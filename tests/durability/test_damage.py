"""A file that is harmed leaves the answers as they were, or is built anew, or is refused.

PROVE_DAMAGE is the number of flipped bits for each kind of file; of cuts there are a
quarter, of zeroed pages a tenth. PROVE_SEED chooses the places.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durability import damage
from durability.damage import KINDS, Case

SEED = int(os.environ.get("PROVE_SEED", "0")) or random.randrange(1, 10**6)
HANGS_S = 120.0
"""No folder of this size takes so long on any machine."""
QUICK = 5
"""Harms to each kind of file in the short run."""
STORE = frozenset({"store.db", "store.db-wal", "mark"})
WELL = frozenset({"same", "rebuilt"})


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    damage.make(folder)
    return folder


class Judge:
    """A process that opens folders; another one takes its place if it dies."""

    def __init__(self, golden: Path) -> None:
        self._golden = golden
        self._process: subprocess.Popen[str] | None = None

    def ask(self, folder: Path, case: Case) -> dict[str, Any]:
        """Return what became of a folder; a crash or a hang is an outcome, too."""
        process = self._process or self._start()
        assert process.stdin is not None
        asked = {
            "folder": str(folder),
            "again": case.kind not in STORE,
            "collections": case.collections,
        }
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        return self._read(process)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        tests = str(Path(__file__).parents[1])
        paths = [tests, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "durability.damage_judge", str(self._golden)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert "items" in self._read(self._process)
        return self._process

    def _read(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        timer = threading.Timer(HANGS_S, process.kill)
        timer.start()
        line = process.stdout.readline()
        hung = not timer.is_alive()
        timer.cancel()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        code = process.wait()
        self.close()
        return {"outcome": "hang" if hung else f"ended with {code}", "message": ""}


@pytest.fixture(scope="module")
def judge(states: Path) -> Iterator[Judge]:
    made = Judge(states / "golden")
    yield made
    made.close()


def run(
    chosen: Iterable[Case], states: Path, judge: Judge, scratch: Path
) -> tuple[Counter[str], list[str]]:
    """Do every harm to a copy of its own; return outcomes by kind, and what is wrong."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for n, case in enumerate(chosen):
        folder = scratch / f"case-{n}"
        shutil.copytree(states / "golden", folder)
        case.do(folder)
        found = judge.ask(folder, case)
        outcome = found["outcome"]
        outcomes[f"{case.kind}: {outcome}"] += 1
        allowed = WELL if case.kind not in STORE else WELL | {"part", "refused"}
        if outcome not in allowed:
            wrong.append(f"{case.name}: {found}")
        shutil.rmtree(folder)
    return outcomes, wrong


@pytest.mark.parametrize("kind", KINDS)
def test_no_harm_to_a_file_is_answered_with(
    kind: str, states: Path, judge: Judge, tmp_path: Path
) -> None:
    print(f"PROVE_SEED={SEED}")
    rng = random.Random(f"{SEED} {kind}")
    every = list(damage.cases(kind, states, rng, flips=4))
    chosen = rng.sample(every, min(QUICK, len(every)))
    outcomes, wrong = run(chosen, states, judge, tmp_path)
    print(outcomes)
    assert not wrong, wrong


@pytest.mark.prove
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_no_harm_of_many_is_answered_with(
    kind: str, states: Path, judge: Judge, tmp_path: Path
) -> None:
    flips = int(os.environ.get("PROVE_DAMAGE", "200"))
    chosen = damage.cases(kind, states, random.Random(f"{SEED} {kind}"), flips)
    outcomes, wrong = run(chosen, states, judge, tmp_path)
    print(f"PROVE_SEED={SEED}: {dict(outcomes)}")
    assert not wrong, wrong
