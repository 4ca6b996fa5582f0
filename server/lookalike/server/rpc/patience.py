"""Streams of answers whose reader may have stopped reading."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TypeVar

import grpc

T = TypeVar("T")

_LOOK_S = 0.5


def patiently(messages: Iterator[T], context: grpc.ServicerContext, seconds: float) -> Iterator[T]:
    """Yield the messages, and cancel the call if one of them waits too long to be taken.

    While nobody reads, gRPC does not come back from a `yield`, so that another thread
    has to look. How long the next message takes to be made does not matter.
    """
    waiting_since: float | None = None
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            since = waiting_since
            if since is not None and time.monotonic() - since > seconds:
                context.cancel()
                return

    threading.Thread(target=watch, name="patience", daemon=True).start()
    try:
        for message in messages:
            waiting_since = time.monotonic()
            yield message
            waiting_since = None
    finally:
        over.set()
