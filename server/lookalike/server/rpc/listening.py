"""The sockets that this process listens on, where a second process takes the address over.

gRPC binds an address alone, so that no two servers share its calls by accident, and cannot
be given a socket. So who leaves allows others of the same user at its address only when it
is asked for its place, and who comes binds a socket of its own there. The kernel would then
spread connections over both; a filter (classic BPF, no rights needed) gives all new ones
to the one who came, so that none is in a queue that is closed. Linux only.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_log = logging.getLogger(__name__)

_SO_ATTACH_REUSEPORT_CBPF = 51
_RETURN = 0x06
"""BPF_RET | BPF_K: the filter's one instruction, which returns a number."""
_SECOND = 1
"""The one who leaves was there first and is 0. Once it has gone, the kernel finds no
second one and passes over the filter."""


def share(port: int) -> int:
    """Let other processes of this user bind the port as well; return how many sockets it has."""
    with _listening(port) as found:
        for one in found:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return len(found)


def take_all(port: int) -> None:
    """Have new connections to the port given to this process, which was second to listen.

    Where the kernel cannot, each process gets a part of them, and those in the queue of
    the one who leaves are cut off.
    """
    program = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, _SECOND))
    given = struct.pack("HL", 1, ctypes.addressof(program))
    with _listening(port) as found:
        for one in found:
            try:
                one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, given)
            except OSError as error:
                _log.warning("new connections are shared for a moment: %s", error.strerror)


@contextmanager
def _listening(port: int) -> Iterator[list[socket.socket]]:
    """Give the TCP sockets of this process that listen on a port; gRPC shows none of its own."""
    found: list[socket.socket] = []
    try:
        for number in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                # A copy of anything else, the lock of the data folder say, would keep it.
                if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):
                    continue
                one = _copy(int(number))
                if _listens(one, port):
                    found.append(one)
                else:
                    one.close()
        yield found
    finally:
        for one in found:
            one.close()


def _copy(number: int) -> socket.socket:
    copied = os.dup(number)
    try:
        return socket.socket(fileno=copied)
    except OSError:
        os.close(copied)
        raise


def _listens(one: socket.socket, port: int) -> bool:
    try:
        return (
            one.family in (socket.AF_INET, socket.AF_INET6)
            and one.type == socket.SOCK_STREAM
            and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            and one.getsockname()[1] == port
        )
    except OSError:
        return False
