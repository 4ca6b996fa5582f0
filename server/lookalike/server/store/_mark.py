"""A small file that remembers the last acknowledged commit.

A damaged log is cut by SQLite without a word, and an older copy of the database
opens like any other. Either way the database is then behind this mark.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

from lookalike.backends.errors import FailedPrecondition
from lookalike.backends.files import Files

_log = logging.getLogger(__name__)

_SLOT = struct.Struct("<8s16sQ")
_SLOT_BYTES = 512
_MAGIC = b"lookmark"


class Mark:
    """Two slots, written in turn, so that a torn write leaves the other one. One thread.

    Written after each commit but synced only now and then: a power cut can set it
    back, never ahead of the database.
    """

    def __init__(self, path: Path, uuid: bytes, files: Files | None = None) -> None:
        self._uuid = uuid
        self._files = files or Files()
        try:
            flags = os.O_RDONLY if self._files.read_only else os.O_RDWR | os.O_CREAT
            self._file = self._files.open(path, flags, 0o600)
        except OSError as error:
            raise FailedPrecondition(
                f'The file "{path.name}" of the data folder cannot be used ({error.strerror}).'
            ) from error
        self._failed = False

    def read(self) -> int:
        """Return the highest commit remembered for this store; 0 if there is none."""
        return max((seq for uuid, seq in self._slots() if uuid == self._uuid), default=0)

    def is_strange(self) -> bool:
        """Tell whether it remembers commits, but of other stores only."""
        uuids = {uuid for uuid, _ in self._slots()}
        return bool(uuids) and self._uuid not in uuids

    def write(self, seq: int) -> None:
        """Remember a commit. A failing disk costs the mark, not the commit."""
        if self._files.read_only:
            return
        body = _SLOT.pack(_MAGIC, self._uuid, seq)
        slot = (body + struct.pack("<I", crc32(body))).ljust(_SLOT_BYTES, b"\0")
        try:
            self._files.write_at(self._file, slot, _SLOT_BYTES * (seq % 2))
        except OSError:
            if not self._failed:
                _log.exception("the mark of the last commit could not be written")
            self._failed = True

    def sync(self) -> None:
        """Bring the mark to the disk, as far as it lets itself be brought."""
        try:
            self._files.sync(self._file)
        except OSError:
            _log.exception("the mark of the last commit could not be synced")

    def close(self) -> None:
        """Sync and close."""
        if not self._files.read_only:
            self.sync()
        self._files.close(self._file)

    def _slots(self) -> Iterator[tuple[bytes, int]]:
        """Yield uuid and commit of the slots that are whole."""
        for at in (0, _SLOT_BYTES):
            slot = os.pread(self._file, _SLOT_BYTES, at)
            body, crc = slot[: _SLOT.size], slot[_SLOT.size : _SLOT.size + 4]
            if crc != struct.pack("<I", crc32(body)):
                continue
            magic, uuid, seq = _SLOT.unpack(body)
            if magic == _MAGIC:
                yield uuid, int(seq)
