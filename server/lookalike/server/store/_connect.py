"""Opens the files of a store: the lock, the database, its schema, connections to it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import DataLoss, FailedPrecondition, Unavailable
from lookalike.backends.files import Files
from lookalike.server.store._errors import damaged_file, translated
from lookalike.server.store._rows import Meta

_log = logging.getLogger(__name__)

APPLICATION_ID = 0x6C6F6F6B  # "look"
PAGE_BYTES = 8192
"""Three 512-d vectors fit on a page; on pages of 4096 bytes half of each is empty."""
_WRITER_CACHE_KIB = 64 * 1024
_READER_CACHE_KIB = 8 * 1024
_BUSY_MS = 5000
_IDLE_READERS = 16

_READ_WRITE = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOFOLLOW
_CREATE = _READ_WRITE | apsw.SQLITE_OPEN_CREATE
_READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_NOFOLLOW | apsw.SQLITE_OPEN_URI


def check_sqlite() -> None:
    """Refuse a SQLite that can lose commits (the WAL-reset race, fixed in 3.51.3; 3.52.0)."""
    version = apsw.sqlite_lib_version()
    numbers = tuple(int(part) for part in version.split("."))
    if numbers < (3, 51, 3) or numbers == (3, 52, 0):
        raise FailedPrecondition(
            f"SQLite {version} can lose data; install apsw 3.51.3 or later (not 3.52.0)."
        )


def lock(directory: Path, files: Files | None = None) -> int:
    """Take the data folder for this process; return the descriptor that holds it.

    Makes the folder if there is none. Raises FailedPrecondition if another process
    has it, or if it cannot be written.
    """
    try:
        (files or Files()).make_folders(directory, 0o700)
        file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise FailedPrecondition(
            "The data folder cannot be used, it is a file; choose another with --data."
        ) from error
    except OSError as error:
        _check_rights(directory)
        cure = "or give the server the right to write there"
        if error.errno == errno.EROFS:
            cure = "or only read it with --read-only"
        raise FailedPrecondition(
            f"The data folder cannot be used ({error.strerror}); choose another with --data, "
            f"{cure}."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise FailedPrecondition(
            "another server is using this data folder; stop it or choose another --data"
        ) from error
    try:
        _check_rights(directory)
    except BaseException:
        os.close(file)
        raise
    return file


def share(directory: Path) -> int | None:
    """Keep writers away from a data folder, if it has a file to lock; return the descriptor.

    Raises FailedPrecondition if a writer has it.
    """
    try:
        file = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        _log.warning("nothing keeps other servers from writing here: %s", error.strerror)
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise FailedPrecondition(
            "another server is using this data folder, and may write; stop it or serve a copy"
        ) from error
    return file


def _check_rights(directory: Path) -> None:
    """Raise FailedPrecondition if there are files that someone else made, not for us."""
    for name in ("store.db", "store.db-wal", "store.db-shm", "mark", "lock"):
        path = directory / name
        if not os.path.exists(path):  # or not to be seen: the folder itself is not ours
            continue
        mine = path.stat().st_uid == os.geteuid()
        if not mine and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise FailedPrecondition(
                f'The file "{name}" in the data folder cannot be read and written: it belongs to '
                f"user {path.stat().st_uid}, the server runs as user {os.geteuid()}. Run it as "
                "that user, or give the folder and all in it to this one."
            )


def migrations() -> Sequence[str]:
    """Return the numbered SQL files in order; the first makes version 1."""
    folder = resources.files(__package__) / "schema"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [file.read_text(encoding="utf-8") for file in files]


def open_writer(
    path: Path, vfs: str | None, scripts: Sequence[str], now_us: int, files: Files | None = None
) -> apsw.Connection:
    """Open the database for the one who writes, made or brought up to date if need be.

    Raises FailedPrecondition (newer version, not ours), DataLoss.
    """
    if not path.exists():
        _create(path, vfs, scripts, now_us, files or Files())
    with translated():
        db = apsw.Connection(str(path), flags=_READ_WRITE, vfs=vfs)
        try:
            _check_ours(db)
            db.set_busy_timeout(_BUSY_MS)
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            if db.pragma("journal_mode", "wal") != "wal":
                raise FailedPrecondition("The data folder's file system has no shared memory.")
            _configure(db, _WRITER_CACHE_KIB)
            db.pragma("synchronous", "full")
            _migrate(db, scripts)
        except BaseException:
            db.close()
            raise
    return db


def read_meta(db: apsw.Connection) -> Meta:
    """Return what the store says of itself. Raises DataLoss."""
    with translated():
        rows = db.execute("SELECT uuid, create_us, seq, next_key, crc FROM meta").fetchall()
    columns: Any = rows[0] if rows else ("", 0, 0, 0, -1)
    meta = Meta(*columns[:4])
    if meta.crc() != columns[4]:
        raise damaged_file()
    return meta


def open_reader(path: Path, vfs: str | None) -> apsw.Connection:
    """Open a connection that can only read and never checkpoints."""
    return _reading(apsw.Connection(str(path), flags=_READ_WRITE, vfs=vfs))


def open_unchanging(path: Path) -> apsw.Connection:
    """Open a connection to a database that nobody changes: no file is made or locked."""
    address = f"file:{quote(str(path.absolute()))}?immutable=1"
    db = _reading(apsw.Connection(address, flags=_READ_ONLY))
    db.pragma("temp_store", "memory")
    return db


def check_unchanging(db: apsw.Connection, scripts: Sequence[str]) -> None:
    """Raise FailedPrecondition or DataLoss unless a database can be used as it is."""
    _check_ours(db)
    if (version := db.pragma("user_version")) != len(scripts):
        raise FailedPrecondition(
            f"The data folder has version {version} of the format, this server reads "
            f"{len(scripts)}. A server of this version that may write brings an older one up "
            "to date when it is started."
        )
    for table in ("collections", "items"):
        if db.execute(f"PRAGMA integrity_check({table})").fetchall() != [("ok",)]:
            raise DataLoss(
                "An index of the store's database is damaged. A server that may write builds "
                "it anew when it is started."
            )


def _reading(db: apsw.Connection) -> apsw.Connection:
    db.set_busy_timeout(_BUSY_MS)
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.wal_autocheckpoint(0)
    _configure(db, _READER_CACHE_KIB)
    db.pragma("query_only", True)
    return db


def _configure(db: apsw.Connection, cache_kib: int) -> None:
    db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    db.pragma("foreign_keys", True)
    db.pragma("cache_size", -cache_kib)
    db.pragma("cell_size_check", True)
    # A mapped file that is cut or fails under the reader is a SIGBUS, not an error.
    db.pragma("mmap_size", 0)


def _check_ours(db: apsw.Connection) -> None:
    if db.pragma("application_id") != APPLICATION_ID:
        if db.execute("SELECT count(*) FROM sqlite_schema").get == 0:
            raise DataLoss(
                "The store's database is empty or its beginning is damaged. Restore a backup, "
                "or remove it from the data folder to begin with an empty store."
            )
        raise FailedPrecondition(
            "The data folder holds another program's database; choose another --data."
        )


def _create(path: Path, vfs: str | None, scripts: Sequence[str], now_us: int, files: Files) -> None:
    """Make the database under another name first: one that is there is complete."""
    if path.with_name(path.name + "-wal").exists():
        raise DataLoss(
            "The store's database is gone, but its log is there. Restore a backup, or remove "
            "the log from the data folder to begin with an empty store."
        )
    fresh = path.with_name(path.name + ".new")
    for leftover in (fresh, fresh.with_name(fresh.name + "-journal")):
        files.remove(leftover)
    with translated():
        db = apsw.Connection(str(fresh), flags=_CREATE, vfs=vfs)
        try:
            db.pragma("page_size", PAGE_BYTES)
            db.pragma("application_id", APPLICATION_ID)
            _migrate(db, scripts)
            meta = Meta(str(uuid.uuid4()), now_us, seq=0, next_key=1)
            db.execute(
                "INSERT INTO meta (one, uuid, create_us, seq, next_key, crc) "
                "VALUES (1, ?, ?, ?, ?, ?)",
                (*meta, meta.crc()),
            )
        finally:
            db.close()
    reach("store.create.before")
    files.rename(fresh, path)
    reach("store.create.renamed")
    files.sync_folder(path.parent)


def _migrate(db: apsw.Connection, scripts: Sequence[str]) -> None:
    """Bring the schema up to date, each step with its version in one transaction."""
    version = db.pragma("user_version")
    if version > len(scripts):
        raise FailedPrecondition(
            f"The data folder was written by a newer server (version {version} of the format; "
            f"this one knows {len(scripts)}). Use that server, or choose another --data."
        )
    for number, script in enumerate(scripts[version:], version + 1):
        db.execute(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}")
        reach("store.migrate.before")
        db.execute("COMMIT")
        reach("store.migrate.after")


class Readers:
    """Connections for reading, lent to whoever reads. Any thread."""

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._idle: list[apsw.Connection] = []
        self._lent = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def lend(self) -> Iterator[apsw.Connection]:
        """Lend a connection for one short read; errors of apsw become those of lookalike."""
        with self._changed:
            if self._closed:
                raise Unavailable("The store is closed.")
            self._lent += 1
            db = self._idle.pop() if self._idle else None
        sound = False
        try:
            with translated():
                if db is None:
                    db = self._connect()
                yield db
            sound = True
        finally:
            self._take_back(db, sound)

    def close(self) -> None:
        """Close all connections, those that are lent when they come back; wait for them."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            for db in idle:
                db.close()
            self._changed.wait_for(lambda: self._lent == 0)

    def _take_back(self, db: apsw.Connection | None, sound: bool) -> None:
        with self._changed:
            # A read that failed half-way may still hold its snapshot: not kept.
            keep = sound and not self._closed and len(self._idle) < _IDLE_READERS
            if db is not None:
                if keep:
                    self._idle.append(db)
                else:
                    db.close(True)
            self._lent -= 1
            self._changed.notify_all()
