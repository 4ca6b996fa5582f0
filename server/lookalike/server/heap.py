"""How much freed memory the process keeps: glibc's allocator, told to give more of it back."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from contextlib import suppress
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8  # malloc.h
KEPT_BYTES: Final = 16 * 2**20
"""An arena keeps so much of what is free at its end, and larger pieces go back at once.
Left alone, the allocator raises both to 64 MiB and 32 MiB when it sees a large piece."""
LEAST_ARENAS: Final = 4
_EVERY_S: Final = 60.0


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


def keep_heap() -> None:
    """Have a thread give back once a minute what is free inside the heap, to the process's end.

    The allocator by itself gives back what is free at the ends of its arenas alone. In five
    minutes of mixed traffic, 140 to 160 MiB were in use, and what was free inside grew from 77
    to 119 MiB. Whether this alone stops a growth of 47 MiB an hour that was seen is not known.
    """
    threading.Thread(target=_keep, name="heap", daemon=True).start()


def give_back() -> None:
    """Return the heap's free pages to the system: 12 ms for 70 MiB, an arena at a time."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def _keep() -> None:
    while True:
        time.sleep(_EVERY_S)
        give_back()
