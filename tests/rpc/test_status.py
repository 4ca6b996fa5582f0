from __future__ import annotations

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from lookalike.backends import errors
from lookalike.backends.errors import InvalidArgument, LookalikeError, Overloaded
from lookalike.server.rpc.status import (
    CODES,
    code_of,
    code_of_reason,
    error_classes,
    in_band,
    place,
    rich_status,
)
from lookalike.v1 import errors_pb2

TREE = sorted(
    {kind for kind in error_classes() if kind.__module__ == errors.__name__},
    key=lambda kind: kind.__name__,
)


def test_every_error_has_a_reason_on_the_wire_and_the_other_way_round() -> None:
    ours = {kind.reason for kind in TREE}
    theirs = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()}
    assert ours == theirs - {"UNSPECIFIED"}


def test_no_two_errors_but_the_root_share_a_reason() -> None:
    reasons = [kind.reason for kind in TREE if kind is not LookalikeError]
    assert len(reasons) == len(set(reasons))


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_code(kind: type[LookalikeError]) -> None:
    code = code_of(kind)
    assert code not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
    assert code_of_reason(kind.reason) is code
    assert in_band(kind("No.")).code == code_pb2.Code.Value(code.name)


def test_every_branch_of_the_tree_is_in_the_table() -> None:
    assert set(LookalikeError.__subclasses__()) - set(CODES) == set()


def details(error: LookalikeError) -> tuple[grpc.Status, status_pb2.Status]:
    status = rich_status(error, "abc")
    trailers = dict(status.trailing_metadata)
    assert trailers["x-request-id"] == "abc"
    return status, status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


def test_a_status_carries_reason_field_and_delay() -> None:
    status, rich = details(Overloaded("Full.", field="items", retry_after_s=0.25, limit=3))
    assert status.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status.details == rich.message == "Full."
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    assert rich.details[0].Unpack(info)
    assert rich.details[1].Unpack(bad)
    assert rich.details[2].Unpack(retry)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "OVERLOADED",
        "lookalike",
        {"limit": "3"},
    )
    assert bad.field_violations[0].field == "items"
    assert retry.retry_delay.nanos == 250_000_000


def test_a_plain_error_carries_exactly_one_detail() -> None:
    _, rich = details(InvalidArgument("No."))
    assert len(rich.details) == 1


def test_trailers_stay_below_8_kib_whatever_the_message() -> None:
    huge = "\N{SNOWMAN}" * 100_000
    values = {f"key{i}": huge for i in range(30)}
    status, _ = details(InvalidArgument(huge, field=huge, **values))  # type: ignore[arg-type]
    encoded = 3 * len(status.details.encode()) + sum(
        len(key) + (len(value) * 4 // 3 + 32) for key, value in status.trailing_metadata
    )
    assert encoded < 8 * 1024


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ImageUndecodable("x"), "items[3].image"),
        (errors.DimensionMismatch("x", field="vector"), "items[3].vector"),
        (errors.ItemExists("x"), "items[3].id"),
        (errors.InvalidArgument("x"), "items[3]"),
        (errors.MetadataTooLarge("x", field="items[3].metadata"), "items[3].metadata"),
    ],
)
def test_an_error_of_the_domain_is_placed_in_the_request(
    error: LookalikeError, expected: str
) -> None:
    assert place(error, "items[3]") == expected
