"""What of the found to show: the options of a search from the wire.

Only fields that are set are looked at: most searches set two or three of fifteen. And
options that came lately are not read again, for callers ask in the same way over and over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from lookalike.backends.errors import InvalidArgument
from lookalike.backends.types import SearchParams
from lookalike.server.domain import SearchOptions
from lookalike.server.limits import Limits
from lookalike.server.rpc.wire import VIEWS, read_count, read_enum, read_name
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import types_pb2

_DEFAULT_LIMIT: Final = 10

_MOST_KNOWN: Final = 256
_MOST_KNOWN_BYTES: Final = 1024
"""Options of more bytes have long filters, which seldom come twice."""

_Reader: TypeAlias = Callable[[Any, pb.SearchRequest, Limits, str], object]


class KnownOptions:
    """The options of searches by vector, by the bytes of all but the vector. Any thread.

    Reading options takes 12 us (512 numbers and 10 hits: a third of all that is done for a
    query beyond gRPC and the index), knowing them 2.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, tuple[str, SearchOptions]] = {}

    def read(self, message: pb.SearchRequest, at: str) -> tuple[str, SearchOptions]:
        """Return the collection, "" if none is named, and the options; `at` as below.

        `message` is without its query. Raises FilterInvalid, InvalidArgument.
        """
        key = message.SerializeToString()
        if (known := self._known.get(key)) is None:
            name = message.collection and read_name(message.collection, f"{at}collection")
            known = name, read_options(message, self._limits, at)
            if len(key) <= _MOST_KNOWN_BYTES:
                if len(self._known) >= _MOST_KNOWN:
                    self._known = {}
                self._known[key] = known
        return known


def read_options(message: pb.SearchRequest, limits: Limits, at: str) -> SearchOptions:
    """Return the options; `at` is "" or "queries[3]." with its dot.

    Raises FilterInvalid, InvalidArgument.
    """
    found: dict[str, Any] = {"limit": min(_DEFAULT_LIMIT, limits.max_search_limit)}
    for field, value in message.ListFields():
        if read := _READERS.get(field.name):
            found[field.name] = read(value, message, limits, f"{at}{field.name}")
    return SearchOptions(**found)


def _limit(value: int, message: pb.SearchRequest, limits: Limits, field: str) -> int:
    if not 1 <= value <= limits.max_search_limit:
        raise InvalidArgument(
            f"limit is 1 to {limits.max_search_limit}, or 0 for {_DEFAULT_LIMIT}; not {value}.",
            field=field,
            limit=limits.max_search_limit,
        )
    return value


def _filter(value: types_pb2.Filter, _: pb.SearchRequest, limits: Limits, field: str) -> object:
    return read_filter(value, limits, field)


def _min_score(value: float, _: pb.SearchRequest, limits: Limits, field: str) -> float:
    if not math.isfinite(value):
        raise InvalidArgument("min_score must be a finite number.", field=field)
    return value


def _view(value: int, _: pb.SearchRequest, limits: Limits, field: str) -> object:
    return read_enum(value, VIEWS, field)


def _params(value: pb.SearchParams, _: pb.SearchRequest, limits: Limits, field: str) -> object:
    return SearchParams(
        exact=value.exact,
        ef_search=read_count(value.ef_search, f"{field}.ef_search"),
        nprobe=read_count(value.nprobe, f"{field}.nprobe"),
    )


def _diversity(value: float, _: pb.SearchRequest, limits: Limits, field: str) -> float:
    if not 0 <= value <= 1:
        raise InvalidArgument(f"diversity is 0 to 1, not {value:g}.", field=field)
    return value


def _group_by(name: str, _: pb.SearchRequest, limits: Limits, field: str) -> str:
    if name.startswith("@") or "\0" in name or len(name.encode()) > limits.max_metadata_bytes:
        raise InvalidArgument(
            f"group_by names a metadata field, or a dotted path; {name[:80]!r} is none.",
            field=field,
        )
    return name


def _group_limit(value: int, message: pb.SearchRequest, limits: Limits, field: str) -> int:
    if not 1 <= value <= limits.max_search_limit:
        raise InvalidArgument(
            f"group_limit is 1 to {limits.max_search_limit}, or 0 for 1; not {value}.",
            field=field,
            limit=limits.max_search_limit,
        )
    if not message.group_by:
        raise InvalidArgument("group_limit needs group_by: the field to group by.", field=field)
    return value


def _rate(value: float, message: pb.SearchRequest, limits: Limits, field: str) -> float:
    if not 0 < value < 1:
        raise InvalidArgument(
            f"max_false_match_rate is above 0 and below 1, or 0 for none; not {value:g}.",
            field=field,
        )
    if message.HasField("min_score"):
        raise InvalidArgument(
            "max_false_match_rate takes the place of min_score; set one of the two.", field=field
        )
    return value


def _flag(value: bool, _: pb.SearchRequest, limits: Limits, field: str) -> bool:
    return value


_READERS: Final[dict[str, _Reader]] = {
    "limit": _limit,
    "filter": _filter,
    "min_score": _min_score,
    "view": _view,
    "params": _params,
    "diversity": _diversity,
    "group_by": _group_by,
    "group_limit": _group_limit,
    "fold_duplicates": _flag,
    "max_false_match_rate": _rate,
    "judge": _flag,
}
