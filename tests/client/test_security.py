from __future__ import annotations

import logging
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from lookalike.client import Client
from lookalike.client._security import is_local, secure
from lookalike.client.cli import _settings
from lookalike.client.errors import (
    CollectionNotAllowed,
    FileUnreadable,
    InvalidArgument,
    KeyMissing,
    LookalikeError,
    PermissionDenied,
    ScopeMissing,
    Unauthenticated,
    make_error,
)
from lookalike.client.raw import RawClient

KEY = "lk_0123456789ab_" + "c" * 64


@pytest.mark.parametrize(
    ("address", "target", "tls"),
    [
        ("localhost:1", "localhost:1", False),
        ("grpc://h:1", "h:1", False),
        ("http://h:1/", "h:1", False),
        ("grpcs://h:1", "h:1", True),
        ("https://h:1/", "h:1", True),
        ("unix:///run/lookalike", "unix:///run/lookalike", False),
        ("dns:///h:1", "dns:///h:1", False),
    ],
)
def test_an_address_says_whether_it_is_tls(address: str, target: str, tls: bool) -> None:
    found = secure(address)
    assert (found.target, found.tls) == (target, tls)


def test_a_certificate_means_tls(tmp_path: Path) -> None:
    pem = tmp_path / "ca.pem"
    pem.write_bytes(b"pem")
    assert secure("h:1", ca_certificate=pem).tls
    assert secure("h:1", ca_certificate=b"pem").roots == b"pem"
    assert secure("h:1", client_certificate=b"c", client_key=pem).private_key == b"pem"
    with pytest.raises(InvalidArgument, match="grpcs://"):
        secure("grpc://h:1", ca_certificate=b"pem")
    with pytest.raises(InvalidArgument, match="come together"):
        secure("h:1", client_certificate=b"c")
    with pytest.raises(FileUnreadable, match="No such file"):
        secure("h:1", ca_certificate=tmp_path / "gone")


@pytest.mark.parametrize(
    "address",
    [
        "localhost:1",
        "127.0.0.1:1",
        "127.8.9.1:1",
        "[::1]:1",
        "unix:/x",
        "ipv4:127.0.0.1:1",
        "dns:///localhost:1",
    ],
)
def test_a_key_goes_to_this_machine_as_it_is(address: str) -> None:
    assert is_local(address)
    assert secure(address, api_key=KEY).metadata() == (("authorization", f"Bearer {KEY}"),)


@pytest.mark.parametrize(
    "address",
    [
        "h:1",
        "10.0.0.1:1",
        "0.0.0.0:1",
        "localhost.example:1",
        "127.0.0.1.example:1",
        "[::]:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
    ],
)
def test_a_key_goes_to_no_other_machine_unencrypted(address: str) -> None:
    with pytest.raises(InvalidArgument, match="unencrypted") as caught:
        Client(address, api_key=KEY)
    assert "c" * 10 not in str(caught.value)
    assert secure(f"grpcs://{address}", api_key=KEY).metadata()
    assert secure(f"grpc://{address}", api_key=KEY).metadata(), "somebody said that it is safe"


@pytest.mark.parametrize("bad", [KEY + "\nx", "a b", "\x00", "schlüssel", "x" * 5000])
def test_what_cannot_be_a_key_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Client("localhost:1", api_key=bad)
    assert bad not in "".join(traceback.format_exception(caught.value, chain=True)[-1:])


def test_a_line_end_after_the_key_is_no_part_of_it() -> None:
    assert secure("localhost:1", api_key=KEY + "\n").api_key == KEY


def test_the_key_is_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [
        repr(secure("localhost:1", api_key=KEY, client_certificate=b"c", client_key=b"secret"))
    ]
    with Client("127.0.0.1:1", api_key=KEY, timeout_s=0.5) as client:
        shown += [repr(client), str(client)]
        with pytest.raises(LookalikeError) as caught:
            client.info()
        shown += [repr(caught.value), str(caught.value.metadata)]
        shown += traceback.format_exception(caught.value)
    raw = RawClient("127.0.0.1:1", api_key=KEY)
    shown.append(repr(raw))
    raw.close()
    everything = "\n".join([*shown, caplog.text])
    assert "c" * 20 not in everything
    assert "secret" not in everything


def test_refusals_are_errors_of_their_own() -> None:
    for reason, kind, parent in (
        ("KEY_MISSING", KeyMissing, Unauthenticated),
        ("SCOPE_MISSING", ScopeMissing, PermissionDenied),
        ("COLLECTION_NOT_ALLOWED", CollectionNotAllowed, PermissionDenied),
    ):
        error = make_error(16, reason, "why")
        assert type(error) is kind
        assert isinstance(error, parent)


def test_the_command_line_takes_the_key_from_an_option_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "API_KEY",
        "API_KEY_FILE",
        "CA",
        "CLIENT_CERTIFICATE",
        "CLIENT_KEY",
        "SERVER_NAME",
    ):
        monkeypatch.delenv(f"LOOKALIKE_{name}", raising=False)
    option, variable = tmp_path / "option", tmp_path / "variable"
    option.write_text("from-option\n")
    variable.write_text("from-file")
    assert _settings.access({})["api_key"] == ""
    monkeypatch.setenv("LOOKALIKE_API_KEY_FILE", str(variable))
    assert _settings.access({})["api_key"] == "from-file"
    monkeypatch.setenv("LOOKALIKE_API_KEY", "from-variable")
    assert _settings.access({})["api_key"] == "from-variable"
    assert _settings.access({"api_key_file": str(option)})["api_key"] == "from-option\n"
    monkeypatch.setenv("LOOKALIKE_CA", "ca.pem")
    assert _settings.access({})["ca_certificate"] == "ca.pem"
    with pytest.raises(FileUnreadable):
        _settings.access({"api_key_file": str(tmp_path / "gone")})


def test_every_way_of_calling_goes_with_the_key() -> None:
    """Whoever opens the channel, not who calls, sees to it."""
    seen: list[tuple[Any, str]] = []

    def handle(details: grpc.HandlerCallDetails) -> Any:
        for name, value in details.invocation_metadata or ():
            if name == "authorization":
                seen.append((details.method, str(value)))

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            handle(handler_call_details)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = secure(f"127.0.0.1:{port}", api_key=KEY).channel([])
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        call = getattr(channel, kind)(f"/a/{kind}")
        request = iter([b""]) if kind.startswith("stream") else b""
        with pytest.raises(grpc.RpcError):
            list(call(request, timeout=10))
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/a/future").future(b"", timeout=10).result()
    channel.close()
    server.stop(None).wait()
    assert [method for method, _ in seen] == [
        "/a/unary_unary",
        "/a/unary_stream",
        "/a/stream_unary",
        "/a/stream_stream",
        "/a/future",
    ]
    assert {value for _, value in seen} == {f"Bearer {KEY}"}
