"""A backup is restored exactly, or refused with a reason, and never half."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from lookalike.backends.errors import (
    CollectionNotFound,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LookalikeError,
    UnknownBackend,
)
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams
from lookalike.server.backup import (
    MAGIC,
    TRAILER_BYTES,
    Backups,
    Manifest,
    read_trailer,
    write_trailer,
)
from lookalike.server.domain import CollectionConfig, Filter, View
from lookalike.server.restore import check, read_indexes, restore
from lookalike.server.store import Store
from lookalike.server.store import _connect as connect
from store.making import create, do, item, put

SEED = int(os.environ.get("PROVE_SEED", "31"))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Make a backup of a store with two collections, pictures, an index over a field."""
    store = Store.open(tmp_path / "data")
    first = create(store).number
    config = CollectionConfig("other", dimension=4, indexed_fields=("n", "brand"))
    second = do(store, lambda t: t.create_collection(config, "space")).number
    for number in (first, second):
        items = [
            item(f"i{n}", n + 1.0, {"n": n}, thumbnail=b"t%d" % n, original=b"o%d" % n)
            for n in range(20)
        ]
        put(store, number, items)
    do(store, lambda t: t.delete(first, ["i3"]))
    with Backups(store, version="1").make(lambda: None) as (_, pieces):
        (tmp_path / "b").write_bytes(b"".join(pieces))
    store.close()
    return tmp_path / "b"


def edited(path: Path, change: Callable[[Path], None]) -> Path:
    """Change the database inside a backup and give it a trailer that fits."""
    _, manifest = read_trailer(path)
    data = path.read_bytes()[:-TRAILER_BYTES]
    inner = path.with_name("inner.db")
    inner.write_bytes(data)
    change(inner)
    return sealed(path, inner.read_bytes(), manifest.seq, manifest.format_version)


def sealed(path: Path, data: bytes, seq: int, version: int) -> Path:
    _, manifest = read_trailer(path)
    fitting = replace(manifest, seq=seq, size_bytes=len(data), format_version=version)
    trailer = write_trailer(hashlib.sha256(data).digest(), fitting)
    out = path.with_name("edited")
    out.write_bytes(data + trailer)
    return out


def sql(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        db = apsw.Connection(str(path))
        db.pragma("journal_mode", "delete")
        db.execute(statement)
        db.close()

    return change


def refused(path: Path, folder: Path, error: type[LookalikeError]) -> str:
    with pytest.raises(error) as caught:
        restore(path, folder, indexes={}, say=print)
    assert str(folder) not in caught.value.message
    assert not (folder / "store.db").exists()
    if folder.exists():
        assert {p.name for p in folder.iterdir()} <= {"lock"}
    return caught.value.message


# --------------------------------------------------------------- what comes back


def test_a_restored_store_is_the_same_but_for_its_identity(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "new", indexes={}, say=print)
    old, new = Store.open(tmp_path / "data"), Store.open(tmp_path / "new")
    assert new.seq() == old.seq()
    assert new.collections() == old.collections()
    for number in (1, 2):
        ours = new.list(number, Filter(), "", 99, View.FULL)
        theirs = old.list(number, Filter(), "", 99, View.FULL)
        assert len(ours) == len(theirs) == {1: 19, 2: 20}[number]
        assert [repr(one) for one in ours] == [repr(one) for one in theirs]
        for one in ours:
            assert new.image(one.key, True) == old.image(one.key, True)
            assert new.image(one.key, False) == old.image(one.key, False)
            assert new.digest(number, one.id) == old.digest(number, one.id)
    assert new.uuid != old.uuid, "two histories with the same keys must not be mixed up"
    old.close()
    new.close()


def test_a_restored_store_goes_on(backup: Path, tmp_path: Path) -> None:
    restore(backup, tmp_path / "new", indexes={}, say=print)
    store = Store.open(tmp_path / "new")
    highest, seq = int(store.keys(2)[-1]), store.seq()
    put(store, 1, [item("later")])
    assert store.seq() == seq + 1
    assert int(store.keys(1)[-1]) > highest
    store.close()
    Store.open(tmp_path / "new").close()


def test_the_kind_of_index_can_be_changed_for_all_or_for_one(backup: Path, tmp_path: Path) -> None:
    wishes = read_indexes(["faiss:ivf", "other=hnswlib:hnsw"])
    restore(backup, tmp_path / "new", indexes=wishes, say=print)
    store = Store.open(tmp_path / "new")
    specs = {record.config.name: record.config.index for record in store.collections()}
    assert specs["default"] == IndexSpec("faiss", IvfParams())
    assert specs["other"] == IndexSpec("hnswlib", HnswParams())
    store.close()


def test_wishes_that_cannot_be_met_are_refused(backup: Path, tmp_path: Path) -> None:
    for wish, error in [
        ({"absent": IndexSpec("exact")}, CollectionNotFound),
        ({"": IndexSpec("nonsense")}, UnknownBackend),
    ]:
        with pytest.raises(error):
            restore(backup, tmp_path / "new", indexes=wish, say=print)
        assert {p.name for p in (tmp_path / "new").iterdir()} == {"lock"}
    for text in ("", "=", "=exact", "a=", "exact:tree", "a=:flat"):
        with pytest.raises(InvalidArgument):
            read_indexes([text])


def test_a_check_leaves_nothing_and_finds_what_a_restore_would(
    backup: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert check(backup, scratch, print).seq == read_trailer(backup)[1].seq
    bad = edited(backup, sql("UPDATE items SET metadata = '{}' WHERE id = 'i5'"))
    with pytest.raises(DataLoss):
        check(bad, scratch, print)
    assert not list(scratch.iterdir())


# --------------------------------------------------------------------- damage


def test_every_flipped_bit_and_every_cut_is_found(backup: Path, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    whole = backup.read_bytes()
    text = len(whole) - TRAILER_BYTES + len(MAGIC)
    places = [rng.randrange(len(whole) - TRAILER_BYTES) for _ in range(40)]
    places += [rng.randrange(len(whole) - TRAILER_BYTES, text + 32 + 100) for _ in range(20)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / "bad").write_bytes(damaged)
        try:
            manifest = restore(tmp_path / "bad", tmp_path / "new", indexes={}, say=print)
        except (DataLoss, FailedPrecondition):
            assert {p.name for p in (tmp_path / "new").iterdir()} <= {"lock"} or not (
                tmp_path / "new"
            ).exists()
            continue
        # Only in what the trailer says of the time and the version of the server.
        assert place >= text + 32, f"a flipped bit at {place} was not seen"
        assert manifest.seq == read_trailer(backup)[1].seq
        for path in (tmp_path / "new").iterdir():
            path.unlink()
    for size in [0, 1, 100, 1023, 1024, 5000, *(rng.randrange(len(whole)) for _ in range(20))]:
        (tmp_path / "bad").write_bytes(whole[:size])
        refused(tmp_path / "bad", tmp_path / "cut", DataLoss)
    (tmp_path / "bad").write_bytes(whole + b"x")
    refused(tmp_path / "bad", tmp_path / "cut", DataLoss)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE items SET metadata = '{}' WHERE id = 'i5'",
        "UPDATE items SET seq = 999 WHERE id = 'i5'",
        "UPDATE vectors SET vector = zeroblob(16) WHERE key = 5",
        "DELETE FROM vectors WHERE key = 5",
        "UPDATE originals SET data = x'00' WHERE first_key = 5",
        "DELETE FROM thumbnails WHERE first_key = 5",
    ],
)
def test_items_that_were_damaged_before_are_named(
    backup: Path, tmp_path: Path, statement: str
) -> None:
    bad = edited(backup, sql(statement))
    said: list[str] = []
    with pytest.raises(DataLoss, match="accept-damage"):
        restore(bad, tmp_path / "new", indexes={}, say=said.append)
    assert any("i" in line and "damaged" in line for line in said)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"lock"}
    restore(bad, tmp_path / "new", indexes={}, accept_damage=True, say=said.append)
    store = Store.open(tmp_path / "new")
    assert store.get(2, "i1", View.FULL) is not None
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE collections SET config = '{}'",
        "UPDATE meta SET next_key = 1",
        "DELETE FROM meta",
        "INSERT INTO vectors VALUES (999, x'00', 0)",
        "CREATE TABLE more (a)",
        "CREATE TRIGGER t AFTER INSERT ON items BEGIN DELETE FROM vectors; END",
        "CREATE VIEW v AS SELECT 1",
        "DROP TRIGGER items_leave_nothing",
        "CREATE INDEX sly ON items (abs(key))",
    ],
)
def test_a_backup_that_no_server_made_is_refused(
    backup: Path, tmp_path: Path, statement: str
) -> None:
    refused(edited(backup, sql(statement)), tmp_path / "new", DataLoss)


def test_a_trailer_of_another_state_is_refused(backup: Path, tmp_path: Path) -> None:
    data = backup.read_bytes()[:-TRAILER_BYTES]
    assert "another state" in refused(sealed(backup, data, 2, 1), tmp_path / "new", DataLoss)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", b"[" * 900, b'{"seq":1e999}', b'{"size_bytes":"x","seq":0}'],
)
def test_a_trailer_that_cannot_be_read_is_refused(
    backup: Path, tmp_path: Path, text: bytes
) -> None:
    data = backup.read_bytes()[:-TRAILER_BYTES]
    trailer = (MAGIC + hashlib.sha256(data).digest() + text).ljust(TRAILER_BYTES)
    (tmp_path / "bad").write_bytes(data + trailer)
    refused(tmp_path / "bad", tmp_path / "new", DataLoss)


def test_the_database_of_another_program_is_refused(backup: Path, tmp_path: Path) -> None:
    bad = edited(backup, sql("PRAGMA application_id = 7"))
    refused(bad, tmp_path / "new", FailedPrecondition)


def test_a_newer_format_is_refused_with_both_versions(backup: Path, tmp_path: Path) -> None:
    bad = edited(backup, sql("PRAGMA user_version = 77"))
    message = refused(bad, tmp_path / "new", FailedPrecondition)
    assert "77" in message
    assert f"knows {len(connect.migrations())}" in message


def test_an_older_format_is_brought_up_to_date(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = [*connect.migrations(), "ALTER TABLE jobs ADD COLUMN remark TEXT"]
    monkeypatch.setattr(connect, "migrations", lambda: newer)
    monkeypatch.setattr("lookalike.server.store._store.migrations", lambda: newer)
    restore(backup, tmp_path / "new", indexes={}, say=print)
    store = Store.open(tmp_path / "new")
    assert do(store, lambda t: t._db.pragma("user_version")) == len(newer)
    store.close()


# --------------------------------------------------------------------- folders


def test_only_a_new_or_empty_folder_is_restored_into(backup: Path, tmp_path: Path) -> None:
    for name in ("store.db", "mark", "indexes", "photo.jpg"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        (folder / name).write_bytes(b"precious")
        with pytest.raises(FailedPrecondition, match="not empty"):
            restore(backup, folder, indexes={}, say=print)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {name: b"precious"}
    with pytest.raises(FailedPrecondition, match="not empty"):
        restore(backup, tmp_path / "data", indexes={}, say=print)


def test_a_link_in_the_folder_is_not_followed(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "restore.part").symlink_to(tmp_path / "victim")
    restore(backup, tmp_path / "new", indexes={}, say=print)
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "new" / "store.db").is_symlink()


def test_a_folder_that_a_server_uses_is_refused(backup: Path, tmp_path: Path) -> None:
    lock = connect.lock(tmp_path / "new")
    with pytest.raises(FailedPrecondition, match="another server"):
        restore(backup, tmp_path / "new", indexes={}, say=print)
    os.close(lock)
    restore(backup, tmp_path / "new", indexes={}, say=print)


def test_what_is_no_file_is_no_backup(backup: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(InvalidArgument):
            restore(path, tmp_path / "new", indexes={}, say=print)
    with pytest.raises(FileNotFoundError):
        restore(tmp_path / "absent", tmp_path / "new", indexes={}, say=print)


# --------------------------------------------------------------------- crashes

CRASH = """
import os, sys
from pathlib import Path
from lookalike.backends import crashpoints
from lookalike.server.restore import restore
point = sys.argv[3]
assert point in crashpoints.NAMES
crashpoints.watch(lambda name: os._exit(9) if name == point else None)
restore(Path(sys.argv[1]), Path(sys.argv[2]), indexes={}, say=print)
"""


@pytest.mark.parametrize(
    "point",
    ["restore.copy.done", "restore.check.done", "restore.rename.before", "restore.rename.after"],
)
def test_a_restore_that_was_killed_is_done_again_or_is_done(
    backup: Path, tmp_path: Path, point: str
) -> None:
    folder = tmp_path / "new"
    killed = subprocess.run(
        [sys.executable, "-c", CRASH, str(backup), str(folder), point],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    assert killed.returncode == 9, "the crash point was not reached"
    if point != "restore.rename.after":
        with pytest.raises(FailedPrecondition, match="restore"):  # not taken for an empty store
            Store.open(folder)
        restore(backup, folder, indexes={}, say=print)
    store = Store.open(folder)
    assert (store.count(1, Filter()), store.count(2, Filter())) == (19, 20)
    assert store.uuid != read_trailer(backup)[1].store_id
    store.close()


def test_the_trailer_is_small_json() -> None:
    manifest = Manifest(2**62, 2**62, "u" * 36, 10**6, "v" * 200, 1e18)
    trailer = write_trailer(b"\xff" * 32, manifest)
    assert len(trailer) == TRAILER_BYTES
    assert json.loads(trailer[len(MAGIC) + 32 :])["seq"] == 2**62
