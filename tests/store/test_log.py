"""A log that is damaged in its middle is told from one with a torn tail."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import apsw
import pytest

from lookalike.backends.errors import DataLoss
from lookalike.server.domain import Filter
from lookalike.server.store import Store
from lookalike.server.store._wal import check_log
from store.making import create, item, put

PAGE = 8192
FRAME = 24 + PAGE
COMMITS = 40


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a kill leaves it, with a log of many commits."""
    folder = tmp_path_factory.mktemp("log")
    store = Store.open(folder / "live")
    number = create(store).number
    for n in range(COMMITS):
        put(store, number, [item(f"i{n}", n)])
    shutil.copytree(folder / "live", folder / "killed")
    store.close()
    return folder / "killed"


def ends(log: bytes) -> list[int]:
    """Return where the frames begin that end a commit."""
    starts = range(32, len(log), FRAME)
    return [at for at in starts if int.from_bytes(log[at + 4 : at + 8], "big")]


def changed(folder: Path, log: bytes) -> Path:
    file = folder / "changed-wal"
    file.write_bytes(log)
    return file


def test_every_flipped_bit_before_the_last_commit_is_found(killed: Path, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    log = (killed / "store.db-wal").read_bytes()
    last = ends(log)[-2] + FRAME  # where the last commit begins
    for _ in range(60):
        at = rng.randrange(last)
        harmed = bytearray(log)
        harmed[at] ^= 1 << rng.randrange(8)
        with pytest.raises(DataLoss, match=r'Restore a backup.*"mark"'):
            check_log(changed(tmp_path, bytes(harmed)), PAGE)


def test_zeroed_pages_and_exchanged_frames_are_found(killed: Path, tmp_path: Path) -> None:
    log = (killed / "store.db-wal").read_bytes()
    for at in ends(log)[:-2]:
        zeroed = log[:at] + bytes(FRAME) + log[at + FRAME :]
        following = log[at + FRAME : at + 2 * FRAME]
        exchanged = log[:at] + following + log[at : at + FRAME] + log[at + 2 * FRAME :]
        for harmed in (zeroed, exchanged):
            with pytest.raises(DataLoss):
                check_log(changed(tmp_path, harmed), PAGE)


def test_a_log_that_was_cut_off_anywhere_is_a_torn_tail(killed: Path, tmp_path: Path) -> None:
    log = (killed / "store.db-wal").read_bytes()
    check_log(killed / "store.db-wal", PAGE)
    check_log(killed / "none-wal", PAGE)
    for length in [0, 1, 31, 32, 33, 32 + 24, *range(0, len(log), 9001)]:
        check_log(changed(tmp_path, log[:length]), PAGE)


def test_any_part_of_the_last_commit_may_be_missing(killed: Path, tmp_path: Path) -> None:
    """What a power cut leaves of a commit that was not synced: some of its sectors."""
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    log = (killed / "store.db-wal").read_bytes()
    last = ends(log)[-2] + FRAME
    for _ in range(40):
        torn = bytearray(log)
        for at in range(last, len(log), 512):
            if rng.random() < 0.5:
                torn[at : at + 512] = bytes(len(torn[at : at + 512]))
        check_log(changed(tmp_path, bytes(torn)), PAGE)


def test_a_log_that_began_anew_over_an_older_one_is_sound(tmp_path: Path) -> None:
    """Behind its last frame stand those of its former life, whole and with other salts."""
    db = apsw.Connection(str(tmp_path / "store.db"))
    db.pragma("page_size", PAGE)
    db.pragma("journal_mode", "wal")
    db.wal_autocheckpoint(0)
    db.execute("CREATE TABLE t (x)")
    for _ in range(20):
        db.execute("INSERT INTO t VALUES (randomblob(9000))")
    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    for _ in range(3):
        db.execute("INSERT INTO t VALUES (randomblob(9000))")
    log = (tmp_path / "store.db-wal").read_bytes()
    assert len(log) > 40 * FRAME
    check_log(tmp_path / "store.db-wal", PAGE)
    harmed = bytearray(log)
    harmed[100] ^= 1
    with pytest.raises(DataLoss):
        check_log(changed(tmp_path, bytes(harmed)), PAGE)
    db.close()


def opened(folder: Path) -> int:
    store = Store.open(folder)
    try:
        return store.count(1, Filter())
    finally:
        store.close()


def test_a_damaged_log_is_refused_though_the_mark_fell_behind(killed: Path, tmp_path: Path) -> None:
    """After a power cut the mark may not know of the last commits."""
    folder = tmp_path / "data"
    shutil.copytree(killed, folder)
    (folder / "mark").write_bytes(b"")
    log = bytearray((folder / "store.db-wal").read_bytes())
    log[len(log) // 2] ^= 1
    (folder / "store.db-wal").write_bytes(log)
    with pytest.raises(DataLoss, match=r"store\.db-wal"):
        opened(folder)
    assert (folder / "store.db-wal").read_bytes() == log  # nothing was touched
    (folder / "mark").unlink()  # what the message says to do
    assert 0 < opened(folder) < COMMITS


def test_what_stands_behind_a_torn_tail_is_gone_after_the_opening(
    killed: Path, tmp_path: Path
) -> None:
    """Else it would look like a commit behind damage once more was written before it."""
    folder = tmp_path / "data"
    shutil.copytree(killed, folder)
    log = bytearray((folder / "store.db-wal").read_bytes())
    at = ends(bytes(log))[-2] + FRAME
    log[at + 100] ^= 1
    (folder / "store.db-wal").write_bytes(log)
    (folder / "mark").write_bytes(b"")
    store = Store.open(folder)
    assert (folder / "store.db-wal").stat().st_size == 0
    put(store, 1, [item("new", 1.0)])
    shutil.copytree(folder, tmp_path / "again")
    store.close()
    assert opened(tmp_path / "again") == COMMITS


def test_a_log_or_a_mark_of_another_store_is_refused(killed: Path, tmp_path: Path) -> None:
    stranger = Store.open(tmp_path / "stranger")
    number = create(stranger).number
    put(stranger, number, [item("theirs", 1.0)])
    shutil.copytree(tmp_path / "stranger", tmp_path / "theirs")
    stranger.close()
    for name in ("store.db-wal", "mark"):
        folder = tmp_path / name
        shutil.copytree(killed, folder)
        shutil.copy(tmp_path / "theirs" / name, folder / name)
        with pytest.raises(DataLoss, match="different stores"):
            opened(folder)
