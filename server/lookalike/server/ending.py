"""How the process ends, whatever hangs: what was acknowledged is durable by then."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_log = logging.getLogger("lookalike.server")

STUCK = 3
"""The exit code where something did not end in time and was left."""
_CLOSING_S = 0.8
"""After the grace, for closing everything; then the process is ended all the same."""
_SAVING_S = 0.3
_DEAF_S = 0.5
"""After that long not even the interpreter can be had: something holds its lock.

All three together are less than the 2 s that a process has after its grace.
"""


def end_after(grace_s: float, save: Callable[[], None]) -> None:
    """End the process soon after so long whatever still runs, with STUCK: within 2 s.

    Before, `save` gets a moment for what shortens the next start. If no Python code
    runs any more, since native code keeps the interpreter's lock, a thread of C ends the
    process, with 1, and writes on stderr where all threads stand.
    """
    seconds = grace_s + _CLOSING_S

    def give_up() -> None:
        busy = sorted({t.name.partition("_")[0] for t in threading.enumerate() if not t.daemon})
        _log.warning("not everything ended in time; leaving threads=%s", ",".join(busy))
        saving = threading.Thread(target=_quietly, args=(save,), name="saving", daemon=True)
        saving.start()
        saving.join(_SAVING_S)
        end(STUCK)

    faulthandler.dump_traceback_later(seconds + _SAVING_S + _DEAF_S, exit=True)
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()


def end(code: int) -> NoReturn:
    """Leave without waiting for threads: one that hangs would keep the process alive."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            stream.flush()
    os._exit(code)


def _quietly(save: Callable[[], None]) -> None:
    try:
        save()
    except Exception:
        _log.warning("the folder is left as after a kill", exc_info=True)
