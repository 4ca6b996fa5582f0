"""HTTP/2 by hand: frames and headers as a well-behaved library would never send them."""

from __future__ import annotations

import socket
import struct
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8
CHECK = "/grpc.health.v1.Health/Check"
SEARCH = "/lookalike.v1.SearchService/Search"
GET = "/lookalike.v1.IndexService/GetItem"
UPLOAD = "/lookalike.v1.IndexService/UploadItems"
CALL_S = 10.0


def frame(
    kind: int, flags: int, stream: int, body: bytes = b"", length: int | None = None
) -> bytes:
    """Return a frame; `length` is what it says of itself, if not the truth."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + struct.pack(">BBI", kind, flags, stream) + body


def text(data: bytes) -> bytes:
    """Return a string of HPACK, as it is."""
    return number(len(data), 7) + data


def number(value: int, bits: int, first: int = 0) -> bytes:
    """Return a number of HPACK in the low `bits` of the first byte and what follows."""
    most = 2**bits - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def header(name: str, value: str | bytes) -> bytes:
    """Return a header that is not to be remembered."""
    data = value if isinstance(value, bytes) else value.encode()
    return b"\0" + text(name.encode()) + text(data)


def headers(path: str = CHECK, *more: tuple[str, str | bytes], **instead: str) -> bytes:
    """Return the headers of a call; `instead` replaces some ("te", "content_type", "method")."""
    said = {"method": "POST", "te": "trailers", "content_type": "application/grpc"} | instead
    block = [
        header(":method", said["method"]),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "x"),
        header("content-type", said["content_type"]),
        header("te", said["te"]),
    ]
    return b"".join([*block, *(header(name, value) for name, value in more)])


def message(payload: bytes = b"", flag: int = 0, length: int | None = None) -> bytes:
    """Return a message as gRPC puts it into DATA."""
    return struct.pack(">BI", flag, len(payload) if length is None else length) + payload


class Connection:
    """A connection without manners. `send` gives up silently where the server has hung up."""

    def __init__(self, port: int, *, preface: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), CALL_S)
        self.alive = True
        self._next = 1
        if preface:
            self.send(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def stream(self) -> int:
        """Return the number of a new stream."""
        self._next += 2
        return self._next - 2

    def send(self, data: bytes) -> bool:
        """Send; return whether the server still takes it."""
        try:
            self.socket.sendall(data)
        except OSError:
            self.alive = False
        return self.alive

    def call(self, block: bytes, *messages: bytes) -> int:
        """Begin a call and end our side of it; return its stream."""
        stream = self.stream()
        flags = END_HEADERS | (0 if messages else END_STREAM)
        self.send(frame(HEADERS, flags, stream, block))
        for i, body in enumerate(messages):
            last = i == len(messages) - 1
            for at in range(0, max(1, len(body)), 16384):
                piece = body[at : at + 16384]
                ends = last and at + 16384 >= len(body)
                self.send(frame(DATA, END_STREAM if ends else 0, stream, piece))
        return stream

    def drain(self, seconds: float = 0.2) -> bytes:
        """Read until nothing comes for so long, or the server hangs up; return it all."""
        self.socket.settimeout(seconds)
        parts = []
        try:
            while data := self.socket.recv(65536):
                parts.append(data)
            self.alive = False
        except TimeoutError:
            pass
        except OSError:
            self.alive = False
        return b"".join(parts)
