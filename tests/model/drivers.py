"""What a walk can ask of a server, in plain values, and how its files are damaged."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias

from lookalike.backends.types import FlatParams, HnswParams, IndexSpec, IvfParams, Metric
from lookalike.client.filters import F, Where
from lookalike.server.domain import Condition, Filter, Test
from made_pictures import encoded, scene
from model.oracle import Metadata, Put, Vector

Shown: TypeAlias = tuple[list[tuple[str, float]], bool]
"""Ids and scores, and whether the answer says that it is exact."""

DELTA_LIMIT = 64
"""So few rows wait for an index that a short walk has segments."""

FILTERS: list[tuple[Filter, Where | None]] = [
    (Filter(), None),
    (Filter(all=(Condition("colour", Test.EQ, "red"),)), F.colour == "red"),
    (Filter(all=(Condition("n", Test.GTE, 2.0),)), F.n >= 2),
    (
        Filter(
            any=(
                Condition("colour", Test.ANY_OF, ("blue", "green")),
                Condition("deep.n", Test.LT, 2.0),
            )
        ),
        F.colour.in_(["blue", "green"]) | (F["deep.n"] < 2),
    ),
    (Filter(none=(Condition("colour", Test.EXISTS, True),)), ~F.colour.exists()),
    (Filter(all=(Condition("n", Test.EQ, 77.0),)), F.n == 77),
]
"""Each as the server's inside has it and as a client writes it."""

SPECS: dict[str, IndexSpec] = {
    "auto": IndexSpec(),
    "exact": IndexSpec("exact"),
    "flat": IndexSpec("faiss", FlatParams()),
    "hnsw": IndexSpec("faiss", HnswParams()),
    "ivf": IndexSpec("faiss", IvfParams()),
    "codes": IndexSpec("faiss", None, {"factory": "SQ8"}),
    "hnswlib": IndexSpec("hnswlib", HnswParams()),
}
EXACT = ("auto", "exact", "flat")
"""Those that leave nothing out, at the sizes of these tests."""


@cache
def album(number: int) -> bytes:
    """Return a picture file; all have the same small size and differ."""
    return encoded(scene(number, 64, 48), "PNG")


@dataclass(frozen=True)
class Got:
    """An item as it came back."""

    id: str
    metadata: Metadata
    has_picture: bool
    vector: Vector | None


@dataclass(frozen=True)
class Asked:
    """A search: one of `vector`, `picture`, `like`."""

    k: int
    vector: Vector | None = None
    picture: int | None = None
    like: str = ""
    where: int = 0
    """A number in FILTERS."""
    exact: bool = False
    min_score: float | None = None


class Refused(Exception):
    """A call that the server refused; the reason is the text."""


class Driver(Protocol):
    """Names are collections ("" = default). Raises Refused."""

    def create(self, name: str, metric: Metric, dim: int, spec: str) -> None: ...
    def drop(self, name: str) -> int: ...
    def put(self, name: str, puts: Sequence[Put], mode: str) -> Sequence[str]: ...
    def get(self, name: str, item_id: str) -> Got | None: ...
    def listed(self, name: str, where: int) -> Sequence[Got]: ...
    def count(self, name: str, where: int) -> int: ...
    def update(self, name: str, item_id: str, new: Metadata, replaced: bool) -> Metadata | None: ...
    def delete(self, name: str, ids: Sequence[str], dry_run: bool) -> int: ...
    def delete_where(self, name: str, where: int, dry_run: bool) -> int: ...
    def search(self, name: str, asked: Sequence[Asked]) -> Sequence[Shown | None]: ...
    def rebuild(self, name: str, spec: str) -> None: ...
    def embed(self, picture: int) -> Vector: ...
    def settle(self, name: str) -> None: ...
    def snapshot(self, name: str) -> None: ...
    def restart(self) -> None: ...
    def crash(self, kind: str, salt: int) -> None: ...
    def close(self) -> None: ...


def damaged(kind: str, salt: int, older: Path, folder: Path) -> str:
    """Damage the derived files of a data folder; return what was done."""
    rng = random.Random(salt)
    indexes = folder / "indexes"
    if kind == "older" and older.is_dir():
        shutil.rmtree(indexes, ignore_errors=True)
        shutil.copytree(older, indexes)
        return "an older copy"
    files = sorted(f for f in indexes.rglob("*") if f.is_file() and f.stat().st_size)
    if not files or kind in ("none", "older"):
        return "nothing"
    kind_of_file = rng.choice(sorted({file.name for file in files}))
    victim = rng.choice([file for file in files if file.name == kind_of_file])
    size = victim.stat().st_size
    match kind:
        case "flip":
            data = bytearray(victim.read_bytes())
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
            victim.write_bytes(data)
        case "truncate":
            os.truncate(victim, rng.randrange(size))
        case "delete":
            victim.unlink()
        case "all":
            shutil.rmtree(indexes)
    return f"{kind} {victim.relative_to(folder)}"


DAMAGE = ("none", "flip", "truncate", "delete", "all", "older")


def copied(source: Path, target: Path) -> None:
    """Copy a folder as it is this moment; what vanishes meanwhile is left out."""
    for place, _, files in os.walk(source):  # which passes over what has vanished
        there = target / Path(place).relative_to(source)
        there.mkdir(parents=True, exist_ok=True)
        for name in files:
            with suppress(FileNotFoundError):
                shutil.copyfile(Path(place) / name, there / name)


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that happens in the background."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)
