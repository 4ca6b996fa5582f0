"""Finds the development photographs, or skips the test with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def shared(relative: str) -> Path:
    """Return a folder or file of the shared data, or skip the test that asks."""
    base = Path(os.environ.get("LOOKALIKE_SHARED", ROOT.parent / "shared"))
    path = base / relative
    if not path.exists():
        pytest.skip(f"needs {relative} of the development data; set LOOKALIKE_SHARED to its folder")
    return path
