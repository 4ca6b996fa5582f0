"""Queries, answers, embedding inputs and models between the wire and the domain."""

from __future__ import annotations

import math

import numpy as np

from lookalike.backends.errors import InvalidArgument, QueryMissing
from lookalike.backends.types import SearchParams, normalize
from lookalike.server.domain import (
    Answer,
    Embedded,
    ImageQuery,
    ItemQuery,
    ModelInfo,
    Query,
    SearchOptions,
    TextQuery,
    VectorQuery,
    View,
)
from lookalike.server.limits import Limits, check_id
from lookalike.server.rpc.wire import VIEWS, read_count, read_enum
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.server.rpc.wire_items import read_image, write_item
from lookalike.server.rpc.wire_vectors import read_vector, write_vector
from lookalike.v1 import embed_service_pb2, search_service_pb2

_DEFAULT_LIMIT = 10
_MODALITIES = {
    "text": embed_service_pb2.MODALITY_TEXT,
    "image": embed_service_pb2.MODALITY_IMAGE,
}


def read_search(
    message: search_service_pb2.SearchRequest, limits: Limits, at: str = ""
) -> tuple[Query, SearchOptions]:
    """Return what to look for and how; `at` is "" or "queries[3]." with its dot.

    Raises QueryMissing, FilterInvalid, InvalidArgument and its children.
    """
    options = SearchOptions(
        limit=_read_limit(message.limit, limits, f"{at}limit"),
        filter=read_filter(message.filter, limits, f"{at}filter"),
        min_score=_read_min_score(message, f"{at}min_score"),
        view=read_enum(message.view, VIEWS, f"{at}view"),
        params=SearchParams(
            exact=message.params.exact,
            ef_search=read_count(message.params.ef_search, f"{at}params.ef_search"),
            nprobe=read_count(message.params.nprobe, f"{at}params.nprobe"),
        ),
    )
    return _read_query(message, limits, at), options


def _read_query(message: search_service_pb2.SearchRequest, limits: Limits, at: str) -> Query:
    match message.WhichOneof("query"):
        case "text":
            return TextQuery(read_text(message.text, limits, f"{at}text"))
        case "image":
            return ImageQuery(read_image(message.image, limits, f"{at}image"))
        case "item_id":
            check_id(message.item_id, limits, f"{at}item_id")
            return ItemQuery(message.item_id)
        case "vector":
            return VectorQuery(read_vector(message.vector, limits, f"{at}vector"))
    raise QueryMissing(
        "The search has no query; set one of text, image, item_id, vector.",
        field=at.removesuffix("."),
    )


def read_text(text: str, limits: Limits, field: str) -> str:
    """Return a text of 1 to max_text_chars characters. Raises InvalidArgument."""
    if not 1 <= len(text) <= limits.max_text_chars:
        raise InvalidArgument(
            f"A text has 1 to {limits.max_text_chars} characters, this one {len(text)}.",
            field=field,
            limit=limits.max_text_chars,
        )
    return text


def _read_limit(value: int, limits: Limits, field: str) -> int:
    if not 0 <= value <= limits.max_search_limit:
        raise InvalidArgument(
            f"limit is 1 to {limits.max_search_limit}, or 0 for {_DEFAULT_LIMIT}; not {value}.",
            field=field,
            limit=limits.max_search_limit,
        )
    return value or min(_DEFAULT_LIMIT, limits.max_search_limit)


def _read_min_score(message: search_service_pb2.SearchRequest, field: str) -> float | None:
    if not message.HasField("min_score"):
        return None
    if not math.isfinite(message.min_score):
        raise InvalidArgument("min_score must be a finite number.", field=field)
    return message.min_score


def write_answer(answer: Answer, view: View) -> search_service_pb2.SearchResponse:
    """Return the answer to one query."""
    return search_service_pb2.SearchResponse(
        hits=[
            search_service_pb2.SearchHit(score=match.score, item=write_item(match.item, view))
            for match in answer.matches
        ],
        info=search_service_pb2.SearchInfo(
            exact=answer.exact,
            matched_count=answer.matched_count,
            truncated=answer.truncated,
            embed_ms=answer.embed_ms,
            index_ms=answer.index_ms,
            total_ms=answer.total_ms,
        ),
    )


def read_input(message: embed_service_pb2.EmbedInput, limits: Limits, at: str) -> str | bytes:
    """Return a text, or the bytes of an image file. Raises InvalidArgument and children."""
    match message.WhichOneof("input"):
        case "text":
            return read_text(message.text, limits, f"{at}.text")
        case "image":
            return read_image(message.image, limits, f"{at}.image")
    raise InvalidArgument("The input is empty; set text or image.", field=at)


def write_embedded(embedded: Embedded, unnormalized: bool) -> embed_service_pb2.EmbedResult:
    """Return one input's vector, scaled to length 1 unless `unnormalized`."""
    vector = embedded.vector
    if not unnormalized:
        vector = normalize(np.asarray(vector, np.float32)[np.newaxis])[0]
    return embed_service_pb2.EmbedResult(vector=write_vector(vector), truncated=embedded.truncated)


def write_model(info: ModelInfo) -> embed_service_pb2.Model:
    """Return a model as its users see it."""
    return embed_service_pb2.Model(
        name=info.name,
        dimension=info.dimension,
        modalities=[_MODALITIES[name] for name in info.modalities if name in _MODALITIES],
        fingerprint=info.space,
        is_default=info.is_default,
        loaded=info.loaded,
        device=info.device,
    )
