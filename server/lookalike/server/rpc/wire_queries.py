"""Queries, answers, embedding inputs and models between the wire and the domain."""

from __future__ import annotations

import math

import numpy as np

from lookalike.backends.errors import InvalidArgument, QueryMissing
from lookalike.backends.types import normalize
from lookalike.server.domain import (
    Answer,
    Embedded,
    ImageQuery,
    Input,
    ItemQuery,
    Match,
    MixedQuery,
    ModelInfo,
    Part,
    Query,
    Region,
    SearchOptions,
    TextQuery,
    Tier,
    VectorQuery,
    View,
)
from lookalike.server.limits import Limits, check_id
from lookalike.server.rpc.wire_items import read_image, write_item
from lookalike.server.rpc.wire_options import read_options
from lookalike.server.rpc.wire_vectors import read_vector, write_vector
from lookalike.v1 import embed_service_pb2, search_service_pb2, types_pb2

_MOST_DUPLICATE_IDS = 100
_ROUNDING = 1e-6
"""By which float32 fractions may exceed 1 when they are added."""
_MODALITIES = {
    "text": embed_service_pb2.MODALITY_TEXT,
    "image": embed_service_pb2.MODALITY_IMAGE,
}
TIERS = {
    None: search_service_pb2.MATCH_TIER_UNSPECIFIED,
    Tier.SAME_PICTURE: search_service_pb2.MATCH_TIER_SAME_PICTURE,
    Tier.SAME_SCENE: search_service_pb2.MATCH_TIER_SAME_SCENE,
    Tier.SIMILAR: search_service_pb2.MATCH_TIER_SIMILAR,
    Tier.WEAK: search_service_pb2.MATCH_TIER_WEAK,
}


def read_search(
    message: search_service_pb2.SearchRequest, limits: Limits, at: str = ""
) -> tuple[Query, SearchOptions]:
    """Return what to look for and how; `at` is "" or "queries[3]." with its dot.

    Raises QueryMissing, FilterInvalid, InvalidArgument and its children.
    """
    options = read_options(message, limits, at)
    return _read_query(message, limits, at), options


def _read_query(message: search_service_pb2.SearchRequest, limits: Limits, at: str) -> Query:
    if not message.parts:
        return _read_input(message, message.WhichOneof("query"), limits, at)
    if message.WhichOneof("query") is not None:
        raise InvalidArgument(
            "The search has a query and parts; make the query one of the parts.",
            field=f"{at}parts",
        )
    if read_region(message.region, f"{at}region") is not None:
        raise InvalidArgument(
            "A search of parts has no region of its own; give each part its region.",
            field=f"{at}region",
        )
    if len(message.parts) > limits.max_query_parts:
        raise InvalidArgument(
            f"The search has {len(message.parts)} parts; {limits.max_query_parts} is the most.",
            field=f"{at}parts",
            limit=limits.max_query_parts,
        )
    return MixedQuery(
        tuple(_read_part(part, limits, f"{at}parts[{i}].") for i, part in enumerate(message.parts))
    )


def _read_part(message: search_service_pb2.QueryPart, limits: Limits, at: str) -> Part:
    if not math.isfinite(message.weight):
        raise InvalidArgument("A weight must be a finite number.", field=f"{at}weight")
    found = _read_input(message, message.WhichOneof("input"), limits, at)
    return Part(found, message.weight or 1.0)


def _read_input(
    message: search_service_pb2.SearchRequest | search_service_pb2.QueryPart,
    kind: str | None,
    limits: Limits,
    at: str,
) -> Input:
    """Return the one thing that `message` looks for, which is its field `kind`."""
    region = None
    if message.HasField("region"):
        region = read_region(message.region, f"{at}region")
    match kind:
        case "image":
            return ImageQuery(read_image(message.image, limits, f"{at}image"), region)
        case "item_id":
            check_id(message.item_id, limits, f"{at}item_id")
            return ItemQuery(message.item_id, region)
        case "text" | "vector" if region is not None:
            raise InvalidArgument(
                f"A region is part of a picture, and a {kind} has none; leave it out.",
                field=f"{at}region",
            )
        case "text":
            return TextQuery(read_text(message.text, limits, f"{at}text"))
        case "vector":
            return VectorQuery(read_vector(message.vector, limits, f"{at}vector"))
    thing = "part" if "parts[" in at else "search"
    raise QueryMissing(
        f"The {thing} has no query; set one of text, image, item_id, vector.",
        field=at.removesuffix("."),
    )


def read_region(message: types_pb2.Region, field: str) -> Region | None:
    """Return a part of a picture; None for the whole. Raises InvalidArgument."""
    sides = (message.left, message.top, message.width, message.height)
    if sides in ((0, 0, 0, 0), (0, 0, 1, 1)):
        return None
    for start, length in (("left", "width"), ("top", "height")):
        first, size = getattr(message, start), getattr(message, length)
        if not 0 <= first < 1:
            raise InvalidArgument(
                f"{start} is a fraction of the picture, 0 to 1, not {first:g}.",
                field=f"{field}.{start}",
            )
        if not 0 < size <= 1 - first + _ROUNDING:
            raise InvalidArgument(
                f"{length} is a fraction of the picture above 0, and {start} and {length} "
                f"together at most 1; not {size:g} from {first:g}.",
                field=f"{field}.{length}",
            )
    return Region(*sides)


def read_text(text: str, limits: Limits, field: str) -> str:
    """Return a text of 1 to max_text_chars characters. Raises InvalidArgument."""
    if not 1 <= len(text) <= limits.max_text_chars:
        raise InvalidArgument(
            f"A text has 1 to {limits.max_text_chars} characters, this one {len(text)}.",
            field=field,
            limit=limits.max_text_chars,
        )
    return text


def write_answer(answer: Answer, view: View) -> search_service_pb2.SearchResponse:
    """Return the answer to one query."""
    return search_service_pb2.SearchResponse(
        hits=[_write_match(match, view) for match in answer.matches],
        info=search_service_pb2.SearchInfo(
            exact=answer.exact,
            matched_count=answer.matched_count,
            truncated=answer.truncated,
            embed_ms=answer.embed_ms,
            index_ms=answer.index_ms,
            total_ms=answer.total_ms,
            decode_ms=answer.decode_ms,
            queue_ms=answer.queue_ms,
            fetch_ms=answer.fetch_ms,
            rank_ms=answer.rank_ms,
        ),
    )


def _write_match(match: Match, view: View) -> search_service_pb2.SearchHit:
    return search_service_pb2.SearchHit(
        score=match.score,
        item=write_item(match.item, view),
        false_match_rate=match.judgement.rate,
        tier=TIERS[match.judgement.tier],
        duplicate_count=len(match.duplicates),
        duplicate_ids=match.duplicates[:_MOST_DUPLICATE_IDS],
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
