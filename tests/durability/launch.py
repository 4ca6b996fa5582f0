"""A server process that is told what to be once it has imported everything.

Run as a program. It waits for one line of JSON on its standard input: the server's
arguments, the crash point to die at, the bugs to plant, constants to change. So the next
server can be loaded while the last one still runs, and a loop of kills costs no imports.
It ends when its standard input does: no server outlives its test.

This is the one place that arms crash points and plants bugs; the product knows of none.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable

from durability import planted
from lookalike.backends import crashpoints
from lookalike.server import __main__ as server

PRELOADED = (
    "lookalike.server.app",
    "lookalike.server.config",
    "lookalike.server.logs",
    "lookalike.backends.embed._builtin",
    "lookalike.backends.index._faiss",
    "lookalike.backends.index._exact",
)
LOADED = "loaded"
"""The line that says that it waits for its orders."""
DIED = "died at "
"""Begins the line on standard error that names the crash point."""


def die_at(name: str, count: int) -> Callable[[str], None]:
    """Return a watcher that kills the process when the name is reached for the count-th time."""
    lock = threading.Lock()
    left = count

    def reached(here: str) -> None:
        nonlocal left
        if here != name:
            return
        with lock:
            left -= 1
            if left == 0:
                os.write(2, f"{DIED}{name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    return reached


def end_with_stdin() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    print(LOADED, flush=True)
    if not (line := sys.stdin.readline()):
        return
    order = json.loads(line)
    for path, value in order["constants"].items():
        module, _, constant = path.rpartition(".")
        assert hasattr(importlib.import_module(module), constant), path
        setattr(importlib.import_module(module), constant, value)
    for name in order["plants"]:
        planted.PLANTS[name].plant()
    if order["crash"]:
        name, _, count = order["crash"].rpartition(":")
        assert name in crashpoints.NAMES, name
        crashpoints.watch(die_at(name, int(count)))
    threading.Thread(target=end_with_stdin, daemon=True).start()
    server.app(order["args"])


if __name__ == "__main__":
    main()
