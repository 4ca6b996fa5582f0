"""AdminService: for the people who run the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc

from lookalike.backends.errors import Cancelled, InvalidArgument
from lookalike.server.rpc.backup import send_backup
from lookalike.server.rpc.ports import Backups, Verifier
from lookalike.server.rpc.wire import read_name
from lookalike.server.verifying import Event, Finding, Progress, Severity, Summary
from lookalike.v1 import admin_service_pb2 as pb
from lookalike.v1 import admin_service_pb2_grpc

_PROBES = 1000
"""Items of each collection that are searched for unless the caller says how many."""
_SEVERITIES = {
    Severity.REPAIRABLE: pb.VERIFY_SEVERITY_REPAIRABLE,
    Severity.LOST: pb.VERIFY_SEVERITY_LOST,
}


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """Looks after what is stored."""

    def __init__(
        self,
        verifier: Verifier,
        backups: Backups,
        *,
        check_open: Callable[[], None],
    ) -> None:
        self._verifier = verifier
        self._backups = backups
        self._check_open = check_open

    def Verify(
        self, request: pb.VerifyRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.VerifyResponse]:
        """Send progress, findings and a summary, or stop when the caller is gone."""
        name = read_name(request.collection, "collection") if request.collection else ""
        if request.probe_count < -1:
            raise InvalidArgument(
                "probe_count is a number of items, 0 for the default or -1 for all.",
                field="probe_count",
            )

        def check() -> None:
            self._check_open()
            if not context.is_active():
                raise Cancelled("The caller has left.")

        events = self._verifier.verify(name, request.probe_count or _PROBES, check)
        return map(write_event, events)

    def Backup(
        self, request: pb.BackupRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.BackupResponse]:
        """Send a copy of the store; a caller that does not read it is left behind."""
        return send_backup(self._backups, self._check_open, context)


def write_event(event: Event) -> pb.VerifyResponse:
    """Return what a verification tells as a message."""
    match event:
        case Progress():
            progress = pb.VerifyProgress(
                collection=event.collection,
                phase=event.phase,
                done_count=event.done,
                total_count=event.total,
            )
            return pb.VerifyResponse(progress=progress)
        case Finding():
            finding = pb.VerifyFinding(
                severity=_SEVERITIES[event.severity],
                check=event.check,
                collection=event.collection,
                item_id=event.item_id,
                message=event.message,
            )
            return pb.VerifyResponse(finding=finding)
        case Summary():
            summary = pb.VerifySummary(
                seq=event.seq,
                collection_count=event.collections,
                item_count=event.items,
                probed_count=event.probed,
                reached_count=event.reached,
                finding_count=event.findings,
            )
            return pb.VerifyResponse(summary=summary)
