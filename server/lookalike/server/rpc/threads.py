"""Threads that never have more calls than there are of them, and work done without any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Threads(ThreadPoolExecutor):
    """Threads for calls; `count` are given to it and not done. Any thread."""

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self.most = most
        self.count = 0
        self._counting = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a thread do it."""
        with self._counting:
            self.count += 1
        return super().submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return fn(*args, **kwargs)
        finally:
            with self._counting:
                self.count -= 1


class AtOnce(ThreadPoolExecutor):
    """Does what is short on the thread that asks for it.

    For refusals: 143 us of CPU time each where handing them to another thread took 200,
    and there is always a thread.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def on(threads: ThreadPoolExecutor, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Return a behaviour that gRPC runs on threads of its own.

    gRPC's health service has the mark; a gRPC that did not know it would take the
    server's other threads.
    """

    def marked(*args: Any) -> Any:
        return behaviour(*args)

    marked.experimental_thread_pool = threads  # type: ignore[attr-defined]
    return marked
