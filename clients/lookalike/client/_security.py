"""How a server is reached safely: TLS, and the key that says who calls."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from lookalike.client.errors import FileUnreadable, InvalidArgument

Pem: TypeAlias = str | os.PathLike[str] | bytes
"""A file in PEM, or what would be in it."""

_SCHEMES = {"https": True, "grpcs": True, "http": False, "grpc": False}
"""What an address may begin with, and whether it means TLS."""
_KEY = re.compile(r"[!-~]{1,4096}")
_LOCAL_TARGETS = ("unix:", "unix-abstract:")


@dataclass(frozen=True, slots=True)
class Security:
    """What a connection is made with. Its repr has no secret."""

    target: str
    """The address as gRPC wants it."""
    tls: bool = False
    api_key: str = field(default="", repr=False)
    roots: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)
    server_name: str = ""

    def channel(self, options: list[tuple[str, object]]) -> Any:
        """Open the channel; all calls over it go with the key."""
        channel = self._channel(options)
        return _WithKey(channel, self.metadata()) if self.api_key else channel

    def _channel(self, options: list[tuple[str, object]]) -> grpc.Channel:
        if not self.tls:
            return grpc.insecure_channel(
                self.target, options=options, compression=grpc.Compression.NoCompression
            )
        if self.server_name:
            options = [*options, ("grpc.ssl_target_name_override", self.server_name)]
        credentials = grpc.ssl_channel_credentials(self.roots, self.private_key, self.certificate)
        return grpc.secure_channel(
            self.target, credentials, options=options, compression=grpc.Compression.NoCompression
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what goes with every call."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()


class _WithKey:
    """A channel whose every call has some metadata; gRPC's interceptors cost 20 us a call."""

    def __init__(self, channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel = channel
        self._metadata = metadata

    def __getattr__(self, name: str) -> Any:
        """Return `close`, or one of the four that make a callable of a method."""
        found = getattr(self._channel, name)
        if name not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            return found
        return lambda *args, **options: _CallWithKey(found(*args, **options), self._metadata)


class _CallWithKey:
    """The callable of a method, which adds some metadata."""

    def __init__(self, call: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._call = call
        self._metadata = metadata

    def __call__(self, *request: Any, **options: Any) -> Any:
        return self._call(*request, metadata=self._metadata, **options)

    def future(self, *request: Any, **options: Any) -> Any:
        return self._call.future(*request, metadata=self._metadata, **options)


def secure(
    address: str,
    *,
    api_key: str = "",
    ca_certificate: Pem | None = None,
    client_certificate: Pem | None = None,
    client_key: Pem | None = None,
    server_name: str = "",
) -> Security:
    """Work out how to reach an address.

    "grpcs://" and "https://" mean TLS, and so does a certificate. "grpc://" and "http://"
    mean that the way is safe without: a key goes unencrypted only there and to this
    machine.

    Raises:
        FileUnreadable: a certificate or key cannot be read.
        InvalidArgument: these do not go together; the message has no key in it.
    """
    scheme, has_scheme, target = address.partition("://")
    if not has_scheme or scheme not in _SCHEMES:
        scheme, target = "", address
    target = target.rstrip("/") if scheme else target
    has_certificates = bool(ca_certificate or client_certificate or client_key or server_name)
    tls = _SCHEMES.get(scheme, has_certificates)
    if has_certificates and not tls:
        raise InvalidArgument(f"{scheme}:// is without TLS, and certificates need it: grpcs://")
    if bool(client_certificate) != bool(client_key):
        raise InvalidArgument("A client certificate and its key come together.")
    api_key = api_key.strip()
    if api_key:
        if not _KEY.fullmatch(api_key):
            raise InvalidArgument("The API key has characters that no key has; is it one line?")
        if not tls and not scheme and not is_local(target):
            raise InvalidArgument(
                f"The API key would go to {target} unencrypted. Say grpcs://{target} (TLS), or "
                f"grpc://{target} if the way there is safe."
            )
    return Security(
        target,
        tls,
        api_key,
        _read(ca_certificate),
        _read(client_certificate),
        _read(client_key),
        server_name,
    )


def is_local(target: str) -> bool:
    """Say whether an address, "HOST:PORT" say, is one of this machine alone."""
    if target.startswith(_LOCAL_TARGETS):
        return True
    host = target.rpartition(":")[0].rpartition("/")[2].strip("[]") or target
    host = host.partition(":")[2] if host.startswith(("ipv4:", "dns:")) else host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(pem: Pem | None) -> bytes | None:
    if not pem:
        return None
    if isinstance(pem, bytes):
        return pem
    try:
        return Path(pem).expanduser().read_bytes()
    except OSError as error:
        raise FileUnreadable(f"{os.fspath(pem)}: {error.strerror}") from None
