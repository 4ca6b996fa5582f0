"""A full disk refuses what would store more; all else goes on, and it mends itself."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import apsw
import numpy as np
import pytest

from house import open_house
from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.engine.base import EngineConfig
from lookalike.backends.errors import DiskFull
from lookalike.backends.files import Files
from lookalike.backends.testing.scene import DIM, Scene
from lookalike.backends.types import IndexSpec, Keys, Metric, Vectors
from lookalike.server.domain import CollectionConfig, Filter, Job, JobState, NewItem, Outcome
from lookalike.server.store import Store
from store.making import create, deleting, do, item, new_digest, put, putting
from store.watched_vfs import WatchedVFS, watched

SEED = int(os.environ.get("PROVE_SEED", "0")) or random.randrange(1, 10**6)


@pytest.fixture
def vfs(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedVFS]:
    """Every store that is opened is on a disk that can be filled."""
    with watched() as made:
        monkeypatch.setattr(Store, "open", partial(Store.open, vfs=made.vfs_name))
        yield made


def full(action: str, suffix: str) -> None:
    """Be a disk that takes nothing more."""
    if action == "write":
        raise apsw.FullError("full")


def room(action: str, suffix: str) -> None:
    """Be a disk that has room."""


def on_a_small_disk(folder: Path, cycles: int, timeout_s: float) -> str:
    """Fill and free a real file system so often; return what was done."""
    command = ["unshare", "-rm", sys.executable, "-m", "durability.full_disk"]
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "disk", folder],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("this machine lets us mount nothing, not even in a namespace of our own")
    done = subprocess.run(
        [*command, str(folder), str(cycles), str(SEED)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=timeout_s,
        check=False,
    )
    print(f"PROVE_SEED={SEED}", done.stdout, done.stderr, sep="\n")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_full_disk_costs_nothing_but_what_it_refuses(tmp_path: Path) -> None:
    assert " searches right" in on_a_small_disk(tmp_path, 4, 110)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_a_disk_is_filled_and_freed_many_times(tmp_path: Path) -> None:
    told = on_a_small_disk(tmp_path, int(os.environ.get("PROVE_FILLS", "100")), 7000)
    print(told.strip())


# ----------------------------------------------------------------- the last of it


def test_the_last_of_the_disk_is_kept_for_deleting(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    number = create(store).number
    put(store, number, [item(f"i{n}", n, original=bytes(9000)) for n in range(40)])
    store.close()
    free = shutil.disk_usage(tmp_path).free
    store = Store.open(tmp_path, files=Files(2 * free))
    for grows in (
        putting(number, item("new")),
        putting(number, item("i1", 99.0)),
        lambda t: t.update_metadata(number, "i1", {"a": 1}, new_digest, True),
        lambda t: t.create_collection(CollectionConfig("w", dimension=4), "space"),
        lambda t: t.replace_vectors(number, *all_vectors(store, number), "other"),
    ):
        with pytest.raises(DiskFull, match="disk of the server is almost full") as caught:
            do(store, grows)
        assert int(caught.value.metadata["min_free_bytes"]) == 2 * free
    [unchanged] = put(store, number, [item("i1", 1, original=bytes(9000))])
    assert unchanged.outcome is Outcome.UNCHANGED
    assert do(store, deleting(number, "i1", "i2")) == 2
    assert store.count(number, Filter()) == 38
    do(store, lambda t: t.save_job(Job("j", "test", "c", JobState.RUNNING)))
    assert do(store, lambda t: t.delete_collection(number)) == 38
    assert store.collections() == []
    store.close()


def all_vectors(store: Store, number: int) -> tuple[Keys, Vectors]:
    keys = store.keys(number)
    return keys, store.vectors(number, keys)


def test_what_was_deleted_makes_room_inside_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path, files=Files(2**20))
    number = create(store).number
    put(store, number, [item(f"i{n}", n, original=bytes(9000)) for n in range(99)])
    # Two thirds of what should be free are.
    scarce = SimpleNamespace(f_bavail=2 * 2**20 // 3, f_frsize=1)
    monkeypatch.setattr("lookalike.server.store._room.os.statvfs", lambda path: scarce)
    with pytest.raises(DiskFull):
        put(store, number, [item("new")])
    do(store, deleting(number, *(f"i{n}" for n in range(50))))
    put(store, number, [item("new")])
    assert (tmp_path / "store.db-wal").stat().st_size < 2**16, "the log did not give its room back"
    scarce.f_bavail = 2**20 // 3
    with pytest.raises(DiskFull):
        put(store, number, [item("newer")])
    store.close()


# -------------------------------------------------------------------- the engine


class SmallFiles(Files):
    """A disk without room until there is."""

    full = True

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().make_folder(path, mode)


def test_a_snapshot_that_found_no_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.backends.engine._local.RETRY_S", (0.05,))
    files = SmallFiles()
    config = EngineConfig(
        "owner", tmp_path / "engine", DIM, Metric.COSINE, IndexSpec("exact"), {"delta_limit": 20}
    )
    scene = Scene(LocalEngine, replace(config, files=files), seed=SEED)
    scene.add(50)
    scene.settle()
    scene.check()
    assert not list(tmp_path.iterdir())
    files.full = False
    manifest = tmp_path / "engine" / "manifest.json"
    ends = time.monotonic() + 30
    while not manifest.exists():
        assert time.monotonic() < ends, "nobody tried again"
        time.sleep(0.02)
    scene.reopen()
    assert scene.engine.stats().recovered == ""
    scene.check()
    scene.engine.close()


def test_derived_files_leave_the_reserve_alone(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    for reserve, written in ((2 * free, False), (1, True)):
        config = EngineConfig(
            "owner",
            tmp_path / str(reserve),
            DIM,
            Metric.COSINE,
            IndexSpec("exact"),
            {"delta_limit": 20},
            Files(reserve),
        )
        scene = Scene(LocalEngine, config, seed=SEED)
        scene.add(50)
        scene.settle()
        scene.engine.snapshot()
        scene.check()
        scene.engine.close()
        assert bool(list(tmp_path.rglob("rows.bin"))) is written


# ------------------------------------------------------------------------ jobs


def test_jobs_go_on_after_the_disk_was_full(tmp_path: Path, vfs: WatchedVFS) -> None:
    with open_house(tmp_path) as house:
        house.library.create_collection(CollectionConfig("v", model="none", dimension=4), False)
        rows = np.eye(4, dtype=np.float32)
        house.put([NewItem(f"v-{i}", vector=row) for i, row in enumerate(rows)], "v")
        vfs.hook = full
        with pytest.raises(DiskFull):
            house.jobs.rebuild("v", None, False)
        assert house.jobs.list("", "", 9) == [], "a job that nobody was told of"
        vfs.hook = room
        job = house.jobs.rebuild("v", None, False)
        *_, last = house.jobs.watch(job.id)
        assert last.state is JobState.SUCCEEDED


def test_a_disk_that_fills_up_under_a_job_does_not_end_all_jobs(
    tmp_path: Path, vfs: WatchedVFS
) -> None:
    with open_house(tmp_path) as house:
        house.library.create_collection(CollectionConfig("v", model="none", dimension=4), False)
        jobs = []
        for _ in range(2):
            saves = 0

            def after_the_first(action: str, suffix: str) -> None:
                nonlocal saves
                saves += (action, suffix) == ("sync", "wal")
                if saves:
                    full(action, suffix)

            vfs.hook = after_the_first
            job = house.jobs.rebuild("v", None, False)
            *_, last = house.jobs.watch(job.id)
            assert last.state.is_over
            vfs.hook = room
            jobs.append(last)
        job = house.jobs.rebuild("v", None, False)
        *_, last = house.jobs.watch(job.id)
        assert last.state is JobState.SUCCEEDED
        told = {found.id: found.state for found in house.store.jobs()}
        assert told[job.id] is JobState.SUCCEEDED
