"""What the command line takes from the environment. Nothing else reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.client.errors import FileUnreadable

DEFAULT_ADDRESS = "127.0.0.1:50051"


def address(option: str) -> str:
    """Return where the server is: --server, then LOOKALIKE_ADDRESS, then this machine."""
    return option or os.environ.get("LOOKALIKE_ADDRESS", "") or DEFAULT_ADDRESS


def has_address(option: str) -> bool:
    """Whether a server was named at all."""
    return bool(option or os.environ.get("LOOKALIKE_ADDRESS", ""))


def access(options: Mapping[str, str]) -> dict[str, Any]:
    """Return what `Client` takes to reach a server safely: options, then the environment."""

    def named(name: str) -> str:
        return options.get(name, "") or os.environ.get(f"LOOKALIKE_{name.upper()}", "")

    key = "" if options.get("api_key_file") else os.environ.get("LOOKALIKE_API_KEY", "")
    if not key and (file := named("api_key_file")):
        try:
            key = Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is not text"
            raise FileUnreadable(f"{file}: {why}") from None
    return {
        "api_key": key,
        "ca_certificate": named("ca") or None,
        "client_certificate": named("client_certificate") or None,
        "client_key": named("client_key") or None,
        "server_name": named("server_name"),
    }


def wants_traceback() -> bool:
    """Whether a defect should show where it is (LOOKALIKE_TRACEBACK=1)."""
    return os.environ.get("LOOKALIKE_TRACEBACK", "") not in ("", "0")
