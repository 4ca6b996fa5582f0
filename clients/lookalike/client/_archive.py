"""The container of an export: a plain tar file of few kinds of members, in a fixed order.

Written and read front to back, so that it can go through a pipe. `tarfile` writes the
headers. It does not read them: it would follow whatever extensions, sizes and names a
hostile file has, and here are only regular files with names that we gave ourselves.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lookalike.client.errors import ArchiveInvalid

MANIFEST, END = "manifest.json", "end.json"
_BLOCK = tarfile.BLOCKSIZE
_NAME = re.compile(
    r"manifest\.json|end\.json|\d{6}/(items\.jsonl|vectors\.npy|\d{6}-(thumbnail|original)\.[a-z]+)"
)
_MOST_BYTES = {"json": 2**20, "jsonl": 64 * 2**20, "npy": 64 * 2**20}
_MOST_IMAGE_BYTES = 256 * 2**20
_PLAIN = {
    b"\x1f\x8b": "gunzip",
    b"BZ": "bunzip2",
    b"\xfd7": "unxz",
    b"\x28\xb5": "unzstd",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive."""

    name: str
    data: bytes
    before: str
    """SHA-256 of all bytes of the archive before this file's header, 64 hex digits."""


class ArchiveWriter:
    """Writes members one after the other. One thread."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """SHA-256 of what has been written so far, 64 hex digits."""
        return self._digest.hexdigest()

    def add(self, name: str, data: bytes) -> None:
        """Write a file. Nothing in its header depends on time or machine."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))

    def close(self) -> None:
        """Write the end of the archive; the file stays open."""
        self._write(bytes(2 * _BLOCK))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the files of an archive, each whole in memory, which has a bound for each kind.

    Raises:
        ArchiveInvalid: not an archive, cut short, or with something that no export writes.
    """
    digest = hashlib.sha256()
    while True:
        before = digest.hexdigest()
        header = _exactly(file, _BLOCK, "its end is missing")
        digest.update(header)
        if not any(header):
            return
        name, size = _read_header(header)
        data = _exactly(file, size, f"{name} is cut short")
        padding = _exactly(file, -size % _BLOCK, f"{name} is cut short")
        digest.update(data)
        digest.update(padding)
        yield Member(name, data, before)


def _read_header(header: bytes) -> tuple[str, int]:
    """Return name and size of a regular file; the rest of the header must be as we write it."""
    for start, command in _PLAIN.items():
        if header.startswith(start):
            raise ArchiveInvalid(
                f"The archive is compressed. Unpack it first: {command} < FILE | lookalike import -"
            )
    try:
        name = header[:100].rstrip(b"\0").decode("ascii")
        size = int(header[124:136].rstrip(b"\0 "), 8)
        info = tarfile.TarInfo(name)
        info.size = size
        is_ours = info.tobuf(tarfile.USTAR_FORMAT) == header
    except ValueError:
        is_ours = False
    if not is_ours:
        raise ArchiveInvalid("This is no archive that lookalike export wrote.")
    if not _NAME.fullmatch(name):
        raise ArchiveInvalid(f"The archive has a file {name!r}, which no export writes.")
    if size > _MOST_BYTES.get(name.rpartition(".")[2], _MOST_IMAGE_BYTES):
        raise ArchiveInvalid(
            f"{name} of the archive has {size} bytes, more than any export writes."
        )
    return name, size


def _exactly(file: BinaryIO, size: int, fault: str) -> bytes:
    """Read so many bytes. A size is believed only as far as there are bytes."""
    pieces, left = [], size
    while left:
        piece = file.read(min(left, 2**20))
        if not piece:
            raise ArchiveInvalid(f"The archive is not complete: {fault}.")
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
