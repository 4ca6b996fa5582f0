from __future__ import annotations

import os
import shutil
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from certificates import Authority, Pair
from lookalike.backends.errors import FailedPrecondition
from lookalike.client import Client, Health
from lookalike.client.errors import LookalikeError, ServerUnavailable
from lookalike.server.app import App
from lookalike.server.rpc.tls import Tls, TlsFiles
from rpc.access_parts import config


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "another CA")


@contextmanager
def tls_server(folder: Path, pair: Pair, client_ca: Path | None = None) -> Iterator[str]:
    """Run a whole server with a certificate; give its address."""
    tls = {"certificate": str(pair.certificate), "key": str(pair.key)}
    if client_ca is not None:
        tls["client_ca"] = str(client_ca)
    app = App(config(folder, tls=tls), version="1")
    try:
        yield app.start()
    finally:
        app.stop(1.0)


def reached(address: str, **security: object) -> str:
    """Ask a server for its health; return "" if it answers, or why it cannot be reached."""
    with Client(address, timeout_s=10, **security) as client:  # type: ignore[arg-type]
        try:
            assert client.health("") is Health.SERVING
        except ServerUnavailable as error:
            return error.message + error.metadata.get("details", "")
    return ""


def version_spoken(address: str, ca: Path, version: ssl.TLSVersion) -> str:
    """Return the version of TLS that a server speaks with who knows only that one."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # else OpenSSL itself refuses 1.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as safe:
            return str(safe.version())


def test_a_server_with_a_certificate_speaks_tls_alone(ca: Authority, tmp_path: Path) -> None:
    with tls_server(tmp_path, ca.sign("server")) as address:
        assert reached(address, ca_certificate=ca.certificate) == ""
        assert reached(f"grpcs://{address}", ca_certificate=ca.certificate.read_bytes()) == ""
        assert reached(f"https://{address}/", ca_certificate=str(ca.certificate)) == ""
        assert reached(address) != ""


def test_tls_older_than_1_2_is_refused(ca: Authority, tmp_path: Path) -> None:
    with tls_server(tmp_path, ca.sign("server")) as address:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            spoken = version_spoken(address, ca.certificate, version)
            assert spoken == version.name.replace("_", ".")
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises(OSError, match=r"(?i)protocol.version|EOF|reset"):  # its doing
                version_spoken(address, ca.certificate, version)


def test_a_client_refuses_a_server_that_is_not_who_it_should_be(
    ca: Authority, other: Authority, tmp_path: Path
) -> None:
    with tls_server(tmp_path / "a", ca.sign("server")) as address:
        assert "certificate verify failed" in reached(address, ca_certificate=other.certificate)
        assert "certificate verify failed" in reached(f"grpcs://{address}")
        wrong = reached(address, ca_certificate=ca.certificate, server_name="elsewhere.example")
        assert "another name" in wrong
        name = "localhost"
        assert reached(address, ca_certificate=ca.certificate, server_name=name) == ""
    with tls_server(tmp_path / "b", ca.sign("elsewhere", "DNS:elsewhere.example")) as address:
        assert "another name" in reached(address, ca_certificate=ca.certificate)
        name = "elsewhere.example"
        assert reached(address, ca_certificate=ca.certificate, server_name=name) == ""
    with tls_server(tmp_path / "c", ca.sign("old", days=-1)) as address:
        assert "certificate" in reached(address, ca_certificate=ca.certificate)


def test_a_server_that_asks_for_certificates_lets_nobody_else_in(
    ca: Authority, other: Authority, tmp_path: Path
) -> None:
    with tls_server(tmp_path, ca.sign("server"), ca.certificate) as address:

        def reached_with(pair: Pair | None) -> bool:
            certificates = {}
            if pair is not None:
                certificates = {"client_certificate": pair.certificate, "client_key": pair.key}
            return not reached(address, ca_certificate=ca.certificate, **certificates)

        assert reached_with(ca.sign("client", "DNS:client"))
        assert not reached_with(None)
        assert not reached_with(ca.sign("expired", "DNS:client", days=-1))
        assert not reached_with(other.sign("stranger", "DNS:client"))
        own = Authority(tmp_path / "own", "test CA")  # the right name, the wrong key
        assert not reached_with(own.sign("impostor", "DNS:client"))


def replace_pair(new: Pair, old: Pair) -> None:
    """Put new files in the place of old ones, as tools that renew certificates do."""
    for fresh, stale in ((new.key, old.key), (new.certificate, old.certificate)):
        aside = stale.with_suffix(".new")
        shutil.copyfile(fresh, aside)
        os.replace(aside, stale)


def await_reached(address: str, ca: Path, *, want: bool) -> bool:
    end = time.monotonic() + 10
    while (reached(address, ca_certificate=ca) == "") is not want:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_certificates_are_changed_without_a_restart(
    ca: Authority, other: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = ca.sign("first")
    pair = Pair(tmp_path / "server.pem", tmp_path / "server.key")
    shutil.copyfile(first.certificate, pair.certificate)
    shutil.copyfile(first.key, pair.key)
    with tls_server(tmp_path, pair) as address:
        with Client(address, ca_certificate=ca.certificate) as staying:
            assert staying.health("") is Health.SERVING
            replace_pair(other.sign("second"), pair)
            assert await_reached(address, other.certificate, want=True)
            assert reached(address, ca_certificate=ca.certificate) != ""
            assert staying.health("") is Health.SERVING, "connections go on"
        caplog.clear()
        pair.certificate.write_text("nothing")
        end = time.monotonic() + 10
        while "the certificates in force stay" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert reached(address, ca_certificate=other.certificate) == ""
        replace_pair(first, pair)
        assert await_reached(address, ca.certificate, want=True)


def test_what_is_no_certificate_and_key_is_refused_at_the_start(
    ca: Authority, tmp_path: Path
) -> None:
    pair, foreign = ca.sign("server"), ca.sign("foreign")
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for files in (
        TlsFiles(pair.certificate, foreign.key),
        TlsFiles(junk, pair.key),
        TlsFiles(pair.certificate, tmp_path / "gone"),
        TlsFiles(pair.certificate, pair.key, junk),
    ):
        with pytest.raises(FailedPrecondition, match=str(tmp_path) + "|PEM"):
            Tls(files)


def test_a_private_key_with_a_password_is_refused_rather_than_asked_for(
    ca: Authority, tmp_path: Path
) -> None:
    pair = ca.sign("server")
    locked = tmp_path / "locked.key"
    command = f"openssl ec -in {pair.key} -aes128 -passout pass:secret -out {locked} 2>/dev/null"
    assert os.system(command) == 0
    with pytest.raises(FailedPrecondition, match="without a password"):
        Tls(TlsFiles(pair.certificate, locked))


def test_what_a_client_is_told_about_tls_names_the_cure(ca: Authority, tmp_path: Path) -> None:
    with tls_server(tmp_path, ca.sign("server")) as address:
        with Client(f"grpcs://{address}", timeout_s=10) as client:
            with pytest.raises(LookalikeError) as caught:
                client.info()
    assert "certificate verify failed" in caught.value.message
    assert "--ca" in caught.value.message
