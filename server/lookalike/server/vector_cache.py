"""Vectors of pictures by the hash of their file, on disk, so that none is computed twice.

    NNNNNN.vectors   float32 vectors, one after the other
    NNNNNN.keys      one record each: key, size of the picture, where the vector is, checksum

Two generations of such pairs, each of at most half of `max_bytes`: when the younger one is
full, the older one goes and a new one begins; what is found in the older one is written
into the younger one, so what is asked for stays. All of it can be made again: nothing is
synced, what does not fit its checksum is not there, and the folder may be removed whenever
no server runs. No pixels are kept, and no ids.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from zlib import crc32

import numpy as np

from lookalike.backends.files import Files
from lookalike.server.domain import Vector

_log = logging.getLogger(__name__)

_Key: TypeAlias = bytes

_KEY_BYTES: Final = 16
_RECORD: Final = struct.Struct(f"<{_KEY_BYTES}sIIIIQI")
"""Key, width, height, media type, dimension, offset of the vector, checksum of all that."""
_MEDIA_TYPES: Final = ("jpeg", "png", "webp", "gif", "bmp", "tiff", "avif")
"""Only ever added to: records hold the place."""
_NAME: Final = re.compile(r"(\d{6,18})\.(keys|vectors)", re.ASCII)
_MOST_DIM: Final = 32768
_LOOK_AT_ROOM_EVERY: Final = 1024
"""Vectors written between two looks at how full the disk is."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of a picture file in one space."""

    vector: Vector
    """As the model gave it."""
    width: int
    """Of the upright picture, px."""
    height: int
    media_type: str


class VectorCache:
    """The cache of one data folder. Any thread. `close` makes it forget, not the disk."""

    def __init__(self, folder: Path, max_bytes: int, files: Files) -> None:
        """Open what is there; `max_bytes` of 0, and a disk that refuses: keep nothing."""
        self._folder = folder
        self._files = files
        self._half = max_bytes // 2
        self._lock = threading.Lock()
        self._young: _Generation | None = None
        self._old: _Generation | None = None
        self._is_open = max_bytes > 0 and not files.read_only
        self._since_look = 0
        if self._is_open:
            try:
                self._open()
            except OSError as error:
                self._give_up(error)
        elif not files.read_only:
            files.remove_tree(folder)

    def __len__(self) -> int:
        """Pictures that are known, those twice that are in both generations."""
        return sum(len(kept.rows) for kept in (self._young, self._old) if kept is not None)

    def find(self, space: str, sha256: str) -> Known | None:
        """Return what is known of a file by its hash, hex; None if nothing is."""
        if not self._is_open:
            return None
        key = _key(space, sha256)
        with self._lock:
            if not self._is_open:
                return None
            for kept in (self._young, self._old):
                if kept is not None and (found := kept.find(key)) is not None:
                    if kept is self._old:
                        self._add(key, found)
                    return found
        return None

    def add(self, space: str, sha256: str, known: Known) -> None:
        """Keep what is known of a file. Never fails: a cache that cannot be written goes away."""
        if not self._is_open or known.media_type.removeprefix("image/") not in _MEDIA_TYPES:
            return
        with self._lock:
            if self._is_open:
                self._add(_key(space, sha256), known)

    def close(self) -> None:
        """Close the files; more than once is fine."""
        with self._lock:
            self._is_open = False
            for kept in (self._young, self._old):
                if kept is not None:
                    kept.close()
            self._young = self._old = None

    # ------------------------------------------------------------- with the lock

    def _open(self) -> None:
        self._files.make_folder(self._folder, 0o700)
        numbers = set()
        for path in self._folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                numbers.add(int(match[1]))
        *worn, old, young = [0, 0, *sorted(numbers)]
        for number in worn:
            _remove(self._folder, number)
        self._young = _Generation(self._folder, young or 1)
        self._old = _Generation(self._folder, old) if old else None
        while self._old is not None and self._size() > 2 * self._half:
            self._turn_over()  # `max_bytes` has been lowered

    def _size(self) -> int:
        return sum(kept.size for kept in (self._young, self._old) if kept is not None)

    def _add(self, key: _Key, known: Known) -> None:
        assert self._young is not None
        try:
            size = 4 * len(known.vector) + _RECORD.size
            if size > self._half:
                return
            self._since_look -= 1
            if self._since_look < 0:
                self._since_look = _LOOK_AT_ROOM_EVERY
                self._files.need(self._folder, size * _LOOK_AT_ROOM_EVERY)
            if self._young.size + size > self._half:
                self._turn_over()
            self._young.add(key, known)
        except OSError as error:
            self._give_up(error)

    def _turn_over(self) -> None:
        """Begin a generation; the older one goes."""
        assert self._young is not None
        if self._old is not None:
            self._old.close()
            _remove(self._folder, self._old.number)
        self._old = self._young
        self._young = _Generation(self._folder, self._old.number + 1)

    def _give_up(self, error: OSError) -> None:
        self._is_open = False
        _log.warning("the vector cache is off until the next start: %s", error.strerror)


class _Generation:
    """One pair of files, only appended to."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._keys = _open(folder / f"{number:06d}.keys")
        try:
            self._vectors = _open(folder / f"{number:06d}.vectors")
        except BaseException:
            os.close(self._keys)
            raise
        count = os.fstat(self._keys).st_size // _RECORD.size
        os.ftruncate(self._keys, count * _RECORD.size)
        data = os.pread(self._keys, count * _RECORD.size, 0)
        self.rows: dict[_Key, int] = {
            data[at : at + _KEY_BYTES]: row
            for row, at in enumerate(range(0, len(data), _RECORD.size))
        }
        self._count = count
        self._end = os.fstat(self._vectors).st_size

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._count * _RECORD.size + self._end

    def find(self, key: _Key) -> Known | None:
        """Return what is kept under a key; what is damaged is forgotten."""
        if (row := self.rows.get(key)) is None:
            return None
        known = self._read(key, row)
        if known is None:
            del self.rows[key]
        return known

    def add(self, key: _Key, known: Known) -> None:
        """Append; raises OSError, and nothing is there then."""
        vector = np.asarray(known.vector, "<f4").tobytes()
        media = _MEDIA_TYPES.index(known.media_type.removeprefix("image/"))
        dim = len(known.vector)
        head = (key, known.width, known.height, media, dim, self._end)
        record = _RECORD.pack(*head, _checksum(head, vector))
        _write(self._vectors, vector, self._end)
        _write(self._keys, record, self._count * _RECORD.size)
        self.rows[key] = self._count
        self._count += 1
        self._end += len(vector)

    def close(self) -> None:
        os.close(self._keys)
        os.close(self._vectors)

    def _read(self, key: _Key, row: int) -> Known | None:
        try:
            record = os.pread(self._keys, _RECORD.size, row * _RECORD.size)
            if len(record) < _RECORD.size:
                return None
            *head, checksum = _RECORD.unpack(record)
            _, width, height, media, dim, offset = head
            if head[0] != key or dim > _MOST_DIM or media >= len(_MEDIA_TYPES):
                return None
            vector = os.pread(self._vectors, 4 * dim, offset)
        except (OSError, OverflowError):  # an offset beyond what a file can have
            return None
        if len(vector) != 4 * dim or _checksum(tuple(head), vector) != checksum:
            return None
        numbers = np.frombuffer(vector, "<f4").astype(np.float32)
        return Known(numbers, width, height, f"image/{_MEDIA_TYPES[media]}")


def _key(space: str, sha256: str) -> _Key:
    return hashlib.sha256(f"{space}\0{sha256}".encode()).digest()[:_KEY_BYTES]


def _checksum(head: tuple[bytes | int, ...], vector: bytes) -> int:
    return crc32(vector, crc32(_RECORD.pack(*head, 0)))


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write(file: int, data: bytes, offset: int) -> None:
    if os.pwrite(file, data, offset) < len(data):
        raise OSError(28, os.strerror(28))


def _remove(folder: Path, number: int) -> None:
    for kind in ("keys", "vectors"):
        (folder / f"{number:06d}.{kind}").unlink(missing_ok=True)
