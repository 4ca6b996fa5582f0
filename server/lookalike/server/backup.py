"""Copies of the whole store, made while it goes on, and what makes them whole.

A backup is a SQLite database file and, behind it, a trailer of 1024 bytes:

    bytes 0 to 15      "lookalike backup"
    bytes 16 to 47     SHA-256 of all bytes before the trailer
    bytes 48 to 1023   a JSON object, padded with spaces

SQLite does not look behind its last page, so that a backup is also a database that
every tool can read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import DataLoss, DiskFull, Overloaded
from lookalike.backends.files import Files
from lookalike.server.store import Store

MAGIC = b"lookalike backup"
TRAILER_BYTES = 1024
PIECE_BYTES = 512 * 2**10
_PART = "backup.part"
_SPARE_BYTES = 64 * 2**20
"""Room on the disk that a copy leaves to what is stored meanwhile."""
_LONGEST_PAUSE_S = 0.2
_TEXTS = ("store_id", "server_version")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is of; nothing of the content of items is in it."""

    seq: int
    """The last commit that is in it."""
    size_bytes: int
    """Bytes of the database, without the trailer."""
    store_id: str
    format_version: int
    server_version: str
    create_time: float


class Backups:
    """Makes copies of a store, one at a time. Any thread.

    Only while this process holds the data folder: what an earlier one left behind
    there is removed.
    """

    def __init__(
        self,
        store: Store,
        files: Files | None = None,
        *,
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._files = files or Files()
        self._version = version
        self._clock = clock
        self._making = threading.Lock()
        if not store.read_only:
            (store.directory / _PART).unlink(missing_ok=True)

    @contextmanager
    def make(self, check: Callable[[], None]) -> Iterator[tuple[Manifest, Iterator[bytes]]]:
        """Copy the store into its folder; give the manifest and the backup's pieces.

        The copy is of the store as it is now and is removed in the end. `check` is called
        often while it is made; what it raises ends it. Raises Overloaded (there is one
        under way), DiskFull, DataLoss.
        """
        if not self._making.acquire(blocking=False):
            raise Overloaded(
                "Another backup is under way. Try again when it has ended.", retry_after_s=10.0
            )
        try:
            with self._place() as part:
                manifest = self._copy(part, check)
                with part.open("rb") as file:
                    yield manifest, _pieces(file.read, manifest)
        finally:
            self._making.release()
            reach("backup.copy.removed")

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """Give the copy a place: in the data folder, unless that is not written at all."""
        if self._store.read_only:
            with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
                yield Path(folder) / _PART
            return
        part = self._store.directory / _PART
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)

    def _copy(self, part: Path, check: Callable[[], None]) -> Manifest:
        def pause(took_s: float) -> None:
            check()
            time.sleep(min(took_s, _LONGEST_PAUSE_S))

        with self._store.moment() as moment:
            spare = max(_SPARE_BYTES, self._files.reserve_bytes)
            if shutil.disk_usage(part.parent).free < moment.size_bytes + spare:
                raise DiskFull(
                    "A backup needs as much room in the data folder as the database has, "
                    f"{moment.size_bytes} bytes, for as long as it is made. Free space and try "
                    "again.",
                    needed=moment.size_bytes,
                )
            reach("backup.copy.before")
            moment.copy_to(part, pause)
            manifest = Manifest(
                seq=moment.seq,
                size_bytes=part.stat().st_size,
                store_id=moment.uuid,
                format_version=moment.format_version,
                server_version=self._version,
                create_time=self._clock(),
            )
        reach("backup.copy.done")
        return manifest


def _pieces(read: Callable[[int], bytes], manifest: Manifest) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), manifest.size_bytes
    while left:
        piece = read(min(PIECE_BYTES, left))
        if not piece:
            raise DataLoss("The copy of the store became shorter while it was sent. Try again.")
        left -= len(piece)
        digest.update(piece)
        yield piece
    yield write_trailer(digest.digest(), manifest)


def write_trailer(sha256: bytes, manifest: Manifest) -> bytes:
    """Return the 1024 bytes behind a database whose SHA-256 this is."""
    text = json.dumps(asdict(manifest), separators=(",", ":")).encode()
    return (MAGIC + sha256 + text).ljust(TRAILER_BYTES)


def read_trailer(path: Path) -> tuple[bytes, Manifest]:
    """Return the SHA-256 and the manifest of a backup file. Raises DataLoss, OSError."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TRAILER_BYTES))
        trailer = file.read(TRAILER_BYTES)
    if len(trailer) < TRAILER_BYTES or not trailer.startswith(MAGIC):
        raise DataLoss("This is no backup, or its end is missing; nothing was restored.")
    start = len(MAGIC)
    try:
        manifest = Manifest(**json.loads(trailer[start + 32 :]))
    except (ValueError, TypeError, RecursionError):
        raise _damaged() from None
    if any(isinstance(value, str) != (name in _TEXTS) for name, value in asdict(manifest).items()):
        raise _damaged()
    if manifest.size_bytes != size - TRAILER_BYTES:
        raise DataLoss(
            f"The backup should have {manifest.size_bytes + TRAILER_BYTES} bytes but has {size}; "
            "nothing was restored."
        )
    return trailer[start : start + 32], manifest


def _damaged() -> DataLoss:
    return DataLoss("The end of the backup is damaged; nothing was restored.")
