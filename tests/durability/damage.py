"""A data folder with a file of every kind, and every kind of harm that can come to a file."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from house import House, open_house
from lookalike.backends.types import (
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Metric,
)
from lookalike.server.domain import CollectionConfig, NewItem, Retention
from made_pictures import jpeg

DIM = 16
COUNT = 130
FRESH = 20
"""Items that are stored after the snapshot: they are in no segment."""
SPECS = {
    "flat": IndexSpec("faiss", FlatParams()),
    "hnsw": IndexSpec("faiss", HnswParams(8, 64, 128)),
    "ivf": IndexSpec("faiss", IvfParams(4, 4)),
    "small": IndexSpec("hnswlib", HnswParams(8, 64, 128)),
    "exact": IndexSpec("exact"),
    "second": IndexSpec("faiss", HnswParams(8, 64, 128)),
}
COLLECTIONS = (*SPECS, "pictures")
PAGE = 4096


def vectors_of(name: str) -> np.ndarray:
    """Return (COUNT + FRESH, DIM) float32, the same for the same name."""
    seed = sum(name.encode())
    rows = np.random.default_rng(seed).normal(size=(COUNT + FRESH, DIM))
    return rows.astype(np.float32)


def item(name: str, i: int, version: int = 0) -> NewItem:
    """Return the item `i` of a collection, as it was stored or stored anew."""
    vector = vectors_of(name)[(i + 7 * version) % (COUNT + FRESH)]
    picture = jpeg(i) if name == "pictures" else None
    metadata = {"group": i % 5, "word": f"word {i}", "version": version}
    return NewItem(f"{name}-{i:03d}", picture, vector, metadata)


def make(folder: Path) -> None:
    """Make the folders `old`, `golden` and `other`: a former state, the last one, a stranger.

    `golden` is as a kill would leave it: with a log, and with more in the store than in the
    snapshots.
    """
    live = folder / "live"
    with open_house(live, delta_limit=100_000) as house:
        for name in COLLECTIONS:
            _create(house, name)
            count = 12 if name == "pictures" else COUNT
            _put(house, name, [item(name, i) for i in range(count)])
            _build(house, name)
    shutil.copytree(live, folder / "old")
    with open_house(live, delta_limit=100_000) as house:
        for name in COLLECTIONS:
            fresh = range(12, 15) if name == "pictures" else range(COUNT, COUNT + FRESH)
            _put(house, name, [item(name, i) for i in fresh])
            _put(house, name, [item(name, i, 1) for i in range(5)])
            collection = house.library.collection(name)
            collection.delete([f"{name}-{i:03d}" for i in range(5, 9)], dry_run=False)
            collection.engine.snapshot()
        _wait_idle(house)
        shutil.copytree(live, folder / "golden")
    with open_house(folder / "other") as house:
        for name in COLLECTIONS:
            _create(house, name)
            _put(house, name, [item(name, i, 3) for i in range(9)])
        shutil.copytree(folder / "other", folder / "stranger")


def _wait_idle(house: House) -> None:
    """Wait until no index is built: a copy of files that change is no moment of a folder."""
    ends = time.monotonic() + 60.0
    while any(house.library.collection(n).engine.stats().building for n in COLLECTIONS):
        assert time.monotonic() < ends
        time.sleep(0.05)


def _create(house: House, name: str) -> None:
    config = CollectionConfig(
        name,
        model="none",
        dimension=DIM,
        index=SPECS.get(name, IndexSpec()),
        metric=Metric.L2 if name == "ivf" else Metric.COSINE,
        retention=Retention.ORIGINAL,
        indexed_fields=("group",) if name in ("flat", "exact") else (),
    )
    house.library.create_collection(config, exist_ok=False)


def _put(house: House, name: str, items: list[NewItem]) -> None:
    results = house.put(items, name, bulk=True)
    assert all(result.error is None for result in results), results


def _build(house: House, name: str) -> None:
    job = house.jobs.rebuild(name, None, False)
    *_, last = house.jobs.watch(job.id)
    assert last.state.value == "succeeded", last


# ------------------------------------------------------------------- harms


@dataclass(frozen=True, slots=True)
class Place:
    """A kind of file, and where it is in a folder."""

    kind: str
    pattern: str
    collection: str = ""
    """Of the index that it belongs to."""

    def find(self, folder: Path, collection: str = "") -> Path:
        """Return the file in a folder; that of another collection, if one is named."""
        name = collection or self.collection
        base = folder
        if name:
            base = folder / "indexes" / str(COLLECTIONS.index(name) + 1)
        return next(iter(sorted(base.glob(self.pattern))), base / self.pattern.replace("*", "x"))


PLACES = (
    Place("store.db", "store.db"),
    Place("store.db-wal", "store.db-wal"),
    Place("store.db-shm", "store.db-shm"),
    Place("mark", "mark"),
    Place("lock", "lock"),
    Place("manifest.json", "manifest.json", "hnsw"),
    Place("rows.bin", "segment-*/rows.bin", "hnsw"),
    *(Place(f"index.bin of {name}", "segment-*/index.bin", name) for name in SPECS),
)
KINDS = (*(place.kind for place in PLACES), "stray files")


@dataclass(frozen=True, slots=True)
class Case:
    """One harm to one file; `do` takes the folder that it comes to."""

    kind: str
    harm: str
    do: Callable[[Path], None]
    collections: Sequence[str] = COLLECTIONS
    """Those that it can come to, which have to be looked at wholly."""

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.harm}"


def cases(kind: str, states: Path, rng: random.Random, flips: int) -> Iterator[Case]:
    """Yield the harms to one kind of file: `flips` bits, and as many others as fit to that."""
    if kind == "stray files":
        yield from (Case(kind, name, do, ("hnsw",)) for name, do in STRAYS.items())
        return
    [place] = [place for place in PLACES if place.kind == kind]
    file = place.find(states / "golden")
    assert file.exists(), f"no {kind} in the folder"
    size = file.stat().st_size

    near = (place.collection,) if place.collection else COLLECTIONS

    def case(harm: str, change: Callable[[bytearray], None]) -> Case:
        def do(folder: Path) -> None:
            target = place.find(folder)
            data = bytearray(target.read_bytes())
            change(data)
            target.write_bytes(data)

        return Case(kind, harm, do, near)

    for _ in range(max(1, flips // 4) if size else 0):
        length = rng.randrange(size)
        yield case(f"cut to {length} of {size}", partial(_cut, length))
    for _ in range(flips if size else 0):
        at, bit = rng.randrange(size), rng.randrange(8)
        yield case(f"bit {bit} of byte {at} flipped", partial(_flip, at, bit))
    for _ in range(max(1, flips // 10) if size else 0):
        page = rng.randrange(-(-size // PAGE))
        yield case(f"page {page} zeroed", partial(_zero, page))
    yield case("rubbish behind it", lambda data: data.extend(rng.randbytes(1000)))
    yield Case(kind, "deleted", lambda folder: place.find(folder).unlink(), near)
    for state, harm in (("old", "an older copy"), ("stranger", "that of another folder")):
        source = place.find(states / state)
        if source.exists():
            yield Case(kind, harm, partial(_replace, place, source), near)
    for other in SPECS if place.collection else ():
        if other != place.collection:
            harm = f"swapped with that of {other}"
            yield Case(kind, harm, partial(_swap, place, other), (*near, other))


def _cut(length: int, data: bytearray) -> None:
    del data[length:]


def _replace(place: Place, source: Path, folder: Path) -> None:
    shutil.copy(source, place.find(folder))


def _flip(at: int, bit: int, data: bytearray) -> None:
    data[at] ^= 1 << bit


def _zero(page: int, data: bytearray) -> None:
    part = slice(page * PAGE, (page + 1) * PAGE)
    data[part] = bytes(len(data[part]))


def _swap(place: Place, other: str, folder: Path) -> None:
    mine, theirs = place.find(folder), place.find(folder, other)
    aside = folder / "aside"
    mine.rename(aside)
    if theirs.exists():
        theirs.rename(mine)
    aside.rename(theirs)


def _rubbish(*names: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"rubbish " * 200)

    return do


STRAYS: dict[str, Callable[[Path], None]] = {
    "a segment in the making": _rubbish("indexes/2/building-00000099/rows.bin"),
    "a segment that nothing names": _rubbish(
        "indexes/2/segment-00000098/rows.bin", "indexes/2/segment-00000098/index.bin"
    ),
    "half a manifest": _rubbish("indexes/2/manifest.json.new"),
    "a file in the way of an index": _rubbish("indexes/99", "indexes/rubbish/deep/file"),
    "half a database": _rubbish("store.db.new", "store.db.new-journal"),
    "an old journal": _rubbish("store.db-journal"),
    "half a backup": _rubbish("backup.part", "backup.part-journal"),
    "half a restore": _rubbish("restore.part"),
    "a file of somebody's": _rubbish("notes.txt", "tmp123", "core"),
}
