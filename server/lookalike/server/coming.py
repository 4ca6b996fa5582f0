"""The server that takes the place of another: what it does in between its own steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lookalike.backends.errors import Cancelled
from lookalike.server.handover import Predecessor
from lookalike.server.succession import data_format

_log = logging.getLogger(__name__)

_LEAVE_S = 10.0
"""For the server that was here before to end; it takes less than one."""


class Library(Protocol):
    """See `lookalike.server.library`."""

    def wait_ready(self, timeout_s: float | None = None) -> bool: ...


class Doors(Protocol):
    """See `lookalike.server.rpc.doors`."""

    def hold_writes(self) -> None: ...
    def take_all(self) -> None: ...
    def open(self) -> None: ...


class Coming:
    """Takes the place of the server that uses a folder, if there is one. One thread."""

    def __init__(self, folder: Path, listen: str, should_stop: Callable[[], bool]) -> None:
        self._folder, self._should_stop = folder, should_stop
        self.listen = listen
        """Where to listen: that server's port, if any would do."""
        self.shares_address = False
        """Whether that server still listens there."""
        self._other: Predecessor | None = None

    def make_room(self, version: str, check_address: Callable[..., None]) -> None:
        """Have the other server make room: whatever takes long comes before.

        `check_address` raises FailedPrecondition; so does another server that cannot make
        room. Raises Cancelled if this one is to stop.
        """
        if self._folder.is_dir():
            self._other = Predecessor.find(self._folder, self._should_stop)
        if self._other is None:
            check_address(self.listen)
            return
        self._other.greet(data_format(), version)
        self.listen, self.shares_address = self._other.place(self.listen)
        if self._other.address:  # else it will be free when the other has gone
            check_address(self.listen, is_shared=self.shares_address)
        self._other.make_room(self._folder)

    def wait(self, library: Library, doors: Doors) -> bool:
        """Wait until all collections are open, for the other server answers meanwhile.

        Returns False at once where there is no other. Raises Cancelled.
        """
        if self._other is None:
            return False
        while not library.wait_ready(0.2):
            if self._should_stop():
                raise Cancelled("Asked to stop before it had taken over.")
        doors.hold_writes()
        return True

    def relieve(self, doors: Doors) -> None:
        """Take all new calls, let the other server go, and then take changes, too."""
        if self._other is None:
            return
        doors.take_all()
        if not self._other.relieve(_LEAVE_S):
            _log.warning("the server that was here before does not end; it writes no more")
        doors.open()
        _log.info("took over from the server that was here before")

    def close(self) -> None:
        """Hang up: the other server goes on then, if it can."""
        if self._other is not None:
            self._other.close()
