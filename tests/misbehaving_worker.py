"""A decoding process that does harm when a picture of a certain width comes.

Started by `Workers(module="misbehaving_worker")` in place of the real one, which it is but
for that; so whatever a library's defect could do to the real one can be watched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lookalike.backends.types import RgbImage
from lookalike.server.images import _decode, _wire, header, worker

Room = Callable[[tuple[int, int, int]], RgbImage]

CRASH, LOOP, SLEEP, GRAB, CHATTER, VANISH, LIE, KILLED, LEAK, PEEK = range(701, 711)
"""Widths, in pixels, and what happens at them."""

_leak: list[bytearray] = []


def _crash() -> None:
    ctypes.string_at(0)


def _loop() -> None:
    while True:
        pass


def _sleep() -> None:
    time.sleep(3600)


def _grab() -> None:
    _leak.append(bytearray(4 * 2**30))


def _chatter() -> None:
    for _ in range(2000):
        with contextlib.suppress(BlockingIOError):  # as the libraries do, which look at no error
            os.write(2, b"TIFFReadDirectory: a line that nobody wants, of many \xff\x00" * 20)


def _vanish() -> None:
    os._exit(0)


def _lie() -> None:
    """Say that the picture became a very large one."""
    reply = _wire.write_reply(_wire.Outcome.DECODED, 10**6, 10**6, 10**6, 10**6)
    socket.socket(fileno=int(sys.argv[1])).send(reply)
    time.sleep(3600)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _add_a_leak() -> None:
    _leak.append(bytearray(b"x" * (40 * 2**20)))


def _peek() -> None:
    """Try what the process may not do; give up only if nothing of it worked."""
    done = []
    for name, deed in DEEDS.items():
        try:
            deed()
            done.append(name)
        except (OSError, MemoryError):
            pass
    if done:
        os.write(2, ("could: " + ", ".join(done)).encode())
        os._exit(3)


def _connect() -> None:
    with socket.socket() as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", 9))


def _own_libc(call: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), call)


def _datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", 9))


def _pair() -> None:
    for sock in socket.socketpair():
        sock.close()


def _io_uring() -> None:
    _own_libc("syscall", 425, 1, 0)


def _read_memory() -> None:
    _own_libc("ptrace", 16, os.getppid(), 0, 0)


def _thread() -> None:
    try:
        threading.Thread(target=lambda: None).start()
    except RuntimeError as error:
        raise OSError from error


def _give_away() -> None:
    with socket.socket(fileno=os.dup(int(sys.argv[1]))) as control:
        socket.send_fds(control, [b""], [0])


def _write_shared() -> None:
    os.ftruncate(int(sys.argv[2]), 2**40)


DEEDS: dict[str, Callable[[], object]] = {
    "read a file": lambda: Path("/etc/hostname").read_bytes(),
    "list a folder": lambda: os.listdir("/"),
    "write a file": lambda: Path("/tmp/decoded").write_bytes(b"x"),
    "connect": _connect,
    "signal the server": lambda: os.kill(os.getppid(), 0),
    "send a datagram": _datagram,
    "make a Unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "make a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "make a pair of sockets": _pair,
    "make an io_uring": _io_uring,
    "look into the server": _read_memory,
    "have a child": lambda: os._exit(0) if os.fork() == 0 else None,
    "have a thread": _thread,
    "hand a file over": _give_away,
    "run a program": lambda: os.execv("/bin/true", ["/bin/true"]),
    "grow the shared memory": _write_shared,
    "take memory": lambda: bytearray(3 * 2**30),
}

_HARM = {
    CRASH: _crash,
    LOOP: _loop,
    SLEEP: _sleep,
    GRAB: _grab,
    CHATTER: _chatter,
    VANISH: _vanish,
    LIE: _lie,
    KILLED: _killed,
    LEAK: _add_a_leak,
    PEEK: _peek,
}


def _decode_harmfully(head: header.Header, side: int, room: Room) -> _decode.Decoded:
    if harm := _HARM.get(head.width):
        harm()
    return _real(head, side, room)


_real = _decode._decode

if __name__ == "__main__":
    _decode._decode = _decode_harmfully
    worker.main(sys.argv[1:])
