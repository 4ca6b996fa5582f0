"""AdminService.Backup to a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeAlias

from lookalike.client._aside import written_aside
from lookalike.client._wire import time_of
from lookalike.client.errors import DataLoss
from lookalike.v1 import admin_service_pb2

Target: TypeAlias = str | os.PathLike[str] | BinaryIO
"""A file that is not there yet, or something open for writing."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What a backup is of."""

    seq: int
    """The last commit that is in it."""
    size_bytes: int
    sha256: str
    """Of the whole file, 64 hex digits."""
    store_id: str
    format_version: int
    server_version: str
    create_time: datetime | None


def save(
    target: Target,
    messages: Iterable[admin_service_pb2.BackupResponse],
    progress: Callable[[int, int], None] | None,
) -> BackupReport:
    """Write a backup to its target; a file is there whole or not at all.

    Raises:
        FileExists: there is a file of this name already.
        DataLoss: what came is not what was sent.
    """
    if isinstance(target, str | os.PathLike):
        with written_aside(Path(target)) as file:
            return _receive(file, messages, progress)
    return _receive(target, messages, progress)


def _receive(
    file: BinaryIO,
    messages: Iterable[admin_service_pb2.BackupResponse],
    progress: Callable[[int, int], None] | None,
) -> BackupReport:
    start, done, digest = admin_service_pb2.BackupStart(), 0, hashlib.sha256()
    for message in messages:
        match message.WhichOneof("event"):
            case "start":
                start = message.start
            case "data":
                data = message.data
                file.write(data)
                digest.update(data)
                done += len(data)
                if progress is not None:
                    progress(done, start.size_bytes)
            case "end":
                if done != start.size_bytes or digest.hexdigest() != message.end.sha256:
                    break
                return BackupReport(
                    seq=start.seq,
                    size_bytes=done,
                    sha256=message.end.sha256,
                    store_id=start.store_id,
                    format_version=start.format_version,
                    server_version=start.server_version,
                    create_time=time_of(start, "create_time"),
                )
    raise DataLoss("The backup did not arrive as it was sent; make another one.")
