"""Arguments to requests for searches, reasons, duplicates and facets; see `_calls`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from lookalike.client import _answer_wire as wire
from lookalike.client import _answers as answers
from lookalike.client._calls import Call, Condition, View, cut, view_value
from lookalike.client._pictures import Picture, picture_bytes
from lookalike.client._vectors import vector_message
from lookalike.client._wire import enum_value
from lookalike.client.errors import InvalidArgument, LookalikeError, QueryMissing
from lookalike.client.filters import compile_filter
from lookalike.v1 import search_service_pb2, types_pb2

RegionLike: TypeAlias = answers.Region | Sequence[float]
"""(left, top, width, height) in fractions of the picture, or a `Region`."""
Kind: TypeAlias = Literal["exact", "same_picture", "near"]
"""Which duplicates: the same file, the same picture, nearly the same by vectors alone."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of several things to look for at once.

    Exactly one of `image`, `text`, `like` (an id) and `vector` is needed. `weight` is how
    much it counts; a negative one pushes away.
    """

    image: Picture | None = None
    text: str | None = None
    like: str | None = None
    vector: ArrayLike | None = None
    weight: float = 1.0
    region: RegionLike | None = None
    """Only this part of the picture."""


@dataclass(frozen=True, slots=True)
class Query:
    """A search: exactly one of `image`, `text`, `like` (an id), `vector` and `parts` is needed."""

    image: Picture | None = None
    text: str | None = None
    like: str | None = None
    vector: ArrayLike | None = None
    where: Condition = None
    k: int = 10
    min_score: float | None = None
    view: View = "basic"
    exact: bool = False
    ef_search: int = 0
    nprobe: int = 0
    collection: str = ""
    parts: Sequence[Part] = ()
    region: RegionLike | None = None
    diversity: float = 0.0
    group_by: str = ""
    group_limit: int = 0
    fold_duplicates: bool = False
    max_false_match_rate: float | None = None
    judge: bool = False


# ----------------------------------------------------------------- search


def query_message(query: Query) -> search_service_pb2.SearchRequest:
    """Make the message of a search.

    Raises:
        QueryMissing: none or more than one of image, text, like, vector and parts.
        InvalidArgument: a value that no message can say.
    """
    given = [query.image, query.text, query.like, query.vector, query.parts or None]
    if sum(part is not None for part in given) != 1:
        raise QueryMissing("A search needs exactly one of image, text, like, vector and parts.")
    if query.k < 1:
        raise InvalidArgument(f"k is {query.k}; it must be at least 1.", field="limit")
    request = search_service_pb2.SearchRequest(
        collection=query.collection,
        limit=query.k,
        min_score=query.min_score,
        view=view_value(query.view),
        region=region_message(query.region),
        parts=[part_message(part, i) for i, part in enumerate(query.parts)],
        diversity=query.diversity,
        group_by=query.group_by,
        group_limit=query.group_limit,
        fold_duplicates=query.fold_duplicates,
        max_false_match_rate=_rate(query.max_false_match_rate),
        judge=query.judge,
    )
    _set_input(request, query)
    if query.where is not None:
        request.filter.CopyFrom(compile_filter(query.where))
    if query.exact or query.ef_search or query.nprobe:
        request.params.exact = query.exact
        request.params.ef_search = query.ef_search
        request.params.nprobe = query.nprobe
    return request


def part_message(part: Part, number: int = 0) -> search_service_pb2.QueryPart:
    """Make the message of one of several things to look for.

    Raises:
        QueryMissing: none or more than one of image, text, like and vector.
        InvalidArgument: a weight of 0, or a region that is none.
    """
    at = f"parts[{number}]"
    given = [part.image, part.text, part.like, part.vector]
    if sum(one is not None for one in given) != 1:
        raise QueryMissing("A part needs exactly one of image, text, like and vector.", field=at)
    with np.errstate(over="ignore"):
        weight = float(np.float32(part.weight))
    if not weight or not math.isfinite(weight):  # 0 would say 1
        raise InvalidArgument(
            f"A part's weight is {part.weight:g}; it must be a number other than 0.",
            field=f"{at}.weight",
        )
    message = search_service_pb2.QueryPart(
        weight=weight, region=region_message(part.region, f"{at}.region")
    )
    _set_input(message, part)
    return message


def region_message(region: RegionLike | None, field: str = "region") -> types_pb2.Region | None:
    """Make the message of a box; None for the whole picture.

    Raises:
        InvalidArgument: not four numbers, or a box without any area.
    """
    if region is None:
        return None
    try:
        left, top, width, height = map(float, region)
    except (TypeError, ValueError):
        raise InvalidArgument(
            f"A region is (left, top, width, height) in fractions of the picture, not {region!r}.",
            field=field,
        ) from None
    if not (width > 0 and height > 0):  # all zeros would say "the whole picture"
        raise InvalidArgument(
            f"A region has a width and a height above 0, not {width:g} x {height:g}.", field=field
        )
    return types_pb2.Region(left=left, top=top, width=width, height=height)


def _rate(rate: float | None) -> float:
    if rate is None:
        return 0.0
    if not 0 < rate < 1:  # 0 would say "any"
        raise InvalidArgument(
            f"max_false_match_rate is above 0 and below 1, 0.01 for one in a hundred; not {rate:g}.",
            field="max_false_match_rate",
        )
    return rate


def _set_input(message: Any, given: Query | Part) -> None:
    if given.image is not None:
        message.image.data = picture_bytes(given.image)
    elif given.text is not None:
        message.text = given.text
    elif given.like is not None:
        message.item_id = given.like
    elif given.vector is not None:
        message.vector.CopyFrom(vector_message(given.vector))


def search(query: Query) -> Call[answers.SearchResult]:
    return Call("SearchService", "Search", query_message(query), wire.search_result)


def search_batch(
    queries: Sequence[Query], collection: str
) -> Iterator[Call[tuple[answers.SearchResult | LookalikeError, ...]]]:
    """Give the calls for any number of queries, cut by count and bytes."""
    for batch in cut(map(query_message, queries)):
        request = search_service_pb2.BatchSearchRequest(collection=collection, queries=batch)
        yield Call("SearchService", "BatchSearch", request, wire.batch_results)


def search_stream(
    queries: Iterable[Query], collection: str
) -> Call[search_service_pb2.StreamSearchResponse]:
    """Give the call for queries that are read as they are sent."""

    def requests() -> Iterator[search_service_pb2.StreamSearchRequest]:
        for query in queries:
            search = query_message(query)
            search.collection = search.collection or collection
            yield search_service_pb2.StreamSearchRequest(search=search)

    return Call("SearchService", "StreamSearch", requests(), lambda answer: answer)


# ------------------------------------------- reasons, duplicates, facets


def explain(
    item_id: str,
    image: Picture | None,
    like: str | None,
    text: str | None,
    region: RegionLike | None,
    collection: str,
) -> Call[answers.Explanation]:
    if sum(one is not None for one in (image, like, text)) != 1:
        raise QueryMissing("Say what the item is compared with: one of image, like and text.")
    request = search_service_pb2.ExplainRequest(
        collection=collection, item_id=item_id, region=region_message(region)
    )
    if image is not None:
        request.image.data = picture_bytes(image)
    elif text is not None:
        request.text = text
    else:
        request.query_item_id = like or ""
    return Call("SearchService", "Explain", request, wire.explanation)


def find_duplicates(
    kind: Kind, where: Condition, collection: str
) -> Call[search_service_pb2.FindDuplicatesResponse]:
    request = search_service_pb2.FindDuplicatesRequest(
        collection=collection,
        kind=enum_value(search_service_pb2.DuplicateKind, kind, "DUPLICATE_KIND_", "kind"),
        filter=compile_filter(where) if where is not None else None,
    )
    return Call("SearchService", "FindDuplicates", request, lambda answer: answer)


def count_values(
    fields: Sequence[str], where: Condition, limit: int, collection: str
) -> Call[tuple[answers.FieldCounts, ...]]:
    if isinstance(fields, str):
        raise TypeError("count_values takes a list of fields.")
    request = search_service_pb2.CountValuesRequest(
        collection=collection,
        fields=fields,
        filter=compile_filter(where) if where is not None else None,
        limit=limit,
    )
    return Call("SearchService", "CountValues", request, wire.field_counts)
