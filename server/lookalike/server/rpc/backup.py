"""AdminService.Backup: a copy is made, then sent as fast as its reader reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import grpc

from lookalike.backends.errors import Cancelled
from lookalike.server.backup import TRAILER_BYTES, Manifest
from lookalike.server.rpc.ports import Backups
from lookalike.server.rpc.wire import write_time
from lookalike.v1 import admin_service_pb2 as pb


def send_backup(
    backups: Backups, check_open: Callable[[], None], context: grpc.ServicerContext
) -> Iterator[pb.BackupResponse]:
    """Make a backup and send it in pieces; it ends when the caller goes or the server does.

    `check_open` raises while the server goes down. Raises Overloaded, DiskFull, DataLoss.
    """

    def check() -> None:
        check_open()
        if not context.is_active():
            raise Cancelled("The caller has gone.")

    digest = hashlib.sha256()
    with backups.make(check) as (manifest, pieces):
        yield pb.BackupResponse(start=_write_start(manifest))
        for piece in pieces:
            check()
            digest.update(piece)
            yield pb.BackupResponse(data=piece)
        yield pb.BackupResponse(end=pb.BackupEnd(sha256=digest.hexdigest()))


def _write_start(manifest: Manifest) -> pb.BackupStart:
    return pb.BackupStart(
        seq=manifest.seq,
        size_bytes=manifest.size_bytes + TRAILER_BYTES,
        store_id=manifest.store_id,
        format_version=manifest.format_version,
        server_version=manifest.server_version,
        create_time=write_time(manifest.create_time),
    )
