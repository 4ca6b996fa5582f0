"""Files that may change while a server runs: keys and certificates."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)

EVERY_S = 0.5
"""Between two looks. A look is a stat of each file, 2 us; no file system has to be able
to tell, and those that are mounted into containers as links often are not."""


class FileWatch:
    """Calls `changed` when any of some files is another one than before.

    What the files were is noted when this is made, so make it before reading them. Then
    `start`, and `close` in the end; `changed` runs on a thread of its own.
    """

    def __init__(
        self, paths: Sequence[Path], changed: Callable[[], None], every_s: float = EVERY_S
    ) -> None:
        self._paths = tuple(paths)
        self._changed = changed
        self._every_s = every_s
        self._closed = threading.Event()
        self._known = self._look()
        self._thread = threading.Thread(target=self._run, name="watch-files", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            found = self._look()
            if found != self._known:
                self._known = found
                try:
                    self._changed()
                except Exception:  # a defect must not end the looking
                    _log.exception("a changed file could not be taken over")

    def _look(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(_mark, self._paths))


def _mark(path: Path) -> tuple[int, ...]:
    """Return what tells one state of a file from another; links are followed."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size
