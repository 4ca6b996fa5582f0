"""Bugs that the checks must find. Each is put into a server process by `launch` alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Plant:
    """A bug, and the check that must see it."""

    plant: Callable[[], None]
    check: str


PLANTS: dict[str, Plant] = {}
