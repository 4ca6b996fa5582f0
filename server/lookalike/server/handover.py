"""The words between a server that has a data folder and one that asks for its place.

A server that writes listens on a Unix socket of the abstract kind, whose name is made of the
folder's device and inode: nothing is left behind by one that is killed, and whoever can see
the folder finds it. Only processes of the same user (or root) are heard. Lines of JSON:

    the one who comes           the one who leaves
    {"say": "hello", ...}    -> {"say": "here", "address": "127.0.0.1:50051"}
    {"say": "go"}            -> {"say": "released"}      changes have ended, the lock is free
    {"say": "serving"}       -> (it ends, and the connection with it)

An end of the connection says that the other process has gone. Linux only.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from lookalike.backends.errors import Cancelled, FailedPrecondition

_log = logging.getLogger(__name__)

PROTOCOL = 1
_LOOK_S = 0.2
_MOST_BYTES = 64 * 1024
_PATIENCE_S = 60.0
"""For a server that is starting or stopping: twice the grace that it has by default."""
_NAME_S = 10.0
_STOPPED = "Asked to stop before the other server had made room."


class Talk:
    """One connection between the two. One thread."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._received = b""

    def close(self) -> None:
        """Hang up."""
        self._peer.close()

    def say(self, word: str, **more: object) -> bool:
        """Send a line; return False if the other has gone."""
        try:
            self._peer.settimeout(5.0)
            self._peer.sendall(json.dumps({"say": word, **more}).encode() + b"\n")
            return True
        except OSError:
            return False

    def hear(
        self, timeout_s: float | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Wait for a line; None if the other has gone, {} if nothing was said in time.

        Raises Cancelled once `should_stop` says so.
        """
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if should_stop():
                raise Cancelled(_STOPPED)
            left_s = _LOOK_S if ends is None else ends - time.monotonic()
            try:
                self._peer.settimeout(min(max(left_s, 0.001), _LOOK_S))
                data = self._peer.recv(4096)
            except TimeoutError:
                if left_s <= 0.001:
                    return {}
                continue
            except OSError:
                return None
            if not data or len(self._received) > _MOST_BYTES:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        try:
            heard = json.loads(line)
        except ValueError:
            return None
        return heard if isinstance(heard, dict) and "say" in heard else None


class Offer:
    """Listens for processes that ask for this one's place. `start` and `close` by one owner."""

    def __init__(self, folder: Path, answer: Callable[[Talk], None]) -> None:
        """`answer` is called for one of them at a time, on a thread of its own."""
        self._folder, self._answer = folder, answer
        self._door: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to listen; a name that stays taken is logged, and nothing more."""
        threading.Thread(target=self._run, name="handover", daemon=True).start()

    def close(self) -> None:
        """Listen no more. A conversation that has begun goes on."""
        self._closed = True
        if self._door is not None:
            with suppress(OSError):
                self._door.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
            self._door.close()

    def _open(self) -> socket.socket | None:
        """Take the name; one who has left may not have given it back yet."""
        ends = time.monotonic() + _NAME_S
        while not self._closed:
            door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                door.bind(_name(self._folder))
                door.listen(8)
                return door
            except OSError as error:
                door.close()
                if time.monotonic() > ends:
                    _log.warning("no other server can take over from this: %s", error.strerror)
                    return None
            time.sleep(0.02)
        return None

    def _run(self) -> None:
        door = self._door = self._open()
        while door is not None and not self._closed:
            try:
                peer, _ = door.accept()
            except OSError:
                return
            with peer:
                if not _is_trusted(peer):
                    _log.warning("another user's process asked for this server's place")
                    continue
                try:
                    self._answer(Talk(peer))
                except Exception:  # a defect must not end the server
                    _log.exception("handing over failed")


class Predecessor:
    """The server that has the folder now, as the one who comes sees it. One thread."""

    def __init__(self, peer: socket.socket, should_stop: Callable[[], bool]) -> None:
        self._peer, self._talk = peer, Talk(peer)
        self._should_stop = should_stop
        self.address = ""
        """Where it listens; empty if it will rather end than share its address."""

    @classmethod
    def find(cls, folder: Path, should_stop: Callable[[], bool]) -> Self | None:
        """Return the server that uses the folder; None if none does.

        One that has the folder's lock and does not answer is about to be there, or to go:
        it is waited for. Raises FailedPrecondition, Cancelled.
        """
        ends = time.monotonic() + _PATIENCE_S
        while True:
            peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                peer.connect(_name(folder))
                break
            except OSError:
                peer.close()
            if not _is_locked(folder) or time.monotonic() > ends:
                return None
            if should_stop():
                raise Cancelled(_STOPPED)
            time.sleep(_LOOK_S)
        if not _is_trusted(peer):
            peer.close()
            raise FailedPrecondition(
                "Another user's process stands in for the server of this data folder; see "
                "what it is and end it."
            )
        return cls(peer, should_stop)

    def greet(self, data_format: int, version: str) -> None:
        """Ask who it is; it has promised nothing yet. Raises FailedPrecondition, Cancelled."""
        self._talk.say("hello", protocol=PROTOCOL, format=data_format, version=version)
        heard = self._talk.hear(10.0, self._should_stop)
        if heard is not None and heard.get("say") == "here":
            self.address = str(heard.get("address", ""))
        elif heard is not None:
            raise FailedPrecondition(
                "The server that uses this data folder does not make room "
                f"({heard.get('why', 'it does not answer')}). Stop it."
            )

    def make_room(self, folder: Path) -> None:
        """Have it end its changes and release the folder; it may as well end. Cancelled."""
        self._talk.say("go")
        self._talk.hear(None, self._should_stop)
        ends = time.monotonic() + _PATIENCE_S
        while _is_locked(folder) and time.monotonic() < ends:
            if self._should_stop():
                raise Cancelled(_STOPPED)
            time.sleep(0.02)

    def place(self, listen: str) -> tuple[str, bool]:
        """Return where to listen, and whether it still listens there, too."""
        host, _, port = listen.rpartition(":")
        theirs = self.address.rpartition(":")[2]
        if theirs and port in ("0", theirs):
            return f"{host}:{theirs}", True
        return listen, False

    def relieve(self, timeout_s: float) -> bool:
        """Tell it that another serves; return whether it has gone in time."""
        self._talk.say("serving")
        return self._talk.hear(timeout_s) is None

    def close(self) -> None:
        """Hang up: it goes on then, if it can."""
        self._peer.close()


def _is_locked(folder: Path) -> bool:
    """Say whether a process has the folder, to write there or to read."""
    try:
        file = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(file)


def _name(folder: Path) -> str:
    found = os.stat(folder)
    return f"\0lookalike/{found.st_dev:x}/{found.st_ino:x}"


def _is_trusted(peer: socket.socket) -> bool:
    """Say whether the other process is of this user or of root."""
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", data)
    return user in (os.geteuid(), 0)
