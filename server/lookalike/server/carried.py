"""Vectors on their way into a collection, in a file that outlives the process.

    header   magic, SHA-256 of what they are for, dimension, checksum: 64 bytes
    records  key, mark of the picture, vector, checksum: one after the other

Only appended to. A process that is killed leaves whole records and perhaps a part of
one; what does not fit its checksum is cut off with all that follows it, and made again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.errors import DiskFull
from lookalike.backends.types import Keys, Vectors

_MAGIC = b"LKCARRY1"
_HEADER = struct.Struct("<8s32sII")
_HEADER_BYTES = 64
_NAME = re.compile(r"(\d{1,18})-[0-9a-f]{16}\.vectors", re.ASCII)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CHECKED_AT_ONCE = 4096
GONE = -1
"""The key of a record whose picture has been replaced since."""


class Carried:
    """The vectors of one collection in one space. One thread."""

    def __init__(self, path: Path, file: int, dim: int, count: int) -> None:
        self.path = path
        self._file = file
        self._dtype = _record(dim)
        self._dim = dim
        records = self._records(count)
        self._keys = np.array(records["key"], np.int64)
        self._marks = np.array(records["mark"], np.uint64)

    @classmethod
    def open(cls, folder: Path, number: int, identity: str, dim: int) -> Self:
        """Open the file of a collection and a space, or begin one.

        `identity` names store, collection and space; files of the collection for
        another one are removed. Raises DiskFull, OSError.
        """
        folder.mkdir(mode=0o700, exist_ok=True)
        told = hashlib.sha256(identity.encode()).digest()
        path = folder / f"{number}-{told.hex()[:16]}.vectors"
        for other in folder.glob(f"{number}-*.vectors"):
            if other != path:
                other.unlink(missing_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            header = _header(told, dim)
            if os.pread(file, _HEADER_BYTES, 0) != header:
                os.ftruncate(file, 0)
                _write(file, header)
            count = _sound_records(file, dim)
            os.ftruncate(file, _HEADER_BYTES + count * _record(dim).itemsize)
            return cls(path, file, dim, count)
        except BaseException:
            os.close(file)
            raise

    @property
    def keys(self) -> Keys:
        """The keys in the order of `vectors`; GONE where there is a newer record."""
        return self._keys

    def vectors(self) -> Vectors:
        """Return the vectors, mapped from the file; valid until more are added."""
        found: Vectors = self._records(len(self._keys))["vector"]
        return found

    def missing(self, marks: Mapping[int, int]) -> Keys:
        """Return which of the keys have no vector made of the picture that they mark."""
        known = dict(zip(self._keys.tolist(), self._marks.tolist(), strict=True))
        return np.array([key for key, mark in marks.items() if known.get(key) != mark], np.int64)

    def add(self, marks: Mapping[int, int], vectors: Vectors) -> None:
        """Append vectors, (len(marks), dim), in the order of `marks`. Raises DiskFull, OSError."""
        records = np.zeros(len(marks), self._dtype)
        records["key"] = list(marks)
        records["mark"] = list(marks.values())
        records["vector"] = vectors
        records["crc"] = _checksums(records)
        end = _HEADER_BYTES + len(self._keys) * self._dtype.itemsize
        os.lseek(self._file, end, os.SEEK_SET)
        try:
            _write(self._file, records.tobytes())
        except BaseException:
            os.ftruncate(self._file, end)
            raise
        self._keys[np.isin(self._keys, records["key"])] = GONE
        self._keys = np.concatenate([self._keys, records["key"].astype(np.int64)])
        self._marks = np.concatenate([self._marks, records["mark"].astype(np.uint64)])

    def close(self) -> None:
        os.close(self._file)

    def remove(self) -> None:
        """Remove the file; what is mapped stays readable. Before or after `close`."""
        self.path.unlink(missing_ok=True)

    def _records(self, count: int) -> NDArray[Any]:
        if not count:
            return np.zeros(0, self._dtype)
        with open(self._file, "rb", closefd=False) as file:
            return np.memmap(file, self._dtype, "r", _HEADER_BYTES, (count,))


def sweep(folder: Path, live: Mapping[int, Keys]) -> None:
    """Remove the files that nothing will go on with; `live`: the keys of each collection."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        name = _NAME.fullmatch(path.name)
        keys = live.get(int(name[1])) if name else None
        if keys is None or not np.isin(_keys_in(path), keys).any():
            path.unlink(missing_ok=True)


def _keys_in(path: Path) -> Keys:
    data = path.read_bytes()[:_HEADER_BYTES]
    if len(data) < _HEADER_BYTES:
        return np.zeros(0, np.int64)
    magic, _, dim, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC or not dim or dim > 1 << 20:
        return np.zeros(0, np.int64)
    dtype = _record(dim)
    count = (path.stat().st_size - _HEADER_BYTES) // dtype.itemsize
    if not count:
        return np.zeros(0, np.int64)
    return np.array(np.memmap(path, dtype, "r", _HEADER_BYTES, (count,))["key"], np.int64)


def _record(dim: int) -> np.dtype[Any]:
    return np.dtype([("key", "<i8"), ("mark", "<u8"), ("vector", "<f4", (dim,)), ("crc", "<u4")])


def _header(told: bytes, dim: int) -> bytes:
    body = _HEADER.pack(_MAGIC, told, dim, 0)
    return _HEADER.pack(_MAGIC, told, dim, crc32(body)).ljust(_HEADER_BYTES, b"\0")


def _checksums(records: NDArray[Any]) -> list[int]:
    size = records.dtype.itemsize
    data = memoryview(records.tobytes())
    return [crc32(data[at : at + size - 4]) for at in range(0, len(data), size)]


def _sound_records(file: int, dim: int) -> int:
    """Return how many records are whole, up to the first that is not."""
    dtype = _record(dim)
    count, at = 0, _HEADER_BYTES
    while data := os.pread(file, _CHECKED_AT_ONCE * dtype.itemsize, at):
        records = np.frombuffer(data, dtype, len(data) // dtype.itemsize)
        fits = records["crc"] == np.array(_checksums(records), np.uint32)
        if not fits.all() or not len(records):
            return count + int(np.argmin(fits) if len(fits) else 0)
        count += len(records)
        at += len(records) * dtype.itemsize
    return count


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DiskFull(
            "The disk is full, so the new vectors cannot be kept until all are there. "
            "Make room and ask again; what was made so far is kept.",
            retry_after_s=60.0,
        ) from error
