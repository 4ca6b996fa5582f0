"""What the command line takes from the environment. Nothing else reads it."""

from __future__ import annotations

import os

DEFAULT_ADDRESS = "127.0.0.1:50051"


def address(option: str) -> str:
    """Return where the server is: --server, then LOOKALIKE_ADDRESS, then this machine."""
    return option or os.environ.get("LOOKALIKE_ADDRESS", "") or DEFAULT_ADDRESS


def has_address(option: str) -> bool:
    """Whether a server was named at all."""
    return bool(option or os.environ.get("LOOKALIKE_ADDRESS", ""))


def wants_traceback() -> bool:
    """Whether a defect should show where it is (LOOKALIKE_TRACEBACK=1)."""
    return os.environ.get("LOOKALIKE_TRACEBACK", "") not in ("", "0")
