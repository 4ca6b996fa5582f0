"""A TCP proxy that does to connections what networks do.

It stands between a client and a server and passes bytes on, until told otherwise:
later (`delay_s`), not at all (`hole`), cut off with a reset (`reset`, `refusing`), gone on
one side and not on the other (`leave`), or cut off just when an answer comes (`answers`).
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_PIECE = 65536
_LINGER_0 = struct.pack("ii", 1, 0)
"""Closing sends a reset instead of an orderly end."""


class Link:
    """One connection through the proxy: its two sockets."""

    def __init__(self, client: socket.socket, server: socket.socket, answers: int) -> None:
        self.client, self.server = client, server
        self.answers_left = answers
        """Bytes that still come back before an answer is lost; 0: no bound."""
        self.left = False
        """The client is gone, and the server is not told."""

    def reset(self) -> None:
        """Cut it off on both sides, at once."""
        for side in (self.client, self.server):
            _reset(side)


class FaultProxy:
    """Listens on a free port of this machine for one server. Any thread; a context manager."""

    def __init__(self, target: str, seed: int = 0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._links: list[Link] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.delay_s = 0.0
        """Each piece waits so long, both ways."""
        self.hole = False
        """Nothing arrives, and nobody is told."""
        self.refusing = False
        """New connections are cut off."""
        self.answers: tuple[int, int] | None = None
        """After so many bytes from the server, least and most, the next ones are swallowed and
        the connection reset: the server has done what was asked, and the client never hears."""
        self.swallowed = 0
        """Connections that ended that way."""
        self._spawn(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def links(self) -> int:
        """Connections that were made so far."""
        with self._lock:
            return len(self._links)

    def reset(self) -> None:
        """Cut off every connection there is."""
        for link in self._all():
            link.reset()

    def leave(self) -> None:
        """Cut off every client; the server is not told."""
        for link in self._all():
            link.left = True
            _reset(link.client)

    def close(self) -> None:
        """Cut off everything and wait for the threads."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()
        for thread in self._threads:
            thread.join()

    # ---------------------------------------------------------------------- insides

    def _all(self) -> list[Link]:
        with self._lock:
            return list(self._links)

    def _spawn(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, name="fault-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._target, timeout=5.0)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            link = Link(client, server, self._rng.randint(*self.answers) if self.answers else 0)
            with self._lock:
                self._links.append(link)
            self._spawn(self._up, link)
            self._spawn(self._down, link)

    def _up(self, link: Link) -> None:
        """Pass on what the client sends."""
        self._pass(link, link.client, link.server)

    def _down(self, link: Link) -> None:
        """Pass on what the server sends."""
        self._pass(link, link.server, link.client)

    def _pass(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(_PIECE):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self.hole or link.left:
                    continue
                if source is link.server and link.answers_left:
                    link.answers_left -= min(len(piece), link.answers_left)
                    if not link.answers_left:
                        with self._lock:
                            self.swallowed += 1
                        link.reset()
                        return
                sink.sendall(piece)
            if not link.left:
                sink.shutdown(socket.SHUT_WR)
        except OSError:
            if not link.left:
                link.reset()


def _reset(side: socket.socket) -> None:
    with suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
    with suppress(OSError):
        side.shutdown(socket.SHUT_RD)  # wakes a thread that waits for it
    side.close()
