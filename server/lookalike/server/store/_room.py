"""How much the disk still takes, so that there is always room to delete."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import apsw

from lookalike.backends.errors import DiskFull
from lookalike.backends.files import Files

_log = logging.getLogger(__name__)


class Room:
    """The disk of a data folder. The writer's thread."""

    def __init__(self, directory: Path, db: apsw.Connection, files: Files | None) -> None:
        self._directory = directory
        self._log = directory / "store.db-wal"
        self._db = db
        self._minimum = files.reserve_bytes if files else 0
        self._page_bytes = int(db.pragma("page_size"))
        self._low = False

    def need(self) -> None:
        """Raise DiskFull if what is left is kept for deletions and for the log.

        Pages that deleting has freed inside the database count, too: the file does not
        become smaller, but what is stored next goes there. The log grows all the same.
        """
        if not self._minimum:
            return
        free = self._free()
        inside = self._db.pragma("freelist_count") * self._page_bytes
        low = free + inside < self._minimum or free < self._minimum // 2
        if low != self._low:
            self._low = low
            _log.log(
                logging.WARNING if low else logging.INFO,
                "the disk %s free_bytes=%d min_free_bytes=%d",
                "is almost full, nothing more is stored" if low else "has room again",
                free,
                self._minimum,
            )
        if low:
            raise DiskFull(
                "The disk of the server is almost full; nothing was stored. Free space, or "
                "delete items, and try again.",
                free_bytes=free,
                min_free_bytes=self._minimum,
            )

    def is_short_for(self, log_pages: int) -> bool:
        """Say whether a log so long must be brought home before there is no room for that."""
        return bool(log_pages) and self._free() < 2 * log_pages * self._page_bytes

    def wants_log_gone(self) -> bool:
        """Say whether the log's own room is needed: too little is free, and it has some."""
        if not self._minimum or self._free() >= self._minimum:
            return False
        try:
            return os.stat(self._log).st_size > self._minimum // 16
        except OSError:
            return False

    def _free(self) -> int:
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return sys.maxsize  # the write will tell
        return found.f_bavail * found.f_frsize
