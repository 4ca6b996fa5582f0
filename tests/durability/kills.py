"""The loop: traffic, a death, a new start, a comparison of sets, and again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from durability.checks import asked, compare
from durability.contents import KEPT, PICTURES, VECTORS
from durability.journal import Journal, Op
from durability.serving import CONSTANTS, Orders, ServerProcess, Stable
from durability.traffic import Traffic, make
from durability.violation import Violation
from lookalike.backends.crashpoints import NAMES
from lookalike.client import Client

AT_BIRTH = frozenset(
    {"store.create.before", "store.create.renamed", "store.migrate.before", "store.migrate.after"}
)
"""Points that only a start with an empty folder passes."""
AT_START = AT_BIRTH | {
    "store.lock.taken",
    "store.open.checked",
    "library.sweep.before",
    "library.opened",
    "engine.snapshot.loaded",
    "engine.snapshot.discarded",
    "engine.reconcile.done",
}
"""Points that every start passes, given what `_prepare` leaves in the folder."""
AT_STOP = frozenset({"store.close.before"})
"""Points that only an orderly stop passes."""
OUTSIDE = frozenset(name for name in NAMES if name.startswith("restore."))
"""Points of programs that run while no server does; they have loops of their own."""
OFTEN = ("store.commit", "store.mark", "store.engines", "store.answer")
"""Beginnings of the names of points that are passed many times a second."""
PATIENCE_S = 8.0
"""How long to wait for a crash point, or for answers, before killing all the same."""


@dataclass
class Tally:
    """What a run of kills came to."""

    kills: int = 0
    second_kills: int = 0
    """Of these, while the server was recovering from another."""
    stops: int = 0
    """Orderly stops in between."""
    points: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    """Acknowledged operations."""
    items: int = 0
    """Items that were there at the last comparison."""

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.second_kills} of them during recovery, "
            f"{len(self.points)} of {len(NAMES)} crash points, {self.stops} orderly stops, "
            f"{self.answered} acknowledged operations, {self.items} items at the end"
        )

    def table(self) -> str:
        """Return how often the process died at each crash point."""
        return "\n".join(f"{self.points[name]:6d}  {name}" for name in NAMES)


class KillLoop:
    """Kills servers over a folder of data, again and again. One owner; a context manager."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        plants: Sequence[str] = (),
        constants: Mapping[str, object] = CONSTANTS,
        second_kills: float = 0.15,
    ) -> None:
        self.tally = Tally()
        self._folder, self._seed = folder, seed
        self._plants, self._constants = plants, constants
        self._second_kills = second_kills
        """Share of the starts that are killed as well."""
        self._rng = random.Random(seed)
        self._stable = Stable()
        self._folders = 0
        self._data, self._journal = self._new_data()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.close()
        self._stable.close()

    def run(self, crash: str = "", most_answers: int = 400) -> bool:
        """Start, compare, let the server die under traffic; return whether at `crash`.

        `crash`: a crash point, or "" for a random moment before so many answers. Raises
        Violation.
        """
        before = self.tally.points[crash]
        if crash in AT_BIRTH:
            self.compare()
            self._journal.close()
            self._data, self._journal = self._new_data()
        armed = f"{crash}:{self._count(crash)}" if crash else ""
        if crash in AT_START:
            self._prepare(crash)
            self._die_starting(armed)
            armed, most_answers = "", 60
        elif self._rng.random() < self._second_kills:
            self._die_starting("")
        server, address = self._start(armed)
        if address and self._compare(server, address):
            self._die_in_traffic(server, address, crash, armed, most_answers)
        return self.tally.points[crash] > before

    def compare(self) -> None:
        """Start a server, compare, and stop it in order."""
        server, address = self._start("")
        assert self._compare(server, address)
        server.terminate()
        self.tally.stops += 1

    def verify(self) -> None:
        """Have the product's own check look at the folder, which no server uses now."""
        command = ["-m", "lookalike.server", "verify", "--probes", "-1", "--quiet", "--data"]
        done = subprocess.run(
            [sys.executable, *command, str(self._data)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if done.returncode:
            text = f"{done.stdout}\n{done.stderr} (seed {self._seed})"
            raise Violation("verify finds nothing", text)

    # ---------------------------------------------------------------------- insides

    def _new_data(self) -> tuple[Path, Journal]:
        self._folders += 1
        folder = self._folder / str(self._folders)
        folder.mkdir(parents=True)
        return folder / "data", Journal(folder / "journal")

    def _count(self, crash: str) -> int:
        if crash in AT_START | AT_STOP:
            return 1
        return self._rng.randint(1, 150 if crash.startswith(OFTEN) else 4)

    def _prepare(self, crash: str) -> None:
        """Leave something in the folder that makes a start pass the point."""
        indexes = self._data / "indexes"
        if crash == "library.sweep.before":
            (indexes / "987654").mkdir(parents=True, exist_ok=True)
        elif crash == "engine.snapshot.discarded":
            for manifest in indexes.glob("*/manifest.json"):
                manifest.write_bytes(manifest.read_bytes()[:-9])

    def _start(self, armed: str) -> tuple[ServerProcess, str]:
        """Start a server that may die at an armed point right away: the address is "" then."""
        server = self._stable.start(Orders(self._data, armed, self._plants, self._constants))
        address = server.ready()
        if not address:
            self._died(server)
        return server, address

    def _die_starting(self, armed: str) -> None:
        """Kill a server while it starts, at an armed point or at a random moment."""
        server = self._stable.start(Orders(self._data, armed, self._plants, self._constants))
        if not server.wait(PATIENCE_S if armed else self._rng.uniform(0.0, 0.4)):
            server.kill()
        self._died(server)
        self.tally.second_kills += 1

    def _compare(self, server: ServerProcess, address: str) -> bool:
        """Compare what is there; return False if the server died at its armed point."""
        try:
            with Client(address) as client:
                self.tally.items = compare(client, self._journal, self._rng)
                for name in (VECTORS, PICTURES, KEPT):
                    if (name, "") not in self._journal.known():
                        self._make(client, name)
            return True
        except Violation as violation:
            if server.wait(2.0) and server.died_at:
                self._died(server)
                return False
            raise self._told(violation, server) from violation

    def _make(self, client: Client, name: str) -> None:
        self._journal.sent({(name, ""): Op(self._journal.number(), "create")})
        make(client, asked, name)
        self._journal.told({(name, ""): "created"})

    def _die_in_traffic(
        self, server: ServerProcess, address: str, crash: str, armed: str, most_answers: int
    ) -> None:
        traffic = Traffic(address, self._journal, f"{self._seed}/{self.tally.kills}", crash)
        waits_for_it = armed and crash not in AT_STOP
        answers = self._journal.answered + self._rng.randint(1, most_answers)
        traffic.start()
        ends = time.monotonic() + PATIENCE_S
        while not server.wait(self._rng.uniform(0.0, 0.02)) and not traffic.failed:
            if time.monotonic() > ends:
                break
            if self._journal.answered >= answers and not waits_for_it:
                break
        if crash in AT_STOP:
            server.terminate()
        else:
            server.kill()
        try:
            traffic.end()
        except Violation as violation:
            raise self._told(violation, server) from violation
        self._died(server)
        self.tally.answered = self._journal.answered

    def _died(self, server: ServerProcess) -> None:
        """Count a death; raises Violation if it was not one of those that were meant."""
        if not server.was_killed and not server.was_stopped:
            raise self._told(Violation("a server starts again", "it ended"), server)
        if server.died_at:
            self.tally.points[server.died_at] += 1
        self.tally.kills += 1

    def _told(self, violation: Violation, server: ServerProcess) -> Violation:
        return Violation(
            violation.check,
            f"{violation} (seed {self._seed}, kill {self.tally.kills})\n{server.said}",
        )
