"""Slow peers, by raw sockets: streams that nobody reads, uploads of a byte a second, idle ones.

    python bench/_overload_peers.py ADDRESS STREAMS UPLOADS IDLE SECONDS

They come from 127.0.0.2, so that they are another caller than those who measure. Prints
"ready", and at the end how many the server had ended.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_SETTINGS_ACK = b"\0\0\0\4\1\0\0\0\0"
_END_HEADERS, _END_STREAM = 4, 1
EXPORT = "/lookalike.v1.IndexService/ExportItems"
UPLOAD = "/lookalike.v1.IndexService/UploadItems"


def connect(address: str) -> socket.socket:
    """Open an HTTP/2 connection that takes little at a time."""
    host, port = address.rsplit(":", 1)
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.bind(("127.0.0.2", 0))
    one.connect((host, int(port)))
    one.sendall(_PREFACE + _SETTINGS + _SETTINGS_ACK)
    return one


def headers(path: str, flags: int = 0) -> bytes:
    """Return a HEADERS frame of stream 1 that begins a call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "slow",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(1, block, flags | _END_HEADERS)


def frame(kind: int, data: bytes, flags: int = 0) -> bytes:
    """Return a frame of stream 1."""
    return struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", 1) + data


def message(data: bytes) -> bytes:
    """Return a gRPC message."""
    return b"\0" + struct.pack(">I", len(data)) + data


def main() -> None:
    address = sys.argv[1]
    streams, uploads, idle, seconds = (int(value) for value in sys.argv[2:6])
    reading_nothing = [connect(address) for _ in range(streams)]
    for one in reading_nothing:
        asked = frame(0, message(b"\n\5bench"), _END_STREAM)  # collection = 1: "bench"
        one.sendall(headers(EXPORT) + asked)
    trickling = [connect(address) for _ in range(uploads)]
    for one in trickling:
        one.sendall(headers(UPLOAD) + frame(0, b"\0" + struct.pack(">I", 2**20)))
    silent = [connect(address) for _ in range(idle)]
    print("ready", flush=True)
    end = time.monotonic() + seconds
    ended = 0
    while time.monotonic() < end:
        for one in trickling:
            with contextlib.suppress(OSError):
                one.sendall(frame(0, b"\n"))
        time.sleep(1.0)
    for one in (*trickling, *silent, *reading_nothing):
        with contextlib.suppress(OSError):
            ended += _is_over(one)
    print(f"ended {ended}", flush=True)


def _is_over(one: socket.socket) -> bool:
    """Read what has come; a RST_STREAM, trailers with END_STREAM or a GOAWAY is an end."""
    one.setblocking(False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := one.recv(65536):
            data += piece
        return True
    while len(data) >= 9:
        size, kind, flags = int.from_bytes(data[:3]), data[3], data[4]
        if kind in (3, 7) or (kind in (0, 1) and flags & _END_STREAM):
            return True
        data = data[9 + size :]
    return False


if __name__ == "__main__":
    main()
