"""The one thread that writes: many operations, one commit, then all their answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import apsw

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import LookalikeError, Unavailable
from lookalike.server.store._changes import ChangeLog
from lookalike.server.store._errors import FULL_ERRNOS, disk_full, domain_error, stopped
from lookalike.server.store._mark import Mark
from lookalike.server.store._room import Room
from lookalike.server.store._rows import Meta
from lookalike.server.store._transaction import Transaction

_log = logging.getLogger(__name__)

T = TypeVar("T")
Deliver = Callable[[int, ChangeLog], None]

MAX_GROUP_OPS = 1024
MAX_GROUP_BYTES = 64 * 2**20
MAX_GROUP_S = 0.05
"""Commits end when they have so many operations, so many bytes or took so long."""
CHECKPOINT_PAGES = 4000
"""About 32 MiB of log: copied into the database, as far as readers let it."""
TRUNCATE_PAGES = 16000
"""About 128 MiB of log: waits for readers, so that the log begins anew."""

# The disk may or may not hold what was written when one of these fails.
_SYNC_FAILURES = frozenset({apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC})
_READ_FAILURES = frozenset({apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ})


class _Operation(Generic[T]):
    """An operation, its outcome, and the Future of the one who waits for it."""

    def __init__(self, run: Callable[[Transaction], T]) -> None:
        self.future: Future[T] = Future()
        self._run = run
        self._result: T
        self._error: BaseException | None = None

    def start(self) -> bool:
        """Return False if its caller has given it up."""
        return self.future.set_running_or_notify_cancel()

    def run(self, transaction: Transaction) -> None:
        self._result = self._run(transaction)

    def fail(self, error: BaseException) -> None:
        self._error = error

    def resolve(self) -> None:
        if self._error is not None:
            self.future.set_exception(self._error)
        else:
            self.future.set_result(self._result)


class Writer:
    """Group commit. `submit` on any thread; the owner calls `close` once."""

    def __init__(
        self,
        db: apsw.Connection,
        meta: Meta,
        mark: Mark,
        clock: Callable[[], float],
        deliver: Deliver,
        room: Room,
    ) -> None:
        self._db = db
        self._room = room
        self._mark = mark
        self._clock = clock
        self._deliver = deliver
        self._meta = meta
        self._broken = False
        self._closed = False
        self._log_pages = 0
        self._no_room = False
        self._holders = 0
        self._holding = threading.Lock()
        """Also held while the log is brought home, for which a new reader would be waited."""
        self._submitting = threading.Lock()
        self._queue: SimpleQueue[_Operation[Any] | None] = SimpleQueue()
        db.set_wal_hook(self._note_log)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def seq(self) -> int:
        """Number of the last commit that changed collections or items."""
        return self._meta.seq

    def submit(self, run: Callable[[Transaction], T]) -> Future[T]:
        """Queue an operation. The queue has no bound: callers bound what they have under way."""
        operation = _Operation(run)
        with self._submitting:
            if not self._closed:
                self._queue.put(operation)
                return operation.future
        operation.future.set_exception(Unavailable("The store is closed."))
        return operation.future

    @contextmanager
    def hold_log(self) -> Iterator[None]:
        """Leave the log alone for one who reads a state for long.

        It could not be brought home beyond that state anyway, and to begin it anew, the
        writer would wait for that reader, up to the time-out, at every commit. Waits
        until the log is not at work.
        """
        with self._holding:
            self._holders += 1
        try:
            yield
        finally:
            with self._holding:
                self._holders -= 1

    def finish(self) -> None:
        """Take nothing more, finish what is queued, end the thread."""
        with self._submitting:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def close(self) -> None:
        """Bring the log home and close the connection; after `finish`."""
        if not self._broken and self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE):
            # Lets SQLite remove the log, which is empty now: one file is left.
            self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        self._db.close()

    # ------------------------------------------------------------ the thread

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            group: list[_Operation[Any]] = []
            try:
                self._commit(first, group)
            except BaseException as error:
                self._abandon(group, error)
            for operation in group:
                operation.resolve()
                reach("store.answer.given")
            with self._holding:
                if not self._broken and not self._holders:
                    self._shorten_log()

    def _commit(self, first: _Operation[Any], group: list[_Operation[Any]]) -> None:
        """Run operations and commit; those in `group` have their outcomes then."""
        if not first.start():
            return
        group.append(first)
        if self._broken:
            raise stopped()
        self._db.execute("BEGIN IMMEDIATE")
        transaction = Transaction(
            self._db, self._clock, self.seq + 1, self._meta.next_key, self._room
        )
        self._run_one(first, transaction)
        for operation in self._take(transaction):
            if operation.start():
                group.append(operation)
                self._run_one(operation, transaction)
        meta = self._meta
        if len(transaction.changes):
            meta = meta._replace(seq=transaction.seq, next_key=transaction.next_key)
            self._db.execute(
                "UPDATE meta SET seq = ?, next_key = ?, crc = ?",
                (meta.seq, meta.next_key, meta.crc()),
            )
        reach("store.commit.before")
        self._db.execute("COMMIT")
        reach("store.commit.after")
        if meta is self._meta:
            return
        self._meta = meta
        self._mark.write(self.seq)
        reach("store.mark.written")
        try:
            self._deliver(self.seq, transaction.changes)
        except Exception:
            # It is stored, and that is what the callers are told; whoever listens
            # has to bring itself level again.
            _log.exception("the listener failed seq=%s", self.seq)
        reach("store.engines.told")

    def _take(self, transaction: Transaction) -> Iterator[_Operation[Any]]:
        """Yield what is queued now and comes meanwhile, up to the bounds of one commit."""
        ends = time.monotonic() + MAX_GROUP_S
        for _ in range(MAX_GROUP_OPS - 1):
            if transaction.written_bytes >= MAX_GROUP_BYTES or time.monotonic() >= ends:
                return
            try:
                operation = self._queue.get_nowait()
            except Empty:
                return
            if operation is None:
                self._queue.put(None)  # nothing follows it: found again after this commit
                return
            yield operation

    def _run_one(self, operation: _Operation[Any], transaction: Transaction) -> None:
        """Run one operation in a savepoint; raises if it took the whole commit with it."""
        self._db.execute("SAVEPOINT operation")
        steps = len(transaction.changes)
        try:
            operation.run(transaction)
        except BaseException as error:
            if not self._db.in_transaction or _is_write_failure(error):
                raise
            self._db.execute("ROLLBACK TO operation")
            transaction.changes.cut(steps)
            operation.fail(_outcome(error))
        self._db.execute("RELEASE operation")

    def _abandon(self, group: list[_Operation[Any]], error: BaseException) -> None:
        """Undo a commit that failed, and say so to all who wait for it."""
        if self._is_fatal(error):
            self._broken = True
            _log.critical("the disk failed, the store takes no more writes", exc_info=error)
        elif isinstance(error, apsw.FullError) or _is_write_failure(error):
            _log.warning("no room on the disk for a commit")
        elif not isinstance(error, LookalikeError):
            _log.error("a commit failed", exc_info=error)
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except apsw.Error as second:
            self._broken = True
            _log.critical("a commit could not be undone", exc_info=second)
        for operation in group:
            if self._broken:
                operation.fail(stopped())
            elif _is_write_failure(error):
                operation.fail(disk_full())
            else:
                operation.fail(_outcome(error))

    def _is_fatal(self, error: BaseException) -> bool:
        """Tell a disk that fails from one that is full, over quota or over a size limit."""
        if not _is_write_failure(error):
            return False
        if getattr(error, "extendedresult", 0) in _SYNC_FAILURES:
            return True
        return self._db.system_errno not in FULL_ERRNOS

    # ----------------------------------------------------------- checkpoints

    def _note_log(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _shorten_log(self) -> None:
        """Bring the log home if it is long, or before there is no room left for that."""
        if self._log_pages >= TRUNCATE_PAGES or self._room.wants_log_gone():
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        elif self._log_pages >= CHECKPOINT_PAGES or self._room.is_short_for(self._log_pages):
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint(self, mode: int) -> bool:
        """Copy the log into the database; only ever here, because of the WAL-reset race.

        Returns whether the log holds nothing any more that the database lacks.
        """
        self._mark.sync()
        reach("store.checkpoint.before")
        try:
            _, done = self._db.wal_checkpoint(mode=mode)
            reach("store.checkpoint.after")
        except apsw.BusyError:
            return False  # readers: the log stays, the next commit tries again
        except apsw.Error as error:
            # A full disk mends itself. After any other failure the log must stay as
            # it is: it alone surely holds what was acknowledged.
            if isinstance(error, apsw.FullError) or (
                _is_write_failure(error) and not self._is_fatal(error)
            ):
                level = logging.DEBUG if self._no_room else logging.WARNING
                _log.log(level, "no room to bring the log home; trying again later")
                self._no_room = True
                return False
            self._broken = True
            _log.critical("the disk failed, the store takes no more writes", exc_info=error)
            return False
        if mode != apsw.SQLITE_CHECKPOINT_TRUNCATE and done < self._log_pages:
            return False
        self._log_pages = 0
        self._no_room = False
        return True


def _is_write_failure(error: BaseException) -> bool:
    return (
        isinstance(error, apsw.IOError)
        and getattr(error, "extendedresult", 0) not in _READ_FAILURES
    )


def _outcome(error: BaseException) -> BaseException:
    if isinstance(error, apsw.Error | UnicodeDecodeError):
        mapped = domain_error(error)
        mapped.__cause__ = error
        return mapped
    return error
