"""Threads that never have more calls than there are of them, and work done without any."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

logger = logging.getLogger(__name__)


class Threads(ThreadPoolExecutor):
    """Threads for calls; `count` are given to it and not done. Any thread.

    It hands a call over and no more: nobody asks gRPC's calls for a result. Futures, with a
    condition each, and the counting of idle threads were 70 of 600 Python calls of a search.
    It is an executor by name alone, since gRPC takes nothing else for threads of a handler.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, thread_name_prefix=name)
        self.most = most
        self.count = 0
        self._name = name
        self._counting = threading.Lock()
        self._calls: SimpleQueue[_Handed | None] = SimpleQueue()
        self._started: list[threading.Thread] = []
        self._is_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Have a thread do it; what is returned only knows `add_done_callback`.

        Raises RuntimeError after `shutdown`.
        """
        call = _Handed(fn, args, kwargs)
        with self._counting:
            if self._is_shut:
                raise RuntimeError("no more calls: the threads were shut down")
            if len(self._started) < min(self.count + 1, self.most):
                self._start()
            self.count += 1
            self._calls.put(call)
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end when all that they were given is done."""
        with self._counting:
            threads, self._started, self._is_shut = self._started, [], True
        for _ in threads:
            self._calls.put(None)
        for thread in threads if wait else ():
            thread.join()

    def _start(self) -> None:
        name = f"{self._name}_{len(self._started)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._started.append(thread)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.fn(*call.args, **call.kwargs)
            except Exception:
                logger.exception("a call failed outside its handler")
            with self._counting:
                self.count -= 1
            call.done()
            del call  # what it holds is not kept while nothing comes


class _Handed:
    """What a thread was given to do."""

    __slots__ = ("_after", "_is_done", "args", "fn", "kwargs")

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self._after: list[Callable[[Any], object]] = []
        self._is_done = False

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        """Have `call` called with this when it is done; at once if it is."""
        self._after.append(call)
        if self._is_done:
            self.done()

    def done(self) -> None:
        """Call who waits, each once."""
        self._is_done = True
        while self._after:
            try:
                call = self._after.pop()
            except IndexError:  # another thread was quicker
                return
            call(self)


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
