"""SearchService: read wire, call the domain, write wire."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from lookalike.backends.errors import BatchTooLarge, ItemNotFound, LookalikeError
from lookalike.server.domain import DEFAULT_COLLECTION, Query, SearchOptions
from lookalike.server.limits import Limits
from lookalike.server.rpc.duplicates import find_duplicates
from lookalike.server.rpc.explain import explain
from lookalike.server.rpc.facets import count_values
from lookalike.server.rpc.interceptors import deadline_of
from lookalike.server.rpc.ports import Duplicates, Explainer, Facets, Recalls, Searcher
from lookalike.server.rpc.recall import measure_recall
from lookalike.server.rpc.search_streams import SearchStreams
from lookalike.server.rpc.status import in_band
from lookalike.server.rpc.wire import check_batch, read_name
from lookalike.server.rpc.wire_queries import SearchReader, write_answer
from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import search_service_pb2_grpc

_SPARE_BYTES = 64 * 2**10
"""Left free in a message for all but its hits."""


class SearchService(search_service_pb2_grpc.SearchServiceServicer):
    """Finds what is most like a picture, a text, a vector or an item."""

    def __init__(
        self,
        searcher: Searcher,
        limits: Limits,
        default_deadline_s: float,
        *,
        explainer: Explainer,
        facets: Facets,
        duplicates: Duplicates,
        recalls: Recalls,
        streams: SearchStreams,
    ) -> None:
        self._searcher = searcher
        self._explainer = explainer
        self._facets = facets
        self._duplicates = duplicates
        self._recalls = recalls
        self._streams = streams
        self._limits = limits
        self._reader = SearchReader(limits)
        self._default_deadline_s = default_deadline_s

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        """Answer one query."""
        deadline = deadline_of(context, self._default_deadline_s)
        name, query, options = self._reader.read(request)
        try:
            answer = self._searcher.search(
                name or DEFAULT_COLLECTION, query, options, deadline=deadline
            )
        except ItemNotFound as error:
            _name_item(error)
            raise
        response = write_answer(answer, options.view, pb.SearchResponse())
        self._check_size(response.ByteSize(), "limit")
        return response

    def BatchSearch(
        self, request: pb.BatchSearchRequest, context: grpc.ServicerContext
    ) -> pb.BatchSearchResponse:
        """Answer queries together; those that fail have an error in their place."""
        check_batch(len(request.queries), self._limits.max_batch_size, "queries")
        deadline = deadline_of(context, self._default_deadline_s)
        shared = read_name(request.collection, "collection")
        response = pb.BatchSearchResponse()
        good: list[tuple[int, tuple[str, Query, SearchOptions]]] = []
        for i, asked in enumerate(self._reader.read_all(request.queries)):
            result = response.results.add()
            if isinstance(asked, LookalikeError):
                result.error.CopyFrom(in_band(asked, f"queries[{i}]"))
            else:
                name, query, options = asked
                good.append((i, (name or shared, query, options)))
        self._answer(good, response, deadline)
        return response

    def StreamSearch(
        self, requests: Iterator[pb.StreamSearchRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamSearchResponse]:
        """Answer queries in turn; those that fail have an error in their place."""
        return self._streams.run(requests, context, self._answer_in_turn)

    def Explain(
        self, request: pb.ExplainRequest, context: grpc.ServicerContext
    ) -> pb.ExplainResponse:
        """Say why an item matches."""
        deadline = deadline_of(context, self._default_deadline_s)
        return explain(self._explainer, request, self._limits, deadline)

    def FindDuplicates(
        self, request: pb.FindDuplicatesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FindDuplicatesResponse]:
        """Give groups of items that show the same."""
        return find_duplicates(self._duplicates, request, self._limits, context)

    def CountValues(
        self, request: pb.CountValuesRequest, context: grpc.ServicerContext
    ) -> pb.CountValuesResponse:
        """Count the values of metadata fields."""
        response = count_values(self._facets, request, self._limits)
        self._check_size(response.ByteSize(), "limit")
        return response

    def MeasureRecall(
        self, request: pb.MeasureRecallRequest, context: grpc.ServicerContext
    ) -> pb.MeasureRecallResponse:
        """Measure how much of the truth searches find."""
        deadline = deadline_of(context, self._default_deadline_s)
        return measure_recall(self._recalls, request, self._limits, deadline, context)

    def _answer_in_turn(self, message: pb.SearchRequest, result: pb.BatchSearchResult) -> None:
        deadline = time.monotonic() + self._default_deadline_s
        try:
            name, query, options = self._reader.read(message, "search.")
            name = name or DEFAULT_COLLECTION
            answer = self._searcher.search(name, query, options, deadline=deadline)
            write_answer(answer, options.view, result.response)
            self._check_size(result.ByteSize(), "search.limit")
        except LookalikeError as error:
            if isinstance(error, ItemNotFound):
                _name_item(error)
            result.error.CopyFrom(in_band(error, "search"))

    def _answer(
        self,
        good: list[tuple[int, tuple[str, Query, SearchOptions]]],
        response: pb.BatchSearchResponse,
        deadline: float,
    ) -> None:
        """Fill in the results of the queries that could be read."""
        if not good:
            return
        answers = self._searcher.search_batch([asked for _, asked in good], deadline=deadline)
        size = 0
        for (i, (_, _, options)), answer in zip(good, answers, strict=True):
            result = response.results[i]
            try:
                if isinstance(answer, LookalikeError):
                    raise answer
                write_answer(answer, options.view, result.response)
                more = result.ByteSize()
                self._check_size(size + more, "limit")
                size += more
            except LookalikeError as error:
                if isinstance(error, ItemNotFound):
                    _name_item(error)
                result.error.CopyFrom(in_band(error, f"queries[{i}]"))

    def _check_size(self, size: int, field: str) -> None:
        most = self._limits.max_message_bytes - _SPARE_BYTES
        if size > most:
            raise BatchTooLarge(
                f"The answer would have {size} bytes; {most} is the most. Ask for fewer hits, "
                "fewer queries, or less of each item (`view`).",
                field=field,
                limit=most,
            )


def _name_item(error: ItemNotFound) -> None:
    """Let an error blame the field that a search, not a collection, names its item by."""
    if error.field == "id":
        error.field = "item_id"
