"""The HTTP server under the gateway: uvicorn, with a limit to the time of headers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lookalike.client.errors import Unavailable
from lookalike.web.gateway import make_app
from lookalike.web.settings import Settings

READY_LINE = "lookalike page ready on {url} (server {server})"
_KEEP_ALIVE_S = 30
_GRACE_S = 10
_MAX_HEAD_BYTES = 32 * 2**10


class DeadlineProtocol(H11Protocol):
    """HTTP/1.1 whose headers must come within a time, which uvicorn leaves open.

    The clock runs from the opening of a connection, and from the first byte after an
    answered request, to the end of the next head.
    """

    head_timeout_s = 10.0
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Stop the clock if this ends a head; start it if it begins one."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_clock()
        elif self.cycle is None or self.cycle.response_complete:
            self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _start_clock(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _give_up(self) -> None:
        self._clock = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        Unavailable: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"The page cannot listen on {host}:{port} ({error.strerror}); choose another "
            "address with --listen."
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address that a browser on this machine would take."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{port}/"


def serve(settings: Settings, listener: socket.socket, *, while_stdin: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, or until stdin ends if told so."""
    protocol: Any = type(
        "Protocol", (DeadlineProtocol,), {"head_timeout_s": settings.head_timeout_s}
    )
    config = uvicorn.Config(
        make_app(settings),
        http=protocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    )
    server = _Server(config, READY_LINE.format(url=url_of(listener), server=settings.server))
    if while_stdin:
        threading.Thread(target=_watch_stdin, args=(server,), daemon=True).start()
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says one line when it listens; scripts wait for it."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self._line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            sys.stdout.write(self._line + "\n")
            sys.stdout.flush()


def _watch_stdin(server: uvicorn.Server) -> None:
    """Stop when whoever started us has gone, however it went."""
    while os.read(0, 4096):
        pass
    server.should_exit = True
