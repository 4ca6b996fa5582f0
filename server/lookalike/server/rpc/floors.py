"""Libraries too old to be let near strangers, looked at when the server starts.

What installs the server sees to the same floors; this is for what came there in
another way: an older package of the system, an environment that was changed later.
SQLite's own floor is the store's, which looks at the library that is really loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Final, NamedTuple

from google.protobuf.internal import api_implementation

from lookalike.backends.errors import FailedPrecondition


class Floor(NamedTuple):
    """The oldest version that will do, and what is wrong with those before it."""

    oldest: str
    why: str


FLOORS: Final[Mapping[str, Floor]] = MappingProxyType(
    {
        "apsw": Floor("3.51.3", "the SQLite in it can lose commits"),
        "grpcio": Floor("1.76", "the API's code was generated for it"),
        "pillow": Floor("12.3", "pictures of strangers can harm it"),
        "protobuf": Floor("6.33.5", "nested JSON gets around its limit of depth"),
    }
)


def check() -> None:
    """Raise FailedPrecondition for a library that is too old, or too slow to be safe."""
    for name, floor in FLOORS.items():
        found = installed(name)
        if found is not None and _numbers(found) < _numbers(floor.oldest):
            raise FailedPrecondition(
                f"{name} {found} is too old: {floor.why}. Install {name} {floor.oldest} or later.",
                library=name,
            )
    if api_implementation.Type() == "python":
        raise FailedPrecondition(
            "protobuf runs without its compiled part (upb), which is many times slower, so that "
            "a single message could hold up the server. Unset "
            "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install a protobuf with binaries for "
            "this machine.",
            library="protobuf",
        )


def installed(name: str) -> str | None:
    """Return the version of an installed package; None where nothing says so."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """Return "12.3" as (12, 3); what follows the numbers does not count."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
