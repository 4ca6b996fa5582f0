"""A backup that is made while the store is written is the store at the change that it names."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import apsw
import numpy as np
import pytest

from lookalike.backends.errors import Cancelled, DataLoss, DiskFull, Overloaded, ResourceExhausted
from lookalike.backends.types import IndexSpec
from lookalike.server import backup as backup_module
from lookalike.server.backup import TRAILER_BYTES, Backups, Manifest
from lookalike.server.domain import Filter, ReadyItem, View, WriteMode
from lookalike.server.restore import restore
from lookalike.server.store import ReadOnlyStore, Store, Transaction
from lookalike.server.store import _backup as copying
from lookalike.server.store import _moment as moments
from lookalike.server.store import _writer as writing
from store.making import create, do, item, put

SEED = int(os.environ.get("PROVE_SEED", "30"))
DIM = 64
IDS = 400


def go_on() -> None:
    """Never end a backup."""


def save(backups: Backups, path: Path) -> Manifest:
    """Make a backup and write it to a file, as a client does."""
    with backups.make(go_on) as (manifest, pieces):
        path.write_bytes(b"".join(pieces))
    return manifest


def restored(path: Path, folder: Path, **indexes: str) -> Store:
    """Restore a backup and open what came of it."""
    wishes = {name: IndexSpec(backend) for name, backend in indexes.items()}
    restore(path, folder, indexes=wishes, say=print)
    return Store.open(folder)


class Traffic:
    """Writes at full speed, and a journal of what was done at which change."""

    def __init__(self, store: Store, number: int, seed: int) -> None:
        self.store = store
        self.number = number
        self.journal: list[tuple[int, str, ReadyItem | None]] = []
        """In the order of the writer thread."""
        self.acknowledged = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed * 100 + n),))
            for n in range(3)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors

    def fill(self) -> None:
        """Store all ids, so that the first backup takes a while."""
        rng = random.Random(0)
        items = [self._item(f"item {n}", rng) for n in range(IDS)]

        def store(transaction: Transaction) -> None:
            transaction.put(self.number, items, WriteMode.UPSERT)
            self.journal.extend((transaction.seq, made.id, made) for made in items)

        self.store.write(store).result(60)

    def state(self, seq: int) -> dict[str, ReadyItem]:
        """Return what is stored after a change, by the journal."""
        found: dict[str, ReadyItem] = {}
        for at, item_id, made in self.journal:
            if at <= seq and made is None:
                found.pop(item_id, None)
            elif at <= seq and made is not None:
                found[item_id] = made
        return found

    def _run(self, rng: random.Random) -> None:
        try:
            while not self._stop.is_set():
                seq = self.store.write(self._operation(rng)).result(60)
                self.acknowledged = max(self.acknowledged, seq)
        except BaseException as error:
            self.errors.append(error)

    def _operation(self, rng: random.Random) -> Callable[[Transaction], int]:
        ids = [f"item {rng.randrange(IDS)}" for _ in range(rng.randint(1, 8))]
        if rng.random() < 0.2:

            def delete(transaction: Transaction) -> int:
                transaction.delete(self.number, ids)
                self.journal.extend((transaction.seq, item_id, None) for item_id in ids)
                return transaction.seq

            return delete
        items = [self._item(item_id, rng) for item_id in ids]

        def store(transaction: Transaction) -> int:
            transaction.put(self.number, items, WriteMode.UPSERT)
            self.journal.extend((transaction.seq, made.id, made) for made in items)
            return transaction.seq

        return store

    def _item(self, item_id: str, rng: random.Random) -> ReadyItem:
        # Few vectors, so that some writes change only metadata or pictures.
        made = np.random.default_rng(rng.randrange(50)).standard_normal(DIM).astype(np.float32)
        picture = rng.randbytes(rng.randint(1000, 12_000))
        return item(
            item_id,
            made,
            {"n": float(rng.randrange(10**6))},
            thumbnail=picture[:1000] if rng.random() < 0.7 else None,
            original=picture if rng.random() < 0.5 else None,
        )


def check_equal(store: Store, number: int, expected: dict[str, ReadyItem]) -> None:
    """Compare everything that can be read with what should be there, bit by bit."""
    found = {one.id: one for one in store.list(number, Filter(), "", 10**6, View.FULL)}
    assert sorted(found) == sorted(expected)
    assert len(store.keys(number)) == len(expected)
    for item_id, made in expected.items():
        one = found[item_id]
        assert one.vector is not None
        assert one.vector.tobytes() == made.vector.tobytes(), item_id
        assert one.metadata == made.metadata, item_id
        assert store.digest(number, item_id) == made.digest, item_id
        for original, data in ((False, made.thumbnail), (True, made.original)):
            kept = store.image(one.key, original)
            assert (kept.data if kept else None) == data, item_id


@contextmanager
def small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make copies of many steps, and logs that are brought home all the time."""
    with monkeypatch.context() as patched:
        patched.setattr(copying, "_STEP_PAGES", 16)
        patched.setattr(writing, "CHECKPOINT_PAGES", 20)
        patched.setattr(writing, "TRUNCATE_PAGES", 60)
        yield


def backup_loop(folder: Path, loops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {SEED}")
    kinds = ("exact", "faiss", "hnswlib", "auto")
    with small_steps(monkeypatch):
        store = Store.open(folder / "data")
        number = create(store, dim=DIM).number
        backups = Backups(store, version="1")
        moved, traffic = 0, Traffic(store, number, SEED)
        traffic.fill()
        with traffic:
            for loop in range(loops):
                time.sleep(0.1)
                before, path = traffic.acknowledged, folder / f"{loop}.lookalike"
                manifest = save(backups, path)
                assert manifest.seq >= before, "something acknowledged is not in the backup"
                moved += store.seq() > manifest.seq
                again = restored(path, folder / f"restored-{loop}", default=kinds[loop % 3])
                assert again.seq() == manifest.seq
                [record] = again.collections()
                assert record.config.index is not None
                assert record.config.index.backend == kinds[loop % 3]
                check_equal(again, record.number, traffic.state(manifest.seq))
                again.close()
                path.unlink()
        check_equal(store, number, traffic.state(store.seq()))
        store.close()
        assert moved, "nothing was written while backups were made"
        print(f"{loops} backups, {len(traffic.journal)} writes, {moved} overtaken")


def test_a_backup_is_the_store_at_its_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_loop(tmp_path, 4, monkeypatch)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_many_backups_are_the_store_at_their_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup_loop(tmp_path, int(os.environ.get("PROVE_BACKUPS", "50")), monkeypatch)


# ------------------------------------------------------------- one backup


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "data")
    number = create(store).number
    put(store, number, [item(f"i{n}", n + 1.0, {"n": n}, thumbnail=b"t" * 9000) for n in range(50)])
    yield store
    store.close()


def test_nothing_of_a_backup_stays_behind(filled: Store, tmp_path: Path) -> None:
    manifest = save(Backups(filled, version="1"), tmp_path / "b")
    assert (tmp_path / "b").stat().st_size == manifest.size_bytes + TRAILER_BYTES
    assert {p.name for p in filled.directory.iterdir()} <= {
        "lock",
        "mark",
        "store.db",
        "store.db-wal",
        "store.db-shm",
    }


def test_a_backup_that_is_given_up_is_removed_at_once(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_STEP_PAGES", 4)
    backups, asked = Backups(filled, version="1"), []

    def gone() -> None:
        asked.append(1)
        if len(asked) == 3:
            assert (filled.directory / "backup.part").exists()
            raise Cancelled("The caller has gone.")

    with pytest.raises(Cancelled), backups.make(gone):
        pytest.fail("it was made")
    assert not (filled.directory / "backup.part").exists()
    assert not filled._writer._holders
    with backups.make(go_on) as (manifest, _):
        assert manifest.seq == filled.seq()


def test_one_backup_at_a_time(filled: Store) -> None:
    backups = Backups(filled, version="1")
    with backups.make(go_on), pytest.raises(Overloaded) as caught, backups.make(go_on):
        pytest.fail("two were made")
    assert caught.value.retry_after_s
    with backups.make(go_on):
        pass


def test_what_a_backup_left_behind_is_swept_at_the_start(filled: Store) -> None:
    (filled.directory / "backup.part").write_bytes(b"half")
    Backups(filled, version="1")
    assert not (filled.directory / "backup.part").exists()


def test_a_backup_that_has_no_room_is_refused_before_it_is_begun(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup_module, "_SPARE_BYTES", 2**62)
    with pytest.raises(DiskFull, match="room"), Backups(filled, version="1").make(go_on):
        pytest.fail("it was made")
    put(filled, 1, [item("still")])


def test_a_backup_is_a_database_that_other_tools_read(filled: Store, tmp_path: Path) -> None:
    save(Backups(filled, version="1"), tmp_path / "b")
    db = apsw.Connection(str(tmp_path / "b"), flags=apsw.SQLITE_OPEN_READONLY)
    assert db.execute("SELECT count(*) FROM items").fetchall() == [(50,)]
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def test_the_manifest_has_nothing_of_the_items(filled: Store, tmp_path: Path) -> None:
    put(filled, 1, [item("canary-id", 3.0, {"canary-key": "canary-value"})])
    save(Backups(filled, version="1"), tmp_path / "b")
    trailer = (tmp_path / "b").read_bytes()[-TRAILER_BYTES:]
    assert b"canary" not in trailer
    assert str(tmp_path).encode() not in trailer


def test_the_log_is_left_alone_while_a_moment_is_held(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that tried to begin the log anew would wait for the reader at each commit."""
    monkeypatch.setattr(writing, "CHECKPOINT_PAGES", 1)
    monkeypatch.setattr(writing, "TRUNCATE_PAGES", 2)
    with filled.moment() as moment:
        began = time.monotonic()
        for n in range(5):
            put(filled, 1, [item(f"more {n}", thumbnail=b"x" * 30_000)])
        assert time.monotonic() - began < 4, "the writer waited for the reader"
        record = moment.collection(1)
        assert record is not None
        assert moment.count(1, Filter()) == 50
        items = list(moment.items(record, Filter(), images=True, at_once=7))
        assert [len(items), items[0].item.id, items[-1].item.id] == [50, "i0", "i9"]
    put(filled, 1, [item("after")])
    log = filled.directory / "store.db-wal"
    ends = time.monotonic() + 10
    while log.stat().st_size and time.monotonic() < ends:
        time.sleep(0.01)
    assert not log.stat().st_size, "the log was not brought home afterwards"


def test_a_moment_that_is_held_too_long_is_let_go(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "MOST_LOG_BYTES", 100_000)
    with filled.moment() as moment:
        record = moment.collection(1)
        assert record is not None
        items = moment.items(record, Filter(), images=False, at_once=10)
        next(items)
        put(filled, 1, [item("large", thumbnail=b"x" * 200_000)])
        with pytest.raises(ResourceExhausted, match="written meanwhile"):
            list(items)


def test_a_damaged_item_ends_an_export_by_name(filled: Store) -> None:
    do(filled, lambda t: t._db.execute("UPDATE items SET metadata = '{}' WHERE id = 'i7'"))
    with filled.moment() as moment:
        record = moment.collection(1)
        assert record is not None
        with pytest.raises(DataLoss, match="i7"):
            list(moment.items(record, Filter(), images=True, at_once=10))


def test_bytes_of_a_backup_are_what_its_trailer_says(filled: Store, tmp_path: Path) -> None:
    save(Backups(filled, version="1"), tmp_path / "b")
    data = (tmp_path / "b").read_bytes()
    assert data[-TRAILER_BYTES:].startswith(b"lookalike backup")
    digest = hashlib.sha256(data[:-TRAILER_BYTES]).digest()
    assert data[-TRAILER_BYTES + 16 : -TRAILER_BYTES + 48] == digest


def test_a_store_that_is_only_read_is_backed_up_without_a_trace(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    put(store, create(store).number, [item(f"i{n}") for n in range(20)])
    store.close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    reading = ReadOnlyStore.open_unchanged(tmp_path / "data")
    manifest = save(Backups(reading, version="1"), tmp_path / "b")
    assert manifest.seq == reading.seq()
    reading.close()
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before
    again = restored(tmp_path / "b", tmp_path / "new")
    assert again.count(1, Filter()) == 20
    again.close()
