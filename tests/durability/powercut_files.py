"""What SQLite, the store and the engine do to their files, noted in one list."""

from __future__ import annotations

import os
import random
from pathlib import Path

import apsw

from durability.powercut_disk import DiskLog, Record
from lookalike.backends.files import Files


class RecordedFiles(Files):
    """The real file system, every change noted. Any thread."""

    def __init__(self, log: DiskLog) -> None:
        super().__init__()
        self.log = log
        self._open: dict[int, tuple[int, int]] = {}
        """By descriptor: node, and where the file stands."""

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        self.log.before("make folder")
        new = not path.is_dir()
        super().make_folder(path, mode)
        if new:
            self.log.make(path, folder=True)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        file = super().open(path, flags, mode)
        node = self.log.find(path)
        if node is None:
            node = self.log.make(path)
            if content := path.read_bytes():  # some library wrote it, with no word to us
                self.log.add(Record("write", node, data=content))
        elif flags & os.O_TRUNC:
            self.log.add(Record("resize", node))
        self._open[file] = (node, 0)
        return file

    def close(self, file: int) -> None:
        del self._open[file]
        super().close(file)

    def write(self, file: int, data: bytes | memoryview) -> None:
        self.log.before("write")
        super().write(file, data)
        node, at = self._open[file]
        self.log.add(Record("write", node, at=at, data=bytes(data)))
        self._open[file] = (node, at + len(data))

    def write_at(self, file: int, data: bytes, offset: int) -> None:
        super().write_at(file, data, offset)
        self.log.add(Record("write", self._open[file][0], at=offset, data=data))

    def node_of(self, file: int) -> int:
        """Return the node of an open file."""
        return self._open[file][0]

    def sync(self, file: int) -> None:
        self.log.before("sync")
        super().sync(file)
        self.log.add(Record("sync", self._open[file][0]))

    def sync_folder(self, path: Path) -> None:
        self.log.before("sync folder")
        super().sync_folder(path)
        self.log.sync(path)

    def rename(self, old: Path, new: Path) -> None:
        self.log.before("rename")
        super().rename(old, new)
        self.log.move(old, new)

    def remove(self, path: Path) -> None:
        self.log.before("remove")
        super().remove(path)
        self.log.remove(path)

    def remove_tree(self, path: Path) -> None:
        self.log.before("remove tree")
        for below in sorted(path.rglob("*"), reverse=True):
            self.log.remove(below)
        self.log.remove(path)
        super().remove_tree(path)


class RecordedVFS(apsw.VFS):
    """SQLite's file system, every change of a lasting file noted."""

    def __init__(self, name: str, log: DiskLog) -> None:
        self.log = log
        self.vfs_name = name
        super().__init__(name, "unix")

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None:
            return apsw.VFSFile("unix", name, flags)
        file = _RecordedFile(self.log, Path(path), name, flags)
        node = self.log.find(Path(path))
        file.node = self.log.make(Path(path)) if node is None else node
        return file

    def xDelete(self, name: str, sync_folder: bool) -> None:
        super().xDelete(name, sync_folder)
        self.log.remove(Path(name))
        if sync_folder:
            self.log.sync(Path(name).parent)


class _RecordedFile(apsw.VFSFile):
    def __init__(
        self, log: DiskLog, path: Path, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> None:
        # SQLite's unix file system syncs the folder with the first sync of a new log.
        logs = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
        self._syncs_folder = bool(flags[0] & logs and flags[0] & apsw.SQLITE_OPEN_CREATE)
        self._log = log
        self._path = path
        self.node = -1
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._log.add(Record("write", self.node, at=offset, data=bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._log.add(Record("resize", self.node, at=size))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._log.add(Record("sync", self.node))
        if self._syncs_folder:
            self._syncs_folder = False
            self._log.sync(self._path.parent)


class SeededVFS(apsw.VFS):
    """The default file system of a run, for its randomness alone: that of a seed."""

    def __init__(self, name: str, rng: random.Random) -> None:
        self._rng = rng
        self.vfs_name = name
        super().__init__(name, "unix")

    def xRandomness(self, numbytes: int) -> bytes:
        return self._rng.randbytes(numbytes)
