"""A full disk refuses writes and mends itself; a failing disk stops writes; reads go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from lookalike.backends.errors import DataLoss, DiskFull
from lookalike.server.domain import Filter, View, WriteMode
from lookalike.server.store import Store, Transaction
from store.making import create, do, item, put, putting
from store.watched_vfs import WatchedVFS, watched


@pytest.fixture
def vfs() -> Iterator[WatchedVFS]:
    with watched() as made:
        yield made


def breaks(vfs: WatchedVFS, action: str, suffix: str, error: Exception) -> list[int]:
    """Let every such action fail from now on; the list counts them."""
    count: list[int] = []

    def hook(done: str, kind: str) -> None:
        if (done, kind) == (action, suffix):
            count.append(1)
            raise error

    vfs.hook = hook
    return count


def test_a_full_disk_fails_writes_and_mends_itself(tmp_path: Path, vfs: WatchedVFS) -> None:
    store = Store.open(tmp_path, vfs=vfs.vfs_name)
    number = create(store).number
    put(store, number, [item("before")])
    seq = store.seq()
    for n in range(3):
        assert breaks(vfs, "write", "wal", apsw.FullError("full")) == []
        with pytest.raises(DiskFull):
            put(store, number, [item(f"lost{n}")])
        assert [f.id for f in store.list(number, Filter(), "", 9, View.ID)][-1:] != [f"lost{n}"]
        assert store.get(number, "before", View.FULL) is not None
        vfs.hook = lambda action, suffix: None
        put(store, number, [item(f"kept{n}", n)])
    assert store.seq() == seq + 3
    store.close()
    again = Store.open(tmp_path)
    ids = [f.id for f in again.list(number, Filter(), "", 9, View.FULL)]
    assert ids == ["before", "kept0", "kept1", "kept2"]
    assert again.keys(number).tolist() == sorted(set(again.keys(number).tolist()))
    again.close()


def test_all_of_a_commit_that_found_no_room_are_told(tmp_path: Path, vfs: WatchedVFS) -> None:
    store = Store.open(tmp_path, vfs=vfs.vfs_name)
    number = create(store).number
    heard: list[int] = []
    store.listener = lambda seq, changes: heard.append(seq)
    gate = threading.Event()
    first = store.write(lambda t: gate.wait(30))
    breaks(vfs, "write", "wal", apsw.FullError("full"))
    futures = [store.write(putting(number, item(f"i{n}"))) for n in range(20)]
    gate.set()
    assert isinstance(first.exception(30), DiskFull)
    assert all(isinstance(future.exception(30), DiskFull) for future in futures)
    assert not heard
    assert store.count(number, Filter()) == 0
    vfs.hook = lambda action, suffix: None
    store.close()


@pytest.mark.parametrize(
    ("action", "error"),
    [("write", apsw.IOError("disk I/O error")), ("sync", apsw.IOError("disk I/O error"))],
)
def test_a_failing_disk_stops_writes_and_reads_go_on(
    tmp_path: Path, vfs: WatchedVFS, action: str, error: Exception
) -> None:
    store = Store.open(tmp_path, vfs=vfs.vfs_name)
    number = create(store).number
    put(store, number, [item("before")])
    breaks(vfs, action, "wal", error)
    with pytest.raises(DataLoss, match="restart the server"):
        put(store, number, [item("lost", 2.0)])
    # The disk seems well again: what it holds is not known, so nothing is tried.
    vfs.hook = lambda action, suffix: None
    vfs.events.clear()
    with pytest.raises(DataLoss, match="restart the server"):
        put(store, number, [item("after", 3.0)])
    assert [f.id for f in store.list(number, Filter(), "", 9, View.FULL)] == ["before"]
    store.close()
    assert not [event for event in vfs.events if event[0] in ("write", "sync")]
    again = Store.open(tmp_path)
    ids = [f.id for f in again.list(number, Filter(), "", 9, View.FULL)]
    # Written but not synced: it may be there or not, but nothing else.
    assert ids in (["before"], ["before", "lost"])
    put(again, number, [item("after", 3.0)])
    again.close()


def test_a_sync_that_fails_at_a_checkpoint_stops_writes_but_loses_nothing(
    tmp_path: Path, vfs: WatchedVFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path, vfs=vfs.vfs_name)
    number = create(store).number

    def last_good(t: Transaction) -> None:  # from here on, and not before
        monkeypatch.setattr("lookalike.server.store._writer.CHECKPOINT_PAGES", 1)
        breaks(vfs, "sync", "db", apsw.IOError("disk I/O error"))
        t.put(number, [item("acked", 1.0)], WriteMode.UPSERT)

    do(store, last_good)
    with pytest.raises(DataLoss, match="restart the server"):
        put(store, number, [item("refused", 2.0)])
    vfs.hook = lambda action, suffix: None
    store.close()
    again = Store.open(tmp_path)
    assert [f.id for f in again.list(number, Filter(), "", 9, View.FULL)] == ["acked"]
    again.close()


def test_no_room_at_a_checkpoint_is_tried_again_later(
    tmp_path: Path, vfs: WatchedVFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.store._writer.CHECKPOINT_PAGES", 1)
    store = Store.open(tmp_path, vfs=vfs.vfs_name)
    number = create(store).number
    failed = breaks(vfs, "write", "db", apsw.FullError("full"))
    for n in range(5):
        put(store, number, [item(f"i{n}", n)])
    assert failed
    vfs.hook = lambda action, suffix: None
    put(store, number, [item("last", 9.0)])
    store.close()
    again = Store.open(tmp_path)
    assert again.count(number, Filter()) == 6
    again.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from lookalike.backends.errors import DiskFull
from lookalike.server.domain import Filter, View
from lookalike.server.store import Store, Transaction
from store.making import create, do, item, put, putting

store = Store.open(Path(sys.argv[1]))
number = create(store).number
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
acked = []
full = 0
for n in range(60):
    try:
        put(store, number, [item(f"i{n:03}", n, original=bytes(100_000))])
        acked.append(f"i{n:03}")
    except DiskFull:
        full += 1
        found = [f.id for f in store.list(number, Filter(), "", 99, View.FULL)]
        assert found == acked, (found, acked)
assert full > 10 and len(acked) > 3, (full, len(acked))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
put(store, number, [item("z", 1.0)])  # room again: no restart
acked.append("z")
store.close()
again = Store.open(Path(sys.argv[1]))
assert [f.id for f in again.list(number, Filter(), "", 99, View.FULL)] == acked
again.close()
print("full", full, "acked", len(acked))
"""


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=100,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("full")


def test_reads_that_fail_do_not_stop_writes(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    number = create(store).number

    def fails(_: object) -> None:
        error = apsw.IOError("disk I/O error")
        setattr(error, "extendedresult", apsw.SQLITE_IOERR_READ)  # noqa: B010
        raise error

    with pytest.raises(DataLoss):
        do(store, fails)
    put(store, number, [item("a")])
    store.close()
