"""How long the tests of this folder run, and with which seed: set by the environment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.internal.conjecture.engine import ConjectureRunner
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

SEED = int(os.environ.get("PROVE_SEED", "1"))
SHRINK = bool(os.environ.get("PROVE_SHRINK"))
_IN_MEMORY = Path("/dev/shm")


def number(name: str, default: int) -> int:
    """Return a budget from the environment."""
    return int(os.environ.get(name, str(default)))


def walk(machine: type[RuleBasedStateMachine], name: str, default: str) -> None:
    """Take walks with a state machine, "60x30" or "60" of them: walks x steps.

    The same seed takes the same walks. One that fails is made shorter only if
    PROVE_SHRINK is set: the threads beside it make no two runs quite the same.
    """
    budget = os.environ.get(name, default)
    count, _, steps = budget.partition("x")
    steps = steps or default.partition("x")[2]
    print(f"PROVE_SEED={SEED} {name}={budget}")
    with pytest.MonkeyPatch.context() as patch:
        # It follows each new walk with up to five that are nearly the same: worth it
        # where a step is microseconds, but here every walk had better be a new one.
        patch.setattr(ConjectureRunner, "generate_mutations_from", _nothing, raising=False)
        _run(machine, int(count), int(steps))


def _nothing(runner: object, data: object) -> None:
    pass


def _run(machine: type[RuleBasedStateMachine], count: int, steps: int) -> None:
    phases = (Phase.explicit, Phase.generate, *([Phase.shrink] if SHRINK else []))
    run_state_machine_as_test(
        seed(SEED)(machine),
        settings=settings(
            max_examples=count,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=phases,
        ),
    )


def folder(prefix: str) -> Path:
    """Make a folder, in memory where possible: a killed process loses nothing of either."""
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    return Path(tempfile.mkdtemp(prefix=prefix, dir=place))
