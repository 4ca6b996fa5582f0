"""AdminService.Verify: a check of all that a server has stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lookalike.client._wire import enum_word
from lookalike.client.errors import DataLoss, InvalidArgument
from lookalike.v1 import admin_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """How far a check is."""

    collection: str
    """Empty: the store as a whole."""
    phase: str
    done_count: int
    total_count: int
    """0 if not known."""


@dataclass(frozen=True, slots=True)
class VerifyFinding:
    """Something that is not as it should be."""

    severity: str
    """"repairable": it can be built anew; "lost": it cannot be read."""
    check: str
    """"database", "item", "vector", "image", "index_files", "index_keys", "index_vectors"
    or "reachability"."""
    collection: str
    """Empty: the store as a whole."""
    item_id: str
    """Empty: not one item."""
    message: str
    """What is wrong, and what to do next."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check; true if nothing was found."""

    seq: int
    """The last commit that had been made when it began."""
    collection_count: int
    item_count: int
    probed_count: int
    """Items that were searched for by their own vectors."""
    reached_count: int
    """Those of them that were among their own best ten hits."""
    findings: tuple[VerifyFinding, ...]

    def __bool__(self) -> bool:
        return not self.findings


def request(collection: str, probe_count: int | None) -> pb.VerifyRequest:
    """Make the message; `probe_count` None means the server's default."""
    if probe_count is None:
        probe_count = 0
    elif not probe_count:
        raise InvalidArgument("probe_count is a number of items, or -1 for all of them.")
    return pb.VerifyRequest(collection=collection, probe_count=probe_count)


def read(
    messages: Iterable[pb.VerifyResponse],
    progress: Callable[[VerifyProgress], None] | None,
    on_finding: Callable[[VerifyFinding], None] | None,
) -> Verification:
    """Read a check to its end. Raises DataLoss if it stops before."""
    findings: list[VerifyFinding] = []
    end: pb.VerifySummary | None = None
    for message in messages:
        match message.WhichOneof("event"):
            case "progress":
                if progress is not None:
                    progress(_progress(message.progress))
            case "finding":
                findings.append(_finding(message.finding))
                if on_finding is not None:
                    on_finding(findings[-1])
            case "summary":
                end = message.summary
    if end is None:
        raise DataLoss("The check stopped before its end; run it again.")
    return Verification(
        seq=end.seq,
        collection_count=end.collection_count,
        item_count=end.item_count,
        probed_count=end.probed_count,
        reached_count=end.reached_count,
        findings=tuple(findings),
    )


def _progress(message: pb.VerifyProgress) -> VerifyProgress:
    return VerifyProgress(
        message.collection, message.phase, message.done_count, message.total_count
    )


def _finding(message: pb.VerifyFinding) -> VerifyFinding:
    severity = enum_word(pb.VerifySeverity, message.severity, "VERIFY_SEVERITY_")
    return VerifyFinding(
        severity, message.check, message.collection, message.item_id, message.message
    )
