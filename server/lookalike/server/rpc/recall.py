"""MeasureRecall: how much of the truth searches find."""

from __future__ import annotations

import time

import grpc

from lookalike.backends.errors import Cancelled, DeadlineExceeded, InvalidArgument
from lookalike.backends.recall import Estimate
from lookalike.backends.types import SearchParams
from lookalike.server.limits import Limits
from lookalike.server.recall import RecallOptions, Source, Times
from lookalike.server.rpc.ports import Recalls
from lookalike.server.rpc.wire import read_count, read_name
from lookalike.server.rpc.wire_collections import write_recall, write_segment
from lookalike.v1 import search_service_pb2 as pb

_MOST_QUERIES = 10_000
_DEFAULTS = RecallOptions()
_SOURCES = {
    pb.RECALL_QUERIES_UNSPECIFIED: Source.BOTH,
    pb.RECALL_QUERIES_BOTH: Source.BOTH,
    pb.RECALL_QUERIES_STORED: Source.STORED,
    pb.RECALL_QUERIES_RECENT: Source.RECENT,
}


def measure_recall(
    recalls: Recalls,
    request: pb.MeasureRecallRequest,
    limits: Limits,
    deadline: float,
    context: grpc.ServicerContext,
) -> pb.MeasureRecallResponse:
    """Measure what a request asks for, until the deadline or until the caller is gone.

    Raises InvalidArgument, CollectionNotFound, CollectionLoading, Overloaded,
    DeadlineExceeded, Cancelled.
    """

    def check() -> None:
        if not context.is_active():
            raise Cancelled("The caller has gone; nothing more is measured.")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                "Recall was not measured in time. Ask fewer queries, or allow more time."
            )

    name = read_name(request.collection, "collection")
    options = _read_options(request, limits)
    found = recalls.measure(name, options, check)
    return pb.MeasureRecallResponse(
        estimate=None if found.recall is None else write_recall(found.recall),
        self_match=_write_self_match(found.self_match),
        exact=found.exact,
        target_recall=found.target,
        stored_query_count=found.stored,
        recent_query_count=found.recent,
        index_times=_write_times(found.index_times),
        exact_times=_write_times(found.exact_times),
        params=pb.SearchParams(
            exact=found.params.exact,
            ef_search=found.params.ef_search,
            nprobe=found.params.nprobe,
        ),
        segments=[write_segment(segment) for segment in found.segments],
        item_count=found.item_count,
    )


def _read_options(request: pb.MeasureRecallRequest, limits: Limits) -> RecallOptions:
    if (source := _SOURCES.get(request.queries)) is None:
        raise InvalidArgument(f"{request.queries} is no kind of queries.", field="queries")
    params = request.params
    return RecallOptions(
        count=_read_size(request.query_count, _MOST_QUERIES, "query_count") or _DEFAULTS.count,
        limit=_read_size(request.limit, limits.max_search_limit, "limit") or _DEFAULTS.limit,
        params=SearchParams(
            exact=params.exact,
            ef_search=read_count(params.ef_search, "params.ef_search"),
            nprobe=read_count(params.nprobe, "params.nprobe"),
        ),
        seed=request.seed,
        source=source,
    )


def _read_size(value: int, most: int, field: str) -> int:
    if read_count(value, field) > most:
        raise InvalidArgument(f"{field} is {value}; {most} is the most.", field=field, limit=most)
    return value


def _write_self_match(found: Estimate | None) -> pb.SelfMatch | None:
    if found is None:
        return None
    return pb.SelfMatch(rate=found.value, low=found.low, high=found.high, query_count=found.count)


def _write_times(times: Times | None) -> pb.SearchTimes | None:
    if times is None:
        return None
    return pb.SearchTimes(mean_ms=times.mean_ms, p99_ms=times.p99_ms, count=times.count)
