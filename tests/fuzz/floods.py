"""Floods: what can be thrown at a port. Each takes the port and how much of it to send."""

from __future__ import annotations

import gzip
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import MappingProxyType

from fuzz import frames as h2
from fuzz.frames import Connection, frame, header, headers, message

Flood = Callable[[int, int], None]
END = h2.END_HEADERS | h2.END_STREAM


def garbage(port: int, much: int) -> None:
    """Bytes of no protocol."""
    rng = random.Random(much)
    for _ in range(much):
        with Connection(port, preface=False) as peer:
            if rng.random() < 0.5:
                peer.send(h2.PREFACE[: rng.randrange(25)])
            peer.send(rng.randbytes(rng.choice((1, 9, 100, 20_000))))


def garbage_frames(port: int, much: int) -> None:
    """Frames of all kinds, on any stream, of any length and content."""
    rng = random.Random(much)
    for _ in range(much // 4):
        with Connection(port) as peer:
            for _ in range(30):
                body = rng.randbytes(rng.choice((0, 1, 4, 5, 8, 100)))
                length = rng.choice((None, None, None, 2**24 - 1, 0))
                stream = rng.choice((0, 1, 2, 3, 2**31 - 1, 2**32 - 1))
                peer.send(frame(rng.randrange(12), rng.randrange(256), stream, body, length))


def other_protocols(port: int, much: int) -> None:
    """A TLS hello, HTTP/1 in several forms, and what proxies send."""
    context = ssl.create_default_context()
    for i in range(max(1, much // 5)):
        with Connection(port, preface=False) as peer:
            peer.socket.settimeout(2.0)
            with suppress(OSError), context.wrap_socket(peer.socket, server_hostname="x"):
                raise AssertionError("it speaks TLS on a plain port")
        for text in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 50_000 + b"\r\n" * (i % 2),
            b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AA\r\n\r\n",
            b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + h2.PREFACE,
        ):
            with Connection(port, preface=False) as peer:
                peer.send(text)


def settings(port: int, much: int) -> None:
    """Settings without end, each of which wants an answer."""
    body = struct.pack(">HI", 4, 65535) + struct.pack(">HI", 1, 2**20)
    _pour(port, much * 20, frame(h2.SETTINGS, 0, 0, body * 6))


def pings(port: int, much: int) -> None:
    """Pings without end, whose answers nobody reads."""
    _pour(port, much * 100, frame(h2.PING, 0, 0, bytes(8)))


def empty_frames(port: int, much: int) -> None:
    """Frames that cost nothing to send, on a stream that stays open."""
    with Connection(port) as peer:
        peer.send(frame(h2.HEADERS, h2.END_HEADERS, 1, headers(h2.UPLOAD)))
        for _ in range(much):
            if not peer.send(frame(h2.DATA, 0, 1) * 50 + frame(h2.WINDOW, 0, 0, b"\0\0\0\1") * 50):
                break


def rapid_resets(port: int, much: int) -> None:
    """Calls that are taken back at once, more than the allowed number of streams."""
    block = headers(h2.SEARCH)
    for _ in range(4):
        with Connection(port) as peer:
            for _ in range(much * 10):
                stream = peer.stream()
                reset = frame(h2.RST, 0, stream, struct.pack(">I", h2.CANCEL))
                if not peer.send(frame(h2.HEADERS, END, stream, block) + reset):
                    break
                if stream % 1000 == 1:
                    peer.drain(0.001)


def streams_that_stay(port: int, much: int) -> None:
    """Calls that begin and never go on."""
    with ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(Connection(port))
            for _ in range(much):
                stream = peer.stream()
                peer.send(frame(h2.HEADERS, h2.END_HEADERS, stream, headers(h2.SEARCH)))
            peer.drain(0.05)
        time.sleep(much / 100)


def header_bombs(port: int, much: int) -> None:
    """Metadata of more than 16 KiB, in one header, in many, in what HPACK remembers."""
    big = b"v" * 4000
    bombs = [
        header("x-a", b"a" * 15_000) * 2,
        header("x-b", b"b" * 60) * 900,
        # An entry of the dynamic table, named ten thousand times: 40 MB of headers.
        b"\x40" + h2.text(b"x-c") + h2.text(big) + b"\xbe" * 10_000,
        h2.number(2**31, 5, 0x20),
        h2.number(2**62, 7, 0x80),
    ]
    for _ in range(max(1, much // 10)):
        for bomb in bombs:
            with Connection(port) as peer:
                block = headers(h2.CHECK) + bomb
                stream = peer.stream()
                first, rest = block[:16_000], block[16_000:]
                peer.send(frame(h2.HEADERS, 0 if rest else END, stream, first))
                while rest:
                    piece, rest = rest[:16_000], rest[16_000:]
                    flags = 0 if rest else h2.END_HEADERS
                    peer.send(frame(h2.CONTINUATION, flags, stream, piece))
                peer.drain(0.05)


def endless_headers(port: int, much: int) -> None:
    """Continuations that never end."""
    with Connection(port) as peer:
        peer.send(frame(h2.HEADERS, 0, 1, headers(h2.CHECK)))
        for i in range(much * 10):
            if not peer.send(frame(h2.CONTINUATION, 0, 1, header(f"x-{i}", b"c" * 1000))):
                break


def bad_calls(port: int, much: int) -> None:
    """Calls whose headers or messages are wrong."""
    blocks = [
        headers(h2.CHECK, method="GET"), headers(h2.CHECK, content_type="text/html"),
        headers(h2.CHECK, te="gzip"), headers("/"), headers(""), headers("//x/y\0"),
        headers(h2.CHECK, ("grpc-timeout", "99999999999999H")), headers("/" + "a" * 9000),
        headers(h2.CHECK, ("grpc-timeout", "-1S")), headers(h2.CHECK, ("grpc-timeout", "0n")),
        headers(h2.CHECK, ("grpc-encoding", "zstd")), headers(h2.CHECK, ("X-UPPER", "x")),
        headers(h2.CHECK, ("x", b"\xff\0\r\n")), headers(h2.CHECK, ("a-bin", "no base64!")),
        headers(h2.SEARCH, ("x-request-id", b"\x01" * 300)), headers(h2.CHECK, ("", "x")),
        headers(h2.CHECK, (":path", h2.SEARCH)), headers(h2.CHECK, ("content-length", "-1")),
    ]  # fmt: skip
    bodies = [
        (message(),), (message(b"\xff" * 9),), (message(flag=1),), (message(b"x", flag=7),),
        (message(length=2**32 - 1),), (message(b"abc", length=1),), (b"\0\0",), (), (b"",),
        (message() * 3,), (message(), message(b"\xff")),
    ]  # fmt: skip
    for _ in range(max(1, much // 25)):
        for block in blocks:
            with Connection(port) as peer:
                for body in bodies:
                    peer.call(block, *body)
                peer.drain(0.02)
        for body in bodies:
            with Connection(port) as peer:
                for path in (h2.CHECK, h2.SEARCH, h2.UPLOAD):
                    peer.call(headers(path), *body)
                peer.drain(0.05)


def gzip_bombs(port: int, much: int) -> None:
    """Small messages that unpack to 300 MB, far more than one may have."""
    bomb = gzip.compress(bytes(300 * 2**20), 9)
    for _ in range(max(1, much // 25)):
        with Connection(port) as peer:
            for _ in range(2):
                peer.call(headers(h2.SEARCH, ("grpc-encoding", "gzip")), message(bomb, flag=1))
            peer.drain(1.0)


def huge_messages(port: int, much: int) -> None:
    """Messages that say that they are huge, and some that are."""
    for length in (64 * 2**20 + 1, 2**31, 2**32 - 1):
        with Connection(port) as peer:
            peer.call(headers(h2.SEARCH), message(bytes(70_000), length=length))
            peer.drain(0.1)
    for _ in range(max(1, much // 50)):
        with ExitStack() as stack:
            for _ in range(5):  # each says 60 MiB, sends one window of it, and waits
                peer = stack.enter_context(Connection(port))
                peer.call(headers(h2.UPLOAD), message(bytes(65_000), length=60 * 2**20))
            time.sleep(0.2)


def half_open(port: int, much: int) -> None:
    """Connections that say nothing, or half of a word, all at once."""
    with ExitStack() as stack:
        for i in range(min(much * 10, 800)):
            peer = stack.enter_context(Connection(port, preface=False))
            peer.send(h2.PREFACE[: i % 24])
        time.sleep(0.5)


def connects(port: int, much: int) -> None:
    """Connections that come and go, some of them with a reset."""
    for i in range(much * 30):
        peer = socket.create_connection(("127.0.0.1", port), h2.CALL_S)
        if i % 2:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()


def _pour(port: int, count: int, data: bytes) -> None:
    with Connection(port) as peer:
        peer.socket.settimeout(2.0)
        for _ in range(max(1, count // 100)):
            if not peer.send(data * 100):
                break


ALL: Mapping[str, Flood] = MappingProxyType(
    {
        flood.__name__: flood
        for flood in (
            garbage, garbage_frames, other_protocols, settings, pings, empty_frames, rapid_resets,
            streams_that_stay, header_bombs, endless_headers, bad_calls, gzip_bombs,
            huge_messages, half_open, connects,
        )
    }
)  # fmt: skip
