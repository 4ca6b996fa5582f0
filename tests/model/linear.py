"""Tells whether what several threads saw of one id could have happened one after the other.

After Wing & Gong, "Testing and verifying concurrent objects" (1993): look for an order
of the operations that keeps to real time and in which each answer is right. Positions
that were reached before with the same state are not looked at again (Lowe, "Testing for
linearizability", 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    WRITE = "write"
    DELETE = "delete"
    READ = "read"


@dataclass(frozen=True)
class Op:
    """One operation on one id; times by one clock."""

    kind: Kind
    invoked: float
    returned: float = math.inf
    """Infinity if no answer came: it may have happened at any later time, or never."""
    version: int | None = None
    """What was written, or seen: None for nothing there."""
    was_there: bool | None = None
    """What a delete said; None if it is not known."""

    @property
    def is_known(self) -> bool:
        return self.returned < math.inf

    def after(self, version: int | None) -> tuple[bool, int | None]:
        """Return whether the answer is right in this state, and the state after."""
        match self.kind:
            case Kind.WRITE:
                return True, self.version
            case Kind.DELETE:
                return self.was_there in (None, version is not None), None
            case Kind.READ:
                return self.version == version, version


def is_linearizable(history: Sequence[Op], version: int | None = None) -> bool:
    """Tell whether there is an order; `version` is what is there at the beginning.

    Reads without an answer must be left out.
    """
    ops = sorted(history, key=lambda op: op.invoked)
    wanted = sum(1 << i for i, op in enumerate(ops) if op.is_known)
    seen: set[tuple[int, int | None]] = set()
    waiting: list[tuple[int, int | None]] = [(0, version)]
    while waiting:
        done, state = waiting.pop()
        if done & wanted == wanted:
            return True
        for i in _next(ops, done):
            right, new = ops[i].after(state)
            if right and (position := (done | 1 << i, new)) not in seen:
                seen.add(position)
                waiting.append(position)
    return False


def _next(ops: Sequence[Op], done: int) -> list[int]:
    """Return the operations that may come next: none of the others ended before they began."""
    found: list[int] = []
    first_end = math.inf
    for i, op in enumerate(ops):
        if op.invoked > first_end:
            break
        if not done >> i & 1:
            found.append(i)
            first_end = min(first_end, op.returned)
    # Those that have no answer last: most of them never happened.
    return sorted((i for i in found if ops[i].invoked <= first_end), key=lambda i: ops[i].is_known)
