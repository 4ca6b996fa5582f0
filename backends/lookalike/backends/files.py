"""Changes to files whose order matters when the power fails, in one object.

What is written is durable after `sync`, a name (of a file that was made, renamed
or removed) after `sync_folder` of its folder; before that, each may be there or
not after a power cut. Whoever keeps something on disk changes it through a `Files`
that was passed in, so that a test can stand in its place and cut the power.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar


class Files:
    """The real file system. Any thread; it has no state but its reserve."""

    read_only: ClassVar[bool] = False
    """Whether every change fails; who would only waste time on it can ask."""

    def __init__(self, reserve_bytes: int = 0) -> None:
        self.reserve_bytes = reserve_bytes
        """Room on the disk that derived files leave to others; see `need`."""

    def make_folders(self, path: Path, mode: int = 0o777) -> None:
        """Make a folder, and those above it that are missing, durably. Raises OSError."""
        if path.is_dir():
            return
        if not path.parent.exists():
            self.make_folders(path.parent)
        self.make_folder(path, mode)
        with suppress(PermissionError):  # of one that may be written but not read
            self.sync_folder(path.parent)

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """Make one folder; nothing if it is there. Raises OSError."""
        path.mkdir(mode, exist_ok=True)

    @contextmanager
    def opened(self, path: Path, flags: int, mode: int = 0o666) -> Iterator[int]:
        """Open a file as `os.open` does, and close it in the end. Raises OSError."""
        file = self.open(path, flags, mode)
        try:
            yield file
        finally:
            self.close(file)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """Open a file as `os.open` does. Raises OSError."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, file: int) -> None:
        """Close a file that `open` gave."""
        os.close(file)

    def write(self, file: int, data: bytes | memoryview) -> None:
        """Write all of it where the file stands. Raises OSError."""
        left = memoryview(data).cast("B")
        while left:
            left = left[os.write(file, left) :]

    def write_at(self, file: int, data: bytes, offset: int) -> None:
        """Write a little at an offset, whole or failing. Raises OSError."""
        if os.pwrite(file, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self, file: int) -> None:
        """Make durable what was written to a file, by whomever. Raises OSError."""
        os.fsync(file)

    def sync_folder(self, path: Path) -> None:
        """Make a folder's names durable. Raises OSError."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name in its folder, in the place of what had it."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing if it is not there. Raises OSError."""
        path.unlink(missing_ok=True)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all in it, as far as that can be done."""
        shutil.rmtree(path, ignore_errors=True)

    def need(self, folder: Path, size: int) -> None:
        """Raise OSError (ENOSPC) if so many bytes more would not leave the reserve free.

        For files that can be made again: they give way to those that cannot.
        """
        if not self.reserve_bytes:
            return
        if shutil.disk_usage(folder).free - size < self.reserve_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class NoFiles(Files):
    """Changes nothing: everything that would raises OSError (EROFS)."""

    read_only: ClassVar[bool] = True

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """Refuse, but for a folder that is there."""
        if not path.is_dir():
            raise _read_only()

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """Open for reading."""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            raise _read_only()
        return super().open(path, flags)

    def rename(self, old: Path, new: Path) -> None:
        """Refuse."""
        raise _read_only()

    def remove(self, path: Path) -> None:
        """Refuse."""
        raise _read_only()

    def remove_tree(self, path: Path) -> None:
        """Leave it where it is."""


def _read_only() -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS))
