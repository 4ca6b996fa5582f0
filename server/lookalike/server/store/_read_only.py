"""A store in a folder that may not be written: what is there, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar
from uuid import UUID

from lookalike.backends.errors import FailedPrecondition, ReadOnly
from lookalike.backends.files import NoFiles
from lookalike.server.store._connect import (
    Readers,
    check_sqlite,
    check_unchanging,
    migrations,
    open_unchanging,
    read_meta,
    share,
)
from lookalike.server.store._damage import DamagedItems
from lookalike.server.store._mark import Mark
from lookalike.server.store._moment import Moment, hold
from lookalike.server.store._opening import check_files, check_mark, database
from lookalike.server.store._selection import Selection
from lookalike.server.store._store import Store
from lookalike.server.store._tables import Tables
from lookalike.server.store._transaction import Transaction
from lookalike.server.store._wal import log_of

T = TypeVar("T")


class ReadOnlyStore(Store):
    """A store that was closed in good order and that nobody writes. Any thread.

    SQLite takes the database as unchangeable: it makes no file beside it and locks
    nothing, so a file system that is mounted read-only will do. Writes fail with
    ReadOnly.
    """

    def __init__(self, directory: Path, shared_lock: int | None) -> None:
        path = database(directory)
        self.directory, self.read_only = directory, True
        self.listener = None
        self.damaged = DamagedItems()
        self._shared_lock = shared_lock
        self._closed = False
        self._vfs = None
        self._readers = Readers(lambda: open_unchanging(path))
        self._tables = Tables(self.moment)
        self._selection = Selection(self._read, self.damaged, self._tables)
        with self._readers.lend() as db:
            check_unchanging(db, migrations())
            meta = read_meta(db)
        self.uuid = meta.uuid
        self._seq = meta.seq
        if (directory / "mark").exists():
            mark = Mark(directory / "mark", UUID(meta.uuid).bytes, NoFiles())
            try:
                check_mark(mark, meta.seq)
            finally:
                mark.close()

    @classmethod
    def open_unchanged(cls, directory: Path) -> Self:
        """Open the store of a data folder and change nothing there.

        Raises FailedPrecondition (no store, another server writes it, its log is not
        empty, of another version) and DataLoss.
        """
        check_sqlite()
        shared_lock = share(directory)
        try:
            try:
                check_files(directory)
                _check_log(directory)
            except OSError as error:
                raise FailedPrecondition(
                    f"The data folder cannot be read ({error.strerror})."
                ) from error
            return cls(directory, shared_lock)
        except BaseException:
            if shared_lock is not None:
                os.close(shared_lock)
            raise

    def close(self) -> None:
        """Wait for reads and release the data folder."""
        if self._closed:
            return
        self._closed = True
        self._tables.close()
        self._readers.close()
        if self._shared_lock is not None:
            os.close(self._shared_lock)

    def seq(self) -> int:
        """Return the number of the last commit that changed collections or items."""
        return self._seq

    def write(self, op: Callable[[Transaction], T]) -> Future[T]:
        """Refuse: the Future raises ReadOnly."""
        refused: Future[T] = Future()
        refused.set_exception(
            ReadOnly("This server only reads; nothing was changed. Ask one that may write.")
        )
        return refused

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """Hold on to the store, which does not change anyway."""
        with (
            self._readers.lend() as db,
            hold(db, database(self.directory), self._vfs) as moment,
        ):
            yield moment


def _check_log(directory: Path) -> None:
    path = database(directory)
    if not path.is_file():
        raise FailedPrecondition(
            "There is no store in the data folder, and a server that only reads makes none."
        )
    log = log_of(path)
    if log.exists() and log.stat().st_size:
        raise FailedPrecondition(
            "The last changes are still in the log, where a server that only reads cannot use "
            "them. Start one that may write, there or on a copy, and stop it."
        )
