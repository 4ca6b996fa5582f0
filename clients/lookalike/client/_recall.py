"""How much of the truth a server's searches find: what is asked, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lookalike.client import _results as results
from lookalike.client import _wire as wire
from lookalike.client._calls import Call
from lookalike.client.errors import InvalidArgument
from lookalike.v1 import search_service_pb2

Source: TypeAlias = Literal["both", "stored", "recent"]
"""Which queries: vectors of stored items, vectors searched for lately, or half of each."""


@dataclass(frozen=True, slots=True)
class SelfMatch:
    """The share of stored items that find themselves, and its 95 % confidence interval."""

    rate: float
    low: float
    high: float
    query_count: int


@dataclass(frozen=True, slots=True)
class SearchTimes:
    """What searches took inside the server, one query at a time, in milliseconds."""

    mean_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class RecallReport:
    """How much of the truth searches find."""

    estimate: results.RecallEstimate | None
    """None if there was no query to ask, or no item to find."""
    self_match: SelfMatch | None
    exact: bool
    """True if all searches compared with every item, so that nothing could be missed."""
    target_recall: float
    """What the collection's searches have to find."""
    stored_query_count: int
    recent_query_count: int
    index_times: SearchTimes | None
    exact_times: SearchTimes | None
    """Of searches that compare with every item."""
    ef_search: int
    """The knobs that were asked for; 0: what the server takes by itself."""
    nprobe: int
    segments: tuple[results.IndexSegment, ...]
    """The parts of the index, with their settings in force."""
    item_count: int


def measure(
    collection: str,
    query_count: int,
    k: int,
    queries: Source,
    *,
    ef_search: int,
    nprobe: int,
    seed: int,
) -> Call[RecallReport]:
    if k < 1:
        raise InvalidArgument(f"k is {k}; it must be at least 1.", field="limit")
    v1 = search_service_pb2
    request = v1.MeasureRecallRequest(
        collection=collection,
        query_count=query_count,
        limit=k,
        seed=seed,
        queries=wire.enum_value(v1.RecallQueries, queries, "RECALL_QUERIES_", "queries"),
    )
    if ef_search or nprobe:
        request.params.ef_search, request.params.nprobe = ef_search, nprobe
    return Call("SearchService", "MeasureRecall", request, report)


def report(message: search_service_pb2.MeasureRecallResponse) -> RecallReport:
    """Read an answer."""
    match = message.self_match
    return RecallReport(
        estimate=wire.recall_estimate(message.estimate) if message.HasField("estimate") else None,
        self_match=SelfMatch(match.rate, match.low, match.high, match.query_count)
        if message.HasField("self_match")
        else None,
        exact=message.exact,
        target_recall=message.target_recall,
        stored_query_count=message.stored_query_count,
        recent_query_count=message.recent_query_count,
        index_times=_times(message, "index_times"),
        exact_times=_times(message, "exact_times"),
        ef_search=message.params.ef_search,
        nprobe=message.params.nprobe,
        segments=wire.index_segments(message.segments),
        item_count=message.item_count,
    )


def _times(message: Any, field: str) -> SearchTimes | None:
    if not message.HasField(field):
        return None
    times: search_service_pb2.SearchTimes = getattr(message, field)
    return SearchTimes(times.mean_ms, times.p99_ms, times.count)
