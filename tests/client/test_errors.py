from __future__ import annotations

import socket
import time

import pytest

from client.fake_server import FakeServer
from lookalike.client import Client, F, errors
from lookalike.client import _calls as calls
from lookalike.client.errors import LookalikeError, error_class
from lookalike.v1 import embed_service_pb2, errors_pb2


def reasons() -> list[str]:
    names = errors_pb2.ErrorReason.keys()
    return [n.removeprefix("ERROR_REASON_") for n in names if not n.endswith("UNSPECIFIED")]


@pytest.mark.parametrize("reason", reasons())
def test_every_reason_has_a_class_of_its_own(reason: str) -> None:
    assert error_class(reason, 0).reason_name == reason


@pytest.mark.parametrize("reason", reasons())
def test_a_class_belongs_to_the_code_that_the_proto_names(reason: str) -> None:
    codes = {
        "INVALID_ARGUMENT": 3, "NOT_FOUND": 5, "ALREADY_EXISTS": 6, "FAILED_PRECONDITION": 9,
        "RESOURCE_EXHAUSTED": 8, "UNAVAILABLE": 14, "DEADLINE_EXCEEDED": 4, "CANCELLED": 1,
        "PERMISSION_DENIED": 7, "UNAUTHENTICATED": 16, "DATA_LOSS": 15, "INTERNAL": 13,
    }  # fmt: skip
    in_proto = {
        "OVERLOADED": "RESOURCE_EXHAUSTED", "DRAINING": "UNAVAILABLE",
        "ITEM_NOT_FOUND": "NOT_FOUND", "IMAGE_UNDECODABLE": "INVALID_ARGUMENT",
        "READ_ONLY": "PERMISSION_DENIED", "MODEL_MISMATCH": "FAILED_PRECONDITION",
    }  # fmt: skip
    if reason in in_proto:
        by_code = error_class("NEW", codes[in_proto[reason]])
        assert issubclass(error_class(reason, 0), by_code)


def test_an_unknown_reason_falls_back_on_its_code_and_keeps_its_name(
    server: FakeServer, client: Client
) -> None:
    server.fail = (5, "SPELL_NOT_FOUND", "There is no such spell.")
    with pytest.raises(errors.NotFound, match="no such spell") as caught:
        client.get("a")
    assert type(caught.value) is errors.NotFound
    assert caught.value.reason == "SPELL_NOT_FOUND"
    assert type(errors.make_error(99, "X", "?")) is LookalikeError


def test_an_error_carries_what_the_server_said(server: FakeServer, client: Client) -> None:
    server.fail = (3, "DIMENSION_MISMATCH", "The vector has 3 numbers; send 8.")
    with pytest.raises(errors.DimensionMismatch) as caught:
        client.search(vector=[1, 2, 3])
    error = caught.value
    assert (error.reason, error.message) == (
        "DIMENSION_MISMATCH",
        "The vector has 3 numbers; send 8.",
    )
    assert (error.field, error.metadata) == ("items[3].vector", {"a": "b"})
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_no_server_is_told_with_the_address_and_the_cure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        begin = time.monotonic()
        with Client(address) as client, pytest.raises(errors.ServerUnavailable) as caught:
            client.count()
    assert (
        caught.value.message == f"No server answers at {address}; start one with: lookalike serve"
    )
    assert time.monotonic() - begin < 5


def test_a_moment_without_a_server_is_bridged_for_reads(server: FakeServer, client: Client) -> None:
    server.unavailable_times = 2
    assert client.count() == 0
    assert len(server.seen.calls) == 3


def test_what_is_not_idempotent_is_not_repeated(server: FakeServer, client: Client) -> None:
    server.unavailable_times = 1
    with pytest.raises(errors.ServerUnavailable):
        client.create_collection("new")
    assert len(server.seen.calls) == 1


def test_a_call_that_takes_too_long_says_so(server: FakeServer) -> None:
    server.call_delay_s = 0.5
    with Client(server.address, timeout_s=0.05) as client:
        with pytest.raises(errors.DeadlineExceeded, match="timeout_s"):
            client.count()


def test_a_foreign_server_is_told_from_ours(server: FakeServer, client: Client) -> None:
    request = embed_service_pb2.GetModelRequest()
    with pytest.raises(LookalikeError, match="older lookalike"):
        client._call(calls.Call("EmbedService", "GetModel", request, lambda answer: answer))


def test_a_closed_client_says_so(client: Client) -> None:
    client.count(where=F.a == 1)
    client.close()
    client.close()
    with pytest.raises(LookalikeError, match="closed"):
        client.count()
