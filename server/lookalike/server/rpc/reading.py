"""Bytes that are no message of their kind: refused in words, like everything else.

gRPC answers them with INTERNAL and writes a traceback into the log for each: a stranger
could fill a disk with them, and a client would take its own fault for the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.message import DecodeError

from lookalike.backends.errors import InvalidArgument


class Unreadable:
    """Takes the place of a message that could not be read, until someone can say so."""


def reading(deserialize: Callable[[bytes], Any], otherwise: Any = None) -> Callable[[bytes], Any]:
    """Return what reads messages, and for what is none gives `otherwise`, or an Unreadable.

    Any thread.
    """

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return otherwise or Unreadable()

    return read


def check(request: Any, method: str) -> None:
    """Raise InvalidArgument for an Unreadable."""
    if type(request) is Unreadable:
        raise InvalidArgument(
            f"The bytes are no request of {method.removeprefix('/')}: not protobuf, a text that is "
            "not UTF-8, or too deeply nested. Send what a protobuf library writes."
        )


def checked(requests: Iterator[Any], method: str) -> Iterator[Any]:
    """Iterate over the messages of a stream. Raises InvalidArgument at an Unreadable."""
    for request in requests:
        check(request, method)
        yield request
