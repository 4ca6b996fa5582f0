"""How much freed memory the process keeps: glibc's allocator, told to give more of it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8  # malloc.h
KEPT_BYTES: Final = 16 * 2**20
"""An arena keeps so much of what is free at its end, and larger pieces go back at once.
Left alone, the allocator raises both to 64 MiB and 32 MiB when it sees a large piece."""
LEAST_ARENAS: Final = 4


def bound_heap() -> None:
    """Bound what the allocator keeps; before there are other threads. Without glibc, do nothing.

    With 8 arenas a core that keep up to 64 MiB each, a server that got 70,000 calls of all
    kinds had 335 MiB resident, of which 80 were in use.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, max(LEAST_ARENAS, 2 * len(os.sched_getaffinity(0))))
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
