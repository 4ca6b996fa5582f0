"""SearchService: read wire, call the domain, write wire."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from lookalike.backends.errors import BatchTooLarge, ItemNotFound, LookalikeError
from lookalike.server.domain import Query, SearchOptions
from lookalike.server.limits import Limits
from lookalike.server.rpc.duplicates import find_duplicates
from lookalike.server.rpc.explain import explain
from lookalike.server.rpc.facets import count_values
from lookalike.server.rpc.interceptors import deadline_of
from lookalike.server.rpc.ports import Duplicates, Explainer, Facets, Searcher
from lookalike.server.rpc.search_streams import SearchStreams
from lookalike.server.rpc.status import in_band
from lookalike.server.rpc.wire import check_batch, read_name
from lookalike.server.rpc.wire_queries import read_search, write_answer
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
        streams: SearchStreams,
    ) -> None:
        self._searcher = searcher
        self._explainer = explainer
        self._facets = facets
        self._duplicates = duplicates
        self._streams = streams
        self._limits = limits
        self._default_deadline_s = default_deadline_s

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        """Answer one query."""
        deadline = deadline_of(context, self._default_deadline_s)
        collection = read_name(request.collection, "collection")
        query, options = read_search(request, self._limits)
        try:
            answer = self._searcher.search(collection, query, options, deadline=deadline)
        except ItemNotFound as error:
            _name_item(error)
            raise
        response = write_answer(answer, options.view)
        self._check_size(response.ByteSize(), "limit")
        return response

    def BatchSearch(
        self, request: pb.BatchSearchRequest, context: grpc.ServicerContext
    ) -> pb.BatchSearchResponse:
        """Answer queries together; those that fail have an error in their place."""
        check_batch(len(request.queries), self._limits.max_batch_size, "queries")
        deadline = deadline_of(context, self._default_deadline_s)
        shared = read_name(request.collection, "collection")
        results: list[pb.BatchSearchResult] = []
        good: list[tuple[int, tuple[str, Query, SearchOptions]]] = []
        for i, message in enumerate(request.queries):
            results.append(pb.BatchSearchResult())
            at = f"queries[{i}]"
            try:
                name = read_name(message.collection, f"{at}.collection")
                query, options = read_search(message, self._limits, f"{at}.")
            except LookalikeError as error:
                results[i].error.CopyFrom(in_band(error, at))
            else:
                good.append((i, (name if message.collection else shared, query, options)))
        self._answer(good, results, deadline)
        return pb.BatchSearchResponse(results=results)

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

    def _answer_in_turn(self, message: pb.SearchRequest) -> pb.BatchSearchResult:
        deadline = time.monotonic() + self._default_deadline_s
        try:
            collection = read_name(message.collection, "search.collection")
            query, options = read_search(message, self._limits, "search.")
            answer = self._searcher.search(collection, query, options, deadline=deadline)
            response = write_answer(answer, options.view)
            self._check_size(response.ByteSize(), "search.limit")
        except LookalikeError as error:
            if isinstance(error, ItemNotFound):
                _name_item(error)
            return pb.BatchSearchResult(error=in_band(error, "search"))
        return pb.BatchSearchResult(response=response)

    def _answer(
        self,
        good: list[tuple[int, tuple[str, Query, SearchOptions]]],
        results: list[pb.BatchSearchResult],
        deadline: float,
    ) -> None:
        """Fill in the results of the queries that could be read."""
        if not good:
            return
        answers = self._searcher.search_batch([asked for _, asked in good], deadline=deadline)
        size = 0
        for (i, (_, _, options)), answer in zip(good, answers, strict=True):
            try:
                if isinstance(answer, LookalikeError):
                    raise answer
                response = write_answer(answer, options.view)
                self._check_size(size + response.ByteSize(), "limit")
                size += response.ByteSize()
                results[i].response.CopyFrom(response)
            except ItemNotFound as error:
                _name_item(error)
                results[i].error.CopyFrom(in_band(error, f"queries[{i}]"))
            except LookalikeError as error:
                results[i].error.CopyFrom(in_band(error, f"queries[{i}]"))

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
