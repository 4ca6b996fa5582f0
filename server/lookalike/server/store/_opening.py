"""What is looked at before a data folder is taken for what was acknowledged."""

from __future__ import annotations

from pathlib import Path

from lookalike.backends.errors import DataLoss, FailedPrecondition
from lookalike.server.store._connect import PAGE_BYTES
from lookalike.server.store._mark import Mark
from lookalike.server.store._wal import check_log, log_of

RESTORE_PART = "restore.part"
"""Name of a database that is restored, before it is known to be sound."""


def database(directory: Path) -> Path:
    """Return where the database of a data folder is."""
    return directory / "store.db"


def check_files(directory: Path) -> None:
    """Raise DataLoss for a folder without its database, or with a log damaged in its middle.

    FailedPrecondition for one into which a restore has not come to its end.

    SQLite would make a new database, and cut the log, without a word. Without a mark the
    log is not looked at: who has removed it goes on with what is there.
    """
    if (directory / RESTORE_PART).exists() and not database(directory).exists():
        raise FailedPrecondition(
            "A restore into this data folder was interrupted. Run lookalike restore again."
        )
    mark = directory / "mark"
    if not mark.exists():
        return
    if mark.stat().st_size and not database(directory).exists():
        raise DataLoss(
            'The data folder has the file "mark" of a database, but no "store.db". Restore '
            'the whole folder, or remove the file "mark" to begin with nothing.'
        )
    check_log(log_of(database(directory)), PAGE_BYTES)


def check_mark(mark: Mark, seq: int) -> None:
    """Raise DataLoss if the database is behind what was acknowledged; else remember `seq`."""
    if mark.is_strange():
        raise DataLoss(
            'The file "mark" and the database in the data folder belong to different stores: one '
            "of them, or the log, was put there. Restore the whole folder, or remove the file "
            '"mark" to go on with the database that is there.'
        )
    remembered = mark.read()
    if remembered > seq:
        raise DataLoss(
            f"The store is at change {seq}, but change {remembered} was acknowledged: its "
            "log is damaged, or an older copy was put back. Restore a newer backup, or "
            'remove the file "mark" from the data folder to go on with what is there.'
        )
    mark.write(seq)
