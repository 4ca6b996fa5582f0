"""A server whose embedder gets stuck: `python stuck_server.py HOW serve ...`.

sleep   embeds for an hour, as native code that lets other threads run
lock    waits for a lock that nobody gives back
deaf    once asked to stop, keeps the interpreter's own lock: no Python code runs any more
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from typing import Any

from lookalike.backends.embed import _builtin
from lookalike.server.__main__ import main

STUCK = "stuck"
"""What the server says on stdout once it is."""


def hold(how: str) -> None:
    print(STUCK, flush=True)
    if how == "slow":
        time.sleep(1.5)
    elif how == "sleep":
        time.sleep(3600)
    elif how == "lock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    else:
        ENDING.wait()
        ctypes.PyDLL(None).sleep(3600)


ENDING = threading.Event()


def plant(how: str) -> None:
    kind: Any = next(
        value
        for value in vars(_builtin).values()
        if isinstance(value, type)
        and value.__module__ == _builtin.__name__
        and "embed_prepared" in vars(value)
    )
    honest, calls = kind.embed_prepared, []

    def embed_prepared(self: Any, batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) > 1 or how == "slow":
            hold(how)
        return honest(self, batch)

    kind.embed_prepared = embed_prepared
    if how == "deaf":
        from lookalike.server.app import App

        stop: Any = App.stop

        def noted(self: App, grace_s: float, **more: bool) -> None:
            ENDING.set()
            stop(self, grace_s, **more)

        App.stop = noted  # type: ignore[method-assign]


if __name__ == "__main__":
    plant(sys.argv.pop(1))
    main()
