"""Calls that come while others run go together: flat combining, without a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Generic, TypeVar, cast

from lookalike.server.deadlines import is_over, over

Q = TypeVar("Q")
A = TypeVar("A")

MOST: Final = 64
"""Calls in one go: those who wait longest must not wait for too many."""


class Gathering(Generic[Q, A]):
    """Has `run` answer calls of the same key together. Any thread.

    `run` gets queries, and gives an answer for each, in their order. The first `lanes`
    calls of a key run at once, and alone: nobody ever waits for company. Who comes while
    they run waits; whoever is done first has the first of those who wait run all of them.
    """

    def __init__(self, run: Callable[[Sequence[Q]], Sequence[A]], lanes: int) -> None:
        self._run = run
        self._lanes = lanes
        self._lock = threading.Lock()
        self._lines: dict[Hashable, _Line] = {}

    def call(self, key: Hashable, query: Q, deadline: float | None = None) -> A:
        """Return the answer. Raises what `run` raised, for all who were together.

        Raises DeadlineExceeded or Cancelled, and does nothing, if nobody wants the answer
        any more when it is this call's turn.
        """
        if is_over(deadline):
            raise over(deadline, "before the search began")
        mine = _Turn(query, deadline)
        with self._lock:
            if (line := self._lines.get(key)) is None:
                line = self._lines[key] = _Line()
            at_once = line.running < self._lanes
            if at_once:
                line.running += 1
                mine.together = [mine]
            else:
                mine.gate.acquire()
                line.waiting.append(mine)
        if not at_once:
            mine.gate.acquire()  # until there is an answer, or it is this call's turn
        if mine.together:
            self._lead(key, line, mine)
        if mine.error is not None:
            raise mine.error
        return cast(A, mine.answer)

    def _lead(self, key: Hashable, line: _Line, mine: _Turn) -> None:
        together = mine.together
        try:
            answers = self._run([cast(Q, turn.query) for turn in together])
            for turn, answer in zip(together, answers, strict=True):
                turn.answer = answer
        except BaseException as error:
            for turn in together:
                turn.error = error
        with self._lock:
            dropped = [turn for turn in line.waiting if is_over(turn.deadline)]
            wanted = [turn for turn in line.waiting if turn not in dropped]
            following, line.waiting = wanted[:MOST], wanted[MOST:]
            if following:
                following[0].together = following
            else:
                line.running -= 1
                if not line.running:
                    del self._lines[key]
        if following:
            following[0].gate.release()
        for turn in dropped:
            turn.error = over(turn.deadline, "while the search waited for those before it")
            turn.gate.release()
        for turn in together:
            if turn is not mine:
                turn.gate.release()


class _Line:
    """The calls of one key."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: list[_Turn] = []


class _Turn:
    """One call; `together` are those that it has to answer, itself the first."""

    __slots__ = ("answer", "deadline", "error", "gate", "query", "together")

    def __init__(self, query: object, deadline: float | None) -> None:
        self.query = query
        self.deadline = deadline
        self.gate = threading.Lock()
        self.together: list[_Turn] = []
        self.answer: object = None
        self.error: BaseException | None = None
