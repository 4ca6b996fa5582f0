"""What the `run` fixture is: a command line to an exit code, stdout and stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Run: TypeAlias = Callable[..., tuple[int, str, str]]
