"""A file system for SQLite that tells what it was asked to do, and fails when told to."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

_NUMBERS = itertools.count()


class WatchedVFS(apsw.VFS):
    """Passes everything on to the real file system, but first to `hook`.

    `hook(action, suffix)` is called before each "write" and "sync" of a file, with
    "db", "wal" or "journal", and after it with "wrote" and "synced"; what it raises
    is what the disk answers.
    """

    def __init__(self) -> None:
        self.vfs_name = f"watched{next(_NUMBERS)}"
        self.hook: Callable[[str, str], None] = lambda action, suffix: None
        self.events: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> _WatchedFile:
        return _WatchedFile(name, flags, self)

    def tell(self, action: str, suffix: str) -> None:
        self.hook(action, suffix)
        with self._lock:
            self.events.append((action, suffix))

    def count(self, action: str, suffix: str) -> int:
        with self._lock:
            return self.events.count((action, suffix))


class _WatchedFile(apsw.VFSFile):
    def __init__(
        self, name: apsw.URIFilename | str | None, flags: list[int], vfs: WatchedVFS
    ) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        _, dash, suffix = path.rpartition("-")
        self._suffix = suffix if dash and suffix in ("wal", "journal") else "db"
        self._vfs = vfs
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._vfs.tell("write", self._suffix)
        super().xWrite(data, offset)
        self._vfs.tell("wrote", self._suffix)

    def xSync(self, flags: int) -> None:
        self._vfs.tell("sync", self._suffix)
        super().xSync(flags)
        self._vfs.tell("synced", self._suffix)


@contextmanager
def watched() -> Iterator[WatchedVFS]:
    """Register a watched file system for a while."""
    vfs = WatchedVFS()
    yield vfs
    vfs.unregister()
