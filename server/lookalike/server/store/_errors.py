"""What SQLite's errors mean to the callers of the store."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from lookalike.backends.errors import (
    DataLoss,
    DiskFull,
    FailedPrecondition,
    Internal,
    LookalikeError,
    ResourceExhausted,
    Unavailable,
)

_log = logging.getLogger(__name__)

# What a full disk, a used-up quota and a limit on the size of files are to write().
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


# Metadata that is no JSON any more, and a schema that no longer fits the statements.
_DAMAGE_SIGNS = ("malformed JSON", "no such ", " has no column named ")


def disk_full() -> DiskFull:
    """Return the error of a write for which there is no room."""
    return DiskFull("The disk of the server is full; nothing was stored. Free space and try again.")


def stopped() -> DataLoss:
    """Return the error of every write after the disk has failed once."""
    return DataLoss(
        "The server's disk failed while something was stored, so the store takes no more "
        "writes; searches go on. Check the disk, then restart the server."
    )


def damaged_file() -> DataLoss:
    """Return the error of a database file that SQLite itself finds damaged."""
    return DataLoss("The store is damaged. Stop the server, check the disk and restore a backup.")


def domain_error(error: Exception) -> LookalikeError:
    """Say what an error of apsw (or of decoding its text) means."""
    match error:
        case apsw.FullError():
            return disk_full()
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError() | UnicodeDecodeError():
            return damaged_file()
        case apsw.SQLError() if any(sign in str(error) for sign in _DAMAGE_SIGNS):
            return damaged_file()
        case apsw.IOError() | apsw.CantOpenError():
            return DataLoss("The store could not be read; check the server's disk.")
        case apsw.ReadOnlyError():
            return FailedPrecondition("The data folder cannot be written any more.")
        case apsw.BusyError() | apsw.LockedError():
            return Unavailable("The store is busy; try again.", retry_after_s=1.0)
        case apsw.NoMemError():
            return ResourceExhausted("The server has no memory left; try again later.")
        case apsw.ConnectionClosedError():
            return Unavailable("The store is closed.")
    _log.error("unexpected error of the database", exc_info=error)
    return Internal("The store could not do this; the server's log says more.")


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of apsw into those of lookalike; all others pass."""
    try:
        yield
    except (apsw.Error, UnicodeDecodeError) as error:
        raise domain_error(error) from error
