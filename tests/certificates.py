"""Certificates for tests, made by the openssl command: a CA, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """A CA of one's own, in a folder. Skips the test where there is no openssl."""

    def __init__(self, folder: Path, name: str = "test CA") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("certificates are made with the openssl command, which is not here")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.pair = Pair(folder / "ca.pem", folder / "ca.key")
        _openssl(
            *("req", "-x509", *_NEW_KEY, "-keyout", self.pair.key, "-out", self.pair.certificate),
            *("-days", "2", "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign"),
        )

    @property
    def certificate(self) -> Path:
        return self.pair.certificate

    def sign(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 2) -> Pair:
        """Make a certificate for some names; with -1 days it has expired."""
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={names}\n")
        _openssl("req", *_NEW_KEY, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            *("x509", "-req", "-in", request, "-out", pair.certificate, "-days", days),
            *("-CA", self.pair.certificate, "-CAkey", self.pair.key, "-CAcreateserial"),
            *("-extfile", extensions),
        )
        return pair


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
