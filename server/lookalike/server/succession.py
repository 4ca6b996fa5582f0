"""One server takes the place of another on the same data folder, without a failed search.

The one who comes loads its models first. Then the one who leaves ends what lasts, uploads
and other changes, writes down its indexes and releases the folder, but goes on answering
searches from what it has. The one who comes opens the folder, listens at the same address,
answers searches too, and takes changes once the other has gone: no answer is older than a
change that was acknowledged before it. Two never write: the lock of the folder changes
hands after the store's writer, the engines and the jobs of the one who leaves have ended.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from lookalike.backends.files import Files, NoFiles
from lookalike.server.handover import PROTOCOL, Talk
from lookalike.server.store import Store
from lookalike.server.store._connect import migrations

_log = logging.getLogger(__name__)

_PROMPT_S = 10.0


def data_format() -> int:
    """Return the version of the data folder's format that this server reads and writes."""
    return len(migrations())


class LeavingStore(Store):
    """A store that can let go of its folder and still be read."""

    _has_let_go = False

    def let_go(self) -> None:
        """Finish the writes that are queued, release the data folder; reads go on.

        The next server may open it then. What it commits would be seen in part only, so
        reads here are right as long as it commits nothing.
        """
        self._writer.finish()
        self._writer.close()
        self._mark.close()
        self._has_let_go = True
        os.close(self._lock_file)

    def close(self) -> None:
        """Finish the writes that are queued, wait for reads, release the data folder."""
        if not self._has_let_go:
            super().close()
        elif not self._closed:
            self._closed = True
            self._tables.close()
            self._readers.close()


class LeavingFiles(Files):
    """The real file system, until told to change nothing more."""

    def __init__(self, reserve_bytes: int = 0) -> None:
        super().__init__(reserve_bytes)
        self._now: Files = Files(reserve_bytes)

    @property
    def read_only(self) -> bool:  # type: ignore[override]
        """Whether every change fails."""
        return self._now.read_only

    def let_go(self) -> None:
        """Fail every change from now on."""
        self._now = NoFiles()

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """Make one folder; nothing if it is there. Raises OSError."""
        self._now.make_folder(path, mode)

    def open(self, path: Path, flags: int, mode: int = 0o666) -> int:
        """Open a file as `os.open` does. Raises OSError."""
        return self._now.open(path, flags, mode)

    def rename(self, old: Path, new: Path) -> None:
        """Give a file or folder another name in its folder, in the place of what had it."""
        self._now.rename(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing if it is not there. Raises OSError."""
        self._now.remove(path)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder with all in it, as far as that can be done."""
        self._now.remove_tree(path)


class Doors(Protocol):
    """See `lookalike.server.rpc.doors`."""

    def share(self) -> None: ...
    def end_lasting(self, grace_s: float) -> bool: ...
    def end_changes(self, grace_s: float) -> bool: ...
    def open(self) -> None: ...
    def end_all(self) -> None: ...


class Settling(Protocol):
    """A library: see `lookalike.server.library`."""

    def settle(self, *, last: bool) -> None: ...


class Leaving:
    """Makes room for another server. `answer` on one thread."""

    def __init__(
        self,
        *,
        doors: Doors,
        library: Settling,
        work: Sequence[Callable[[], None]],
        store: LeavingStore,
        files: LeavingFiles,
        address: str,
        grace_s: float,
        stop: Callable[[], None],
    ) -> None:
        """`work` ends what else writes into the folder. `stop` ends the server."""
        self._doors, self._library, self._work = doors, library, work
        self._store, self._files = store, files
        self._address, self._grace_s = address, grace_s
        self._stop = stop
        self._is_released = False
        self.over = threading.Event()
        """Set once another serves in the place of this one."""

    def answer(self, talk: Talk) -> None:
        """Speak with one who asks for this server's place."""
        hello = talk.hear(_PROMPT_S) or {}
        if hello.get("say") != "hello" or hello.get("protocol") != PROTOCOL:
            talk.say("no", why="it is of another version")
            return
        _log.info("another server asks for this one's place version=%s", hello.get("version"))
        if hello.get("format") != data_format():
            _log.info("it has another format of the data folder, so this one stops first")
            if talk.say("here", address="") and self._hears("go", talk):
                self._stop()
                self.over.wait()  # holds the connection, which ends with the process
            return
        self._doors.share()
        if not talk.say("here", address=self._address) or not self._hears("go", talk):
            return
        if not self._is_released and not self._release(talk):
            return
        if talk.say("released") and self._hears("serving", talk, None):
            self._leave()
            return
        _log.error(
            "the server that was to take over has ended; this one answers searches and takes "
            "no changes: start one with --take-over, or restart this one"
        )

    def _hears(self, word: str, talk: Talk, timeout_s: float | None = _PROMPT_S) -> bool:
        heard: dict[str, Any] = talk.hear(timeout_s) or {}
        return heard.get("say") == word

    def _release(self, talk: Talk) -> bool:
        """End all changes and release the folder. False if nobody waits for it any more."""
        self._library.settle(last=False)  # most of it is written while changes go on
        if not self._doors.end_lasting(self._grace_s):
            _log.warning("calls that last are cut off")
        if not self._doors.end_changes(self._grace_s):
            _log.warning("changes that do not end are left: they were not acknowledged")
        if talk.hear(0.0) is None:
            self._doors.open()
            _log.warning("the server that was to take over has ended; this one goes on")
            return False
        for end in self._work:
            end()
        self._library.settle(last=True)
        self._files.let_go()
        self._store.let_go()
        self._is_released = True
        _log.info("the data folder is released, searches go on")
        return True

    def _leave(self) -> None:
        self._doors.end_all()
        self.over.set()
        _log.info("another server has taken over")
        self._stop()
