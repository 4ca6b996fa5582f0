"""Gates that calls pass, one for each kind of call, so that a server can end them in turn."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from types import TracebackType

from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import MethodOptions

from lookalike.backends.errors import Draining, LookalikeError

_WATCHERS = frozenset({"WatchJob", "StreamSearch", "ServerReflectionInfo"})
"""Calls that end when their callers like, and lose nothing when they are cut off."""
_LASTING = frozenset({"FindDuplicates", "Verify", "Backup", "ExportItems"})
"""Calls that read for long and would have to begin again."""
_RETRY_S = 1.0


def going_down() -> LookalikeError:
    """Return what calls to a server that ends are refused with."""
    return Draining("The server is going down; call again when it is back.", retry_after_s=_RETRY_S)


class Gate:
    """The calls of one kind that are under way, and whether more may come. Any thread.

    `with gate:` counts a call; it raises what `close` was given when no more may come.
    """

    def __init__(self) -> None:
        self._count = 0
        self._refusal: Callable[[], LookalikeError] | None = None
        self._lock = threading.Lock()
        self._none_left = threading.Condition(self._lock)

    def __enter__(self) -> None:
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._count -= 1
            if self._refusal is not None and not self._count:
                self._none_left.notify_all()

    @property
    def count(self) -> int:
        """Calls that are under way."""
        return self._count

    def close(self, refusal: Callable[[], LookalikeError] = going_down) -> None:
        """Refuse calls from now on."""
        with self._lock:
            self._refusal = refusal

    def open(self) -> None:
        """Let calls through again."""
        with self._lock:
            self._refusal = None

    def wait(self, timeout_s: float) -> bool:
        """Wait, once closed, for the calls under way; return whether all ended in time."""
        with self._lock:
            return self._none_left.wait_for(lambda: self._count == 0, timeout_s)


class Gates:
    """The gates of a server."""

    def __init__(self) -> None:
        self.reads, self.writes, self.uploads = Gate(), Gate(), Gate()
        self.lasting, self.watchers = Gate(), Gate()
        self.all = (self.lasting, self.uploads, self.writes, self.watchers, self.reads)

    def of(self, method: str) -> Gate:
        """Return the gate of a method ("/package.Service/Method")."""
        name = method.rpartition("/")[2]
        if name in _WATCHERS:
            return self.watchers
        if name in _LASTING:
            return self.lasting
        if name == "UploadItems":
            return self.uploads
        return self.reads if only_reads(method) else self.writes

    def drain(self, timeout_s: float) -> bool:
        """Refuse all calls and wait for those under way; return whether all ended in time."""
        ends = time.monotonic() + timeout_s
        for gate in self.all:
            gate.close()
        return all(gate.wait(max(0.0, ends - time.monotonic())) for gate in self.all)


@functools.cache
def only_reads(method: str) -> bool:
    """Return what the protos say of a method ("/package.Service/Method"), False if nothing."""
    path = method.removeprefix("/").replace("/", ".")
    try:
        options = descriptor_pool.Default().FindMethodByName(path).GetOptions()
    except KeyError:
        return False
    return bool(options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS)
