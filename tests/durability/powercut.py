"""Cuts the power of a store with its engines, and looks at what is left.

    report = cut_power(seed=7)
    assert not report.failures

One seed is one server's life: it works, the power fails, it opens what is left,
works on, and so on. At each end several disks that could be left are looked at, and
one of them is what the next life begins with; so power fails in recoveries, too.
After each cut all of these must hold:

- the store opens, and holds exactly what some moment between the last acknowledged
  commit and the last one begun held: each commit wholly or not at all, nothing else;
- an engine opens on what it has on disk without finding damage, and a snapshot that was
  reported as durable is there;
- every search answers what comparing with everything answers.

A seed gives the same report and the same disks, byte for byte: the clock, the random
numbers (SQLite's among them) and the files are passed in, and one thing is done at a
time. Left to chance is only what no file shows: which thread gets the processor.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
from uuid import UUID

import apsw
import numpy as np

from durability.powercut_disk import DiskLog, Image, image_digest, write_image
from durability.powercut_files import RecordedFiles, RecordedVFS, SeededVFS
from durability.powercut_scene import Clock, Scene, State, StillEngine, engine_config, entry
from lookalike.backends.errors import LookalikeError
from lookalike.server.domain import Filter, View
from lookalike.server.library import StoreTruth
from lookalike.server.store import Store, _connect, _writer

CUTS_OF_A_LIFE = 8
STEPS_OF_A_LIFE = 14
_NUMBERS = itertools.count()


@dataclass
class Report:
    """What was found. Failures are sentences that begin with where it was."""

    seed: int
    plant: str | None
    cuts: int = 0
    acknowledged: int = 0
    """Commits that had been acknowledged before the cuts, and were looked for."""
    in_doubt: int = 0
    """Commits that had been begun only: there or not."""
    snapshots: int = 0
    """Snapshots that had been reported as durable, and were looked for."""
    records: int = 0
    failures: list[str] = field(default_factory=list)
    digest: str = ""
    """Of everything that happened and was found."""


class _Careless(RecordedFiles):
    """Forgets what a plant says."""

    def __init__(self, log: DiskLog, plant: str | None) -> None:
        super().__init__(log)
        self._plant = plant
        self._postponed: list[int] = []
        self._renamed = False

    def sync(self, file: int) -> None:
        if self._plant == "rename-before-sync":
            self._postponed.append(self.node_of(file))
        else:
            super().sync(file)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._renamed = True

    def sync_folder(self, path: Path) -> None:
        if self._plant == "no-folder-sync":
            return
        super().sync_folder(path)
        if self._renamed:
            for node in self._postponed:
                self.log.sync_node(node)
            self._postponed.clear()
            self._renamed = False


def _relax(store: Store) -> None:
    store._writer._db.pragma("synchronous", "normal")


PLANTS: dict[str, str] = {
    "synchronous-normal": "the database does not sync its log at a commit",
    "rename-before-sync": "a file gets its name before it is durable",
    "no-folder-sync": "a folder is not synced after names in it changed",
}


def cut_power(
    seed: int, plant: str | None = None, *, cuts: int = 24, folder: Path | None = None
) -> Report:
    """Live through so many cuts; `plant` is one of PLANTS. The main thread only."""
    assert plant is None or plant in PLANTS
    report = Report(seed, plant)
    digest = hashlib.sha256()
    with _scratch(folder) as scratch, _still_world(seed):
        image: Image | None = None
        state: State = {}
        snapshots: dict[int, int] = {}
        for life in itertools.count():
            root = scratch / f"life{life}"
            if image is None:
                root.mkdir()
            else:
                write_image(image, root)
            log, states = _live(root, f"{seed}/{life}", state, plant)
            digest.update(log.digest().encode())
            report.records += len(log.records)
            rng = random.Random(f"{seed}/{life}/cut")
            for number in range(min(CUTS_OF_A_LIFE, cuts - report.cuts)):
                image = log.cut(at := _instant(log, rng), rng)
                digest.update(image_digest(image).encode())
                where = f"seed {seed}, life {life}, cut {number} after {at} of {len(log.records)}"
                left = _Promised(log, at, states, snapshots)
                probe = scratch / "probe"
                write_image(image, probe)
                found = _look(probe / "data", left, report)
                shutil.rmtree(probe)
                report.failures += [f"{where}: {fault}" for fault in found.faults]
                report.cuts += 1
            shutil.rmtree(root)
            state, snapshots = found.state, found.snapshots
            if report.cuts >= cuts or report.failures:
                break
    digest.update(json.dumps(report.failures).encode())
    report.digest = digest.hexdigest()
    return report


def _live(root: Path, seed: str, state: State, plant: str | None) -> tuple[DiskLog, list[State]]:
    """Open a server on what is there, let it work and leave it; return what happened."""
    log = DiskLog(root)
    vfs = RecordedVFS(f"powercut{next(_NUMBERS)}", log)
    scene = Scene(log, _Careless(log, plant), vfs.vfs_name, seed, state, Clock())
    if plant == "synchronous-normal":
        scene.prepare = _relax
    try:
        scene.open()
        scene.work(STEPS_OF_A_LIFE)
        scene.close()
    finally:
        vfs.unregister()
    return log, scene.states


def _instant(log: DiskLog, rng: random.Random) -> int:
    """Choose when the power fails: any time, more often beside what counts."""
    if rng.random() < 0.5:
        return rng.randrange(len(log.records) + 1)
    kind = rng.choice(["mark", "sync", "name", "move", "move", "unname", "resize"])
    places = [i for i, record in enumerate(log.records) if record.kind == kind]
    behind = 1 if kind == "move" else rng.randrange(3)
    return min((rng.choice(places) if places else 0) + behind, len(log.records))


class _Promised:
    """What had been promised when the power failed."""

    def __init__(self, log: DiskLog, upto: int, states: list[State], old: dict[int, int]) -> None:
        begun = acknowledged = 0
        self.snapshots = dict(old)
        for record in log.records[:upto]:
            what, _, rest = record.name.partition(" ")
            if record.kind != "mark":
                continue
            if what == "begin":
                begun = int(rest)
            elif what == "ack":
                acknowledged = int(rest)
            else:
                number, seq = map(int, rest.split())
                self.snapshots[number] = max(seq, self.snapshots.get(number, 0))
        self.acknowledged = acknowledged
        self.states = states[acknowledged : begun + 1]


@dataclass
class _Found:
    faults: list[str]
    state: State = field(default_factory=dict)
    snapshots: dict[int, int] = field(default_factory=dict)


def _look(data: Path, promised: _Promised, report: Report) -> _Found:
    """Open what is left and compare it with what was promised."""
    report.acknowledged += promised.acknowledged
    report.in_doubt += len(promised.states) - 1
    try:
        store = Store.open(data)
    except LookalikeError as error:
        return _Found([f"the store does not open: {error}"])
    try:
        state = _read(store)
        found = _Found([], state)
        if state not in promised.states:
            found.faults.append(_difference(state, promised.states))
        for record in store.collections():
            engine = StillEngine.open(
                engine_config(store, record), StoreTruth(store, record.number)
            )
            wanted = promised.snapshots.get(record.number, 0)
            report.snapshots += wanted > 0
            found.faults += _look_at_engine(engine, store, record.number, wanted)
            found.snapshots[record.number] = _seq(engine)
            engine.close()
        return found
    except LookalikeError as error:
        return _Found([f"what is stored cannot be read: {error}"])
    finally:
        store.close()


def _read(store: Store) -> State:
    state: dict[tuple[str, ...], tuple[object, ...]] = {}
    for record in store.collections():
        name = record.config.name
        state["collection", name] = ()
        for found in store.list(record.number, Filter(), "", 10**6, View.FULL):
            assert found.vector is not None
            image = store.image(found.key, True)
            state["item", name, found.id] = entry(
                found.vector, found.metadata, image.data if image else None
            )
    for job in store.jobs():
        state["job", job.id] = (job.state.value,)
    return state


def _difference(state: State, states: list[State]) -> str:
    sure = states[0]
    lost = sorted(key for key in sure if all(key in s for s in states) and key not in state)
    risen = sorted(key for key in state if all(key not in s for s in states))
    other = sorted(
        key for key in state if key in sure and all(s.get(key) != state[key] for s in states)
    )
    return (
        f"stored is no state of the {len(states)} that may be: {len(lost)} acknowledged are "
        f"gone {lost[:3]}, {len(risen)} should not be there {risen[:3]}, {len(other)} are "
        f"other than they were {other[:3]}"
    )


def _look_at_engine(engine: StillEngine, store: Store, number: int, wanted: int) -> Iterator[str]:
    recovered = engine.stats().recovered
    if recovered not in ("", "there is no snapshot"):
        yield f"the engine found its snapshot damaged: {recovered}"
    if _seq(engine) < wanted:
        yield f"a snapshot of seq {wanted} was durable, that of {_seq(engine)} is there"
    keys = store.keys(number)
    if not len(keys):
        return
    vectors = store.vectors(number, keys).astype(np.float64)
    queries = np.concatenate([vectors[:4], np.eye(vectors.shape[1])[:3]]).astype(np.float32)
    k = min(10, len(keys))
    hits = engine.search(queries, len(keys))
    right = queries.astype(np.float64) @ vectors.T
    places = np.searchsorted(keys, hits.ids)
    if hits.ids.shape != (len(queries), len(keys)) or (np.sort(hits.ids, axis=1) != keys).any():
        yield "a search for everything does not find exactly what is stored"
    elif not np.allclose(np.take_along_axis(right, places, 1), hits.scores, atol=1e-5):
        yield "a search has wrong scores"
    elif not np.allclose(engine.search(queries, k).scores, -np.sort(-right)[:, :k], atol=1e-5):
        yield "a search does not find the nearest"


def _seq(engine: StillEngine) -> int:
    manifest = engine._disk.read_manifest()
    return manifest.seq if manifest else 0


@contextmanager
def _still_world(seed: int) -> Iterator[None]:
    """Take chance out of the process: SQLite's random numbers, names, times of commits."""
    rng = random.Random(f"{seed}/world")

    def made_up() -> UUID:
        return UUID(int=rng.getrandbits(128), version=4)

    seeded = SeededVFS(f"seeded{next(_NUMBERS)}", rng)
    pages = rng.choice([(8, 8), (16, 64), (64, 64)])
    with (
        patch.object(_connect, "uuid", SimpleNamespace(uuid4=made_up)),
        patch.object(_writer, "MAX_GROUP_S", 3600.0),
        patch.object(_writer, "CHECKPOINT_PAGES", pages[0]),
        patch.object(_writer, "TRUNCATE_PAGES", pages[1]),
    ):
        apsw.set_default_vfs(seeded.vfs_name)
        apsw.randomness(0)
        try:
            yield
        finally:
            apsw.set_default_vfs("unix")
            seeded.unregister()


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    memory = Path("/dev/shm")  # nothing here needs a disk
    where = folder or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="powercut", dir=where) as made:
        yield Path(made)
