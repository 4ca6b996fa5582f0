"""Whichever write finds no room: it is refused or does not matter, and all else is right."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import numpy as np
import pytest

from durability.powercut_scene import DIM, EXACT, StillEngine, engine_config
from lookalike.backends.errors import DiskFull
from lookalike.backends.files import Files
from lookalike.backends.types import Metric, normalize
from lookalike.server.domain import CollectionConfig, Filter, Vector, View
from lookalike.server.library import StoreTruth
from lookalike.server.store import Store
from store.making import deleting, do, item, putting
from store.watched_vfs import WatchedVFS, watched

SEED = int(os.environ.get("PROVE_SEED", "0")) or random.randrange(1, 10**6)
FOR_GOOD = 10**9


class FillingDisk(Files):
    """Counts the writes of the database, the mark and the engine; some find no room."""

    def __init__(self, vfs: WatchedVFS, first: int, count: int) -> None:
        super().__init__()
        self.writes = 0
        self._refused = range(first, first + count)
        vfs.hook = self._of_sqlite

    def _of_sqlite(self, action: str, suffix: str) -> None:
        if action == "write":
            self._take(apsw.FullError("full"))

    def _take(self, error: Exception | None = None) -> None:
        self.writes += 1
        if self.writes in self._refused:
            raise error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def free(self) -> None:
        """Make room."""
        self._refused = range(0)

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        self._take()
        super().make_folder(path, mode)

    def write(self, file: int, data: bytes | memoryview) -> None:
        self._take()
        super().write(file, data)

    def write_at(self, file: int, data: bytes, offset: int) -> None:
        self._take()
        super().write_at(file, data, offset)


class Life:
    """A store and an engine, and what was acknowledged."""

    def __init__(self, folder: Path, vfs: WatchedVFS, first: int, count: int) -> None:
        self.folder = folder
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        store = Store.open(folder, vfs=vfs.vfs_name)
        config = CollectionConfig("c", dimension=DIM, metric=Metric.COSINE, index=EXACT)
        do(store, lambda t: t.create_collection(config, "space"))
        store.close()
        self.disk = FillingDisk(vfs, first, count)
        self.vfs = vfs.vfs_name

    def open(self) -> None:
        self.store = Store.open(self.folder, vfs=self.vfs, files=self.disk)
        [record] = self.store.collections()
        self.number = record.number
        self.engine = StillEngine.open(
            engine_config(self.store, record, self.disk, limit=4),
            StoreTruth(self.store, self.number),
        )
        self.store.listener = lambda seq, changes: self.engine.apply(changes[self.number])

    def close(self) -> None:
        self.engine.snapshot()
        self.engine.close()
        self.store.close()

    def step(self, step: int) -> None:
        ids = [f"i{n}" for n in range(2 * step, 2 * step + 5)]
        try:
            do(self.store, putting(self.number, *(item(i, of(i, step)) for i in ids)))
            self.acknowledged.update(dict.fromkeys(ids, step))
        except DiskFull:
            self.refused += 1
        self.compare()
        try:
            do(self.store, deleting(self.number, ids[1]))
            self.acknowledged.pop(ids[1], None)
        except DiskFull:
            self.refused += 1
        self.engine.build()
        if step % 3 == 2:
            self.engine.snapshot()
        self.compare()

    def compare(self) -> None:
        """Expect store and engine to hold what was acknowledged, and nothing else."""
        found = self.store.list(self.number, Filter(), "", 999, View.FULL)
        assert [(f.id) for f in found] == sorted(self.acknowledged)
        for one in found:
            assert one.vector is not None
            assert (one.vector == of(one.id, self.acknowledged[one.id])).all(), one.id
        hits = self.engine.search(np.eye(DIM, dtype=np.float32)[:1], 999)
        assert sorted(hits.ids[0].tolist()) == sorted(one.key for one in found)

    def live(self) -> int:
        """Live through it; return how many writes there were."""
        self.open()
        for step in range(7):
            self.step(step)
        writes = self.disk.writes
        self.disk.free()
        self.step(7)
        assert self.acknowledged["i14"] == 7, "nothing is stored although there is room"
        self.close()
        self.open()
        self.compare()
        assert not self.engine.stats().recovered, "the snapshot is not what it should be"
        self.close()
        return writes


def of(item_id: str, step: int) -> Vector:
    """Return the one vector of an item at a step."""
    rng = np.random.default_rng([int(item_id[1:]), step])
    made: Vector = normalize(rng.standard_normal((1, DIM), dtype=np.float32))[0]
    return made


@pytest.fixture
def vfs(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedVFS]:
    monkeypatch.setattr("lookalike.server.store._writer.CHECKPOINT_PAGES", 12)
    with watched() as made:
        yield made


def refuse_each(vfs: WatchedVFS, every: int) -> None:
    memory = Path("/dev/shm")  # nothing here needs a disk
    lives = refused = 0
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        writes = Life(Path(made) / "none", vfs, 0, 0).live()
        for count in (1, 5, FOR_GOOD):
            for first in range(1 + (SEED + count) % every, writes, every):
                life = Life(Path(made) / f"{count}-{first}", vfs, first, count)
                try:
                    life.live()
                except BaseException:
                    print(f"refused: {count} writes from number {first} on")
                    raise
                lives += 1
                refused += life.refused
    print(f"PROVE_SEED={SEED}: {writes} writes, {lives} lives, {refused} operations refused")
    assert refused > lives // 4


def test_whichever_write_finds_no_room_all_else_is_right(vfs: WatchedVFS) -> None:
    refuse_each(vfs, every=25)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_each_write_there_is_may_find_no_room(vfs: WatchedVFS) -> None:
    refuse_each(vfs, every=1)
