"""What the client sent and was told, and what may therefore be stored.

Every line is on the disk before the call that it is about goes out, and after the answer
came in before anyone acts on it. The server's own word is never asked for.

For each id the journal keeps the set of states that are possible: an answered operation
maps all of them, an unanswered one may have happened or not. There is at most one
operation of an id under way at a time.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from durability.violation import Violation

Key: TypeAlias = tuple[str, str]
"""Collection and id; the id "" is the collection itself."""


class State(NamedTuple):
    """Which version of the content and of the metadata an item has."""

    content: int
    metadata: int


Possible: TypeAlias = frozenset[State | None]
ABSENT: Possible = frozenset({None})
THERE = State(0, 0)
"""The one state of a collection that exists."""


class Op(NamedTuple):
    """Something sent for one id. `kind`: upsert, skip, create, metadata or delete."""

    number: int
    kind: str
    content: int = 0
    sha256: str = ""
    """Of the picture's file or the vector's bytes that `content` stands for."""


def effect(op: Op, state: State | None) -> tuple[State | None, str]:
    """Return what an operation makes of a state, and what the server says to it."""
    sent = State(op.content, op.number)
    match op.kind:
        case "delete":
            return None, "missing" if state is None else "deleted"
        case "metadata":
            return (
                (None, "missing")
                if state is None
                else (state._replace(metadata=op.number), "updated")
            )
        case _ if state is None:
            return sent, "created"
        case "skip":
            return state, "skipped"
        case _ if state == sent:
            return state, "unchanged"
        case "create":
            return state, "exists"
        case "upsert":
            return sent, "updated"
    raise ValueError(op.kind)


@dataclass(slots=True)
class History:
    """One id: what may be stored, and what is under way."""

    possible: Possible = ABSENT
    pending: Op | None = None
    hashes: dict[int, str] = field(default_factory=dict)
    """SHA-256 by content."""

    def allowed(self) -> Possible:
        """Return all states that may be stored now."""
        if self.pending is None:
            return self.possible
        return self.possible | {effect(self.pending, state)[0] for state in self.possible}


class Journal:
    """A file of lines, and what they come to. Any thread."""

    def __init__(self, path: Path, *, retried: bool = False) -> None:
        """`retried`: calls may be sent twice on the way, so an answer may be to the second."""
        self._retried = retried
        self._lock = threading.Lock()
        self._numbers = 0
        self._histories: dict[Key, History] = {}
        self.answered = 0
        """Operations that were acknowledged."""
        if path.exists():
            for line in path.read_text().splitlines():
                self._take(json.loads(line))
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def close(self) -> None:
        os.close(self._file)

    # ---------------------------------------------------------- while calls are made

    def number(self) -> int:
        """Return a number that no operation had; also the version of what it sends."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def sent(self, ops: Mapping[Key, Op]) -> None:
        """Note operations that are about to be sent."""
        self._note([["sent", *key, *op] for key, op in ops.items()])

    def told(self, outcomes: Mapping[Key, str]) -> None:
        """Note acknowledgements. Raises Violation if one contradicts the history."""
        self._note([["told", *key, outcome] for key, outcome in outcomes.items()])

    def under_way(self, key: Key) -> bool:
        """Say whether an operation of the id has no answer."""
        history = self._histories.get(key)
        return history is not None and history.pending is not None

    def possible(self, key: Key) -> Possible:
        """Return the states an id may be in; {None} for one that was never sent."""
        with self._lock:
            history = self._histories.get(key)
            return ABSENT if history is None else history.allowed()

    # -------------------------------------------------------------------- afterwards

    def items(self, collection: str) -> dict[str, History]:
        """Return the histories of a collection by id, the collection's own under ""."""
        with self._lock:
            return {key[1]: h for key, h in self._histories.items() if key[0] == collection}

    def known(self) -> set[Key]:
        """Return everything that was ever sent."""
        with self._lock:
            return set(self._histories)

    def collections(self) -> set[str]:
        """Return all names that were ever sent."""
        return {name for name, _ in self.known()}

    def settle(self, seen: Mapping[Key, State | None]) -> None:
        """Note what is stored now that nothing is under way any more."""
        self._note([["seen", *key, state] for key, state in seen.items()])

    # ----------------------------------------------------------------------- insides

    def _note(self, lines: Iterable[Sequence[object]]) -> None:
        with self._lock:
            lines = list(lines)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            os.write(self._file, text.encode())
            os.fsync(self._file)
            for line in lines:
                self._take(line)

    def _take(self, line: Sequence[object]) -> None:
        word, key, rest = line[0], (str(line[1]), str(line[2])), line[3:]
        history = self._histories.setdefault(key, History())
        if word == "sent":
            number, kind, content, sha256 = rest
            op = Op(int(str(number)), str(kind), int(str(content)), str(sha256))
            assert history.pending is None, f"two operations of {key} are under way"
            history.pending = op
            if op.sha256:
                history.hashes[op.content] = op.sha256
            self._numbers = max(self._numbers, op.number)
        elif word == "told":
            self._answer(key, history, str(rest[0]))
        else:
            [state] = rest
            seen = State(*state) if isinstance(state, list | tuple) else None
            history.possible, history.pending = frozenset({seen}), None
            history.hashes = {k: h for k, h in history.hashes.items() if seen and k == seen.content}

    def _answer(self, key: Key, history: History, outcome: str) -> None:
        op = history.pending
        before = history.allowed() if self._retried else history.possible
        assert op is not None, f"an answer for {key}, of which nothing is under way"
        effects = [effect(op, state) for state in before]
        after = frozenset(state for state, said in effects if said == outcome)
        history.pending = None
        self.answered += 1
        if not after:
            history.possible = frozenset(state for state, _ in effects)
            raise Violation(
                "answers fit the history",
                f"{key}: {op.kind} was answered with {outcome}, but it was {sorted_states(before)}",
            )
        history.possible = after


def sorted_states(states: Iterable[State | None]) -> list[State | None]:
    """Return states in an order, for messages."""
    return sorted(states, key=lambda state: (state is not None, state or ()))
