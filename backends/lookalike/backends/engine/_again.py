"""When to try again what failed."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Again:
    """Waits longer after each failure in a row; the last pause stays. One thread at a time."""

    def __init__(self, pauses_s: Sequence[float]) -> None:
        self._pauses_s = pauses_s
        self._failures = 0
        self._at = 0.0

    def failed(self) -> None:
        """Note that it failed."""
        pause = self._pauses_s[min(self._failures, len(self._pauses_s) - 1)]
        self._at = time.monotonic() + pause
        self._failures += 1

    def done(self) -> None:
        """Note that there is nothing to try again."""
        self._failures = 0

    def pause_s(self) -> float | None:
        """Return the seconds until it should be tried again; None if it need not be."""
        return max(0.0, self._at - time.monotonic()) if self._failures else None
