"""A data folder is opened by one server, of the right version, or refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from lookalike.backends.errors import DataLoss, FailedPrecondition
from lookalike.server.domain import Filter, View
from lookalike.server.store import Store
from lookalike.server.store import _connect as connect
from lookalike.server.store import _store as store_module
from store.making import create, do, item, put


def filled(directory: Path, count: int = 3) -> int:
    """Make a store with some items, close it, return the collection's number."""
    store = Store.open(directory)
    number = create(store).number
    put(store, number, [item(f"i{n}", n, {"n": n}) for n in range(count)])
    store.close()
    return number


def edit(directory: Path, sql: str, *params: Any) -> None:
    """Change the database behind the store's back."""
    db = apsw.Connection(str(directory / "store.db"))
    db.execute(sql, params)
    db.close()


def refused(directory: Path, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        Store.open(directory)
    assert str(directory) not in str(caught.value)
    return str(caught.value)


def test_what_was_stored_is_there_when_opened_again(tmp_path: Path) -> None:
    number = filled(tmp_path / "deep" / "data")
    store = Store.open(tmp_path / "deep" / "data")
    uuid, seq = store.uuid, store.seq()
    assert [f.id for f in store.list(number, Filter(), "", 9, View.ID)] == ["i0", "i1", "i2"]
    store.close()
    again = Store.open(tmp_path / "deep" / "data")
    assert (again.uuid, again.seq()) == (uuid, seq)
    again.close()


def test_two_stores_have_two_uuids(tmp_path: Path) -> None:
    stores = [Store.open(tmp_path / name) for name in ("a", "b")]
    assert stores[0].uuid != stores[1].uuid
    for store in stores:
        store.close()


def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    number = create(store).number
    script = (
        "import sys; from pathlib import Path\n"
        "from lookalike.server.store import Store\n"
        "from lookalike.backends.errors import FailedPrecondition\n"
        "try: Store.open(Path(sys.argv[1]))\n"
        "except FailedPrecondition as error: print(error); sys.exit(7)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    wanted = "another server is using this data folder; stop it or choose another --data"
    assert (found.returncode, found.stdout.strip()) == (7, wanted), found.stderr
    assert refused(tmp_path, FailedPrecondition) == wanted
    put(store, number, [item("a")])
    store.close()
    Store.open(tmp_path).close()


def test_a_newer_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    filled(tmp_path)
    edit(tmp_path, "PRAGMA user_version = 77")
    message = refused(tmp_path, FailedPrecondition)
    assert "77" in message
    assert f"knows {len(connect.migrations())}" in message
    edit(tmp_path, "PRAGMA user_version = 1")
    Store.open(tmp_path).close()


def test_an_older_format_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = filled(tmp_path)
    newer = [*connect.migrations(), "ALTER TABLE jobs ADD COLUMN remark TEXT"]
    monkeypatch.setattr(store_module, "migrations", lambda: newer)
    store = Store.open(tmp_path)
    assert store.count(number, Filter()) == 3
    assert do(store, lambda t: t._db.pragma("user_version")) == 2
    store.close()


def test_a_migration_that_fails_leaves_the_old_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = filled(tmp_path)
    broken = [*connect.migrations(), "DROP TABLE jobs; NONSENSE"]
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "migrations", lambda: broken)
        with pytest.raises(Exception, match="could not do this"):
            Store.open(tmp_path)
    store = Store.open(tmp_path)
    assert (store.count(number, Filter()), store.jobs()) == (3, [])
    store.close()


def test_keys_are_never_used_again(tmp_path: Path) -> None:
    number = filled(tmp_path)
    store = Store.open(tmp_path)
    highest = int(store.keys(number)[-1])
    do(store, lambda t: t.delete(number, ["i2"]))
    store.close()
    store = Store.open(tmp_path)
    put(store, number, [item("new")])
    assert int(store.keys(number)[-1]) > highest
    highest = int(store.keys(number)[-1])
    do(store, lambda t: t.delete_collection(number))
    store.close()
    store = Store.open(tmp_path)
    other = create(store).number
    put(store, other, [item("newer")])
    assert other > number
    assert int(store.keys(other)[-1]) > highest
    store.close()


# ------------------------------------------------------------- wrong folders


def test_something_that_is_no_database_is_data_loss(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database at all" * 1000)
    refused(tmp_path, DataLoss)


def test_an_empty_database_file_is_not_taken_for_a_new_store(tmp_path: Path) -> None:
    filled(tmp_path)
    os.truncate(tmp_path / "store.db", 0)
    refused(tmp_path, DataLoss)
    assert (tmp_path / "store.db").stat().st_size == 0


def test_a_log_without_its_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db-wal").write_bytes(b"x" * 100)
    refused(tmp_path, DataLoss)


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    edit(tmp_path, "CREATE TABLE t (a)")
    refused(tmp_path, FailedPrecondition)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", FailedPrecondition)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    os.chmod(tmp_path.parent, 0o755)  # let another user in, down to the folder
    os.chmod(tmp_path, 0o755)
    os.chmod(folder, 0o555)
    script = (
        "import os, sys, tempfile; from pathlib import Path\n"
        "import numpy, lookalike.server.store._writer\n"
        "from lookalike.server.store import Store\n"
        "from lookalike.backends.errors import FailedPrecondition\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: Store.open(Path('.'))\n"
        "except FailedPrecondition as error: print(error); sys.exit(7)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    os.chmod(folder, 0o755)
    assert found.returncode == 7, found.stderr
    assert "cannot be used" in found.stdout


def test_a_creation_that_was_interrupted_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "store.db.new").write_bytes(b"half of a database")
    (tmp_path / "store.db.new-journal").write_bytes(b"its journal")
    filled(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", "mark", "store.db"]


def test_an_unsafe_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, good in [("3.51.2", False), ("3.52.0", False), ("3.51.3", True), ("3.54.1", True)]:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda v=version: v)
        if good:
            connect.check_sqlite()
        else:
            with pytest.raises(FailedPrecondition, match=version):
                connect.check_sqlite()


# -------------------------------------------------------- going backwards


def test_an_older_copy_of_the_database_is_refused(tmp_path: Path) -> None:
    number = filled(tmp_path)
    old = (tmp_path / "store.db").read_bytes()
    store = Store.open(tmp_path)
    put(store, number, [item("later")])
    store.close()
    (tmp_path / "store.db").write_bytes(old)
    assert "acknowledged" in refused(tmp_path, DataLoss)
    (tmp_path / "mark").unlink()  # as the message says
    store = Store.open(tmp_path)
    assert store.count(number, Filter()) == 3
    store.close()


def test_a_database_that_has_gone_is_not_begun_anew(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "store.db").unlink()
    assert 'no "store.db"' in refused(tmp_path, DataLoss)
    assert not (tmp_path / "store.db").exists()
    (tmp_path / "mark").unlink()  # as the message says
    store = Store.open(tmp_path)
    assert store.collections() == []
    store.close()


@pytest.mark.parametrize("mark", [b"", b"\0" * 1024, b"rubbish" * 200])
def test_a_mark_that_is_damaged_is_passed_over(tmp_path: Path, mark: bytes) -> None:
    filled(tmp_path)
    (tmp_path / "mark").write_bytes(mark)
    Store.open(tmp_path).close()


def test_a_mark_of_another_store_is_refused(tmp_path: Path) -> None:
    """It cannot be told whether the mark was put there, or the database, or its log."""
    filled(tmp_path / "a")
    filled(tmp_path / "b", count=1)
    (tmp_path / "a" / "mark").write_bytes((tmp_path / "b" / "mark").read_bytes())
    assert "different stores" in refused(tmp_path / "a", DataLoss)
    (tmp_path / "a" / "mark").unlink()  # as the message says
    Store.open(tmp_path / "a").close()
