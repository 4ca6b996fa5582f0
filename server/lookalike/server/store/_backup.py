"""Copies the database while it is written, page by page.

SQLite's backup interface, on a connection that holds one state with a read
transaction. Without it, the copy would begin anew after each commit of another
connection; with it, every page comes from that state. `VACUUM INTO` also gives one
state and a smaller file, but builds every table and index anew in one statement,
and stops at the first damaged page; a copy takes damage along, where the
checksums of its rows find it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import apsw

from lookalike.backends.crashpoints import reach

_STEP_PAGES = 128
"""1 MiB: some milliseconds, so that those who wait for the core or the disk get it soon."""


def copy(
    source: apsw.Connection, path: Path, vfs: str | None, pause: Callable[[float], None]
) -> None:
    """Copy the state that `source` holds into a new file, which is not synced.

    `pause(seconds)` is called after each step with the time that it took: wait as long, and
    half of the machine is left to others. What it raises ends the copy.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_EXCLUSIVE
    target = apsw.Connection(str(path), flags=flags | apsw.SQLITE_OPEN_NOFOLLOW, vfs=vfs)
    try:
        # A copy that is not complete is worth nothing: there is nothing to roll back to.
        target.pragma("journal_mode", "off")
        target.pragma("synchronous", "off")
        with target.backup("main", source, "main") as backup:
            while not backup.done:
                began = time.monotonic()
                backup.step(_STEP_PAGES)
                reach("backup.step.copied")
                pause(time.monotonic() - began)
    finally:
        target.close()
