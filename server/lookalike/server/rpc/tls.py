"""TLS: certificates that can be changed while the server runs. TLS 1.2 and 1.3 only."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from lookalike.backends.errors import FailedPrecondition

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files in PEM."""

    certificate: Path
    """The server's certificate, then those that lead to a root."""
    key: Path
    """Its private key, without a password."""
    client_ca: Path | None = None
    """Roots of the certificates that clients must have; None: clients need none."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        extra = (self.client_ca,) if self.client_ca is not None else ()
        return (self.certificate, self.key, *extra)

    def bare(self, message: str) -> str:
        """Return a message without the folders of the files."""
        for path in self.paths:
            message = message.replace(str(path), path.name)
        return message


class Tls:
    """The server's certificates, read anew when told to. Any thread."""

    def __init__(self, files: TlsFiles) -> None:
        """Read them. Raises FailedPrecondition, which names the file."""
        self._files = files
        self._lock = threading.Lock()
        self._is_fresh = False
        self._current = _read(files)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port listens with."""
        return grpc.dynamic_ssl_server_credentials(
            self._current,
            self._fetch,  # type: ignore[arg-type]  # None is allowed
            require_client_authentication=self._files.client_ca is not None,
        )

    def reload(self) -> None:
        """Read the files again; connections from now on get them. Bad ones change nothing."""
        try:
            fresh = _read(self._files)
        except FailedPrecondition as error:
            _log.error("the certificates in force stay: %s", self._files.bare(error.message))
            return
        with self._lock:
            self._current, self._is_fresh = fresh, True
        _log.info("certificates read anew file=%s", self._files.certificate.name)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Tell gRPC, which asks at every handshake, what is new; None is nothing."""
        with self._lock:
            is_fresh, self._is_fresh = self._is_fresh, False
            return self._current if is_fresh else None


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    data = [_bytes(path) for path in files.paths]
    _check(files)
    if data != [_bytes(path) for path in files.paths]:
        raise FailedPrecondition(f"{files.certificate}: changes while it is read.")
    roots = data[2] if files.client_ca is not None else None
    return grpc.ssl_server_certificate_configuration([(data[1], data[0])], roots)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{path}: {error.strerror}.") from None


def _check(files: TlsFiles) -> None:
    """Raise FailedPrecondition for what gRPC would only refuse at every handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:  # the password keeps OpenSSL from asking for one on the terminal
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError):  # OpenSSL's own errors are an OSError, too
        raise FailedPrecondition(
            f"{files.certificate} and {files.key}: are not a certificate and its private key "
            "in PEM, without a password."
        ) from None
    if files.client_ca is None:
        return
    try:
        context.load_verify_locations(files.client_ca)
    except OSError:
        raise FailedPrecondition(f"{files.client_ca}: has no certificates in PEM.") from None
