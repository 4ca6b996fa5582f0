"""Queries, answers, embedding inputs and models between the wire and the domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, TypeAlias, cast

import numpy as np

from lookalike.backends.errors import InvalidArgument, LookalikeError, QueryMissing
from lookalike.backends.types import normalize
from lookalike.server.domain import (
    NOT_JUDGED,
    Answer,
    Embedded,
    ImageQuery,
    Input,
    ItemQuery,
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
from lookalike.server.rpc.wire import read_name
from lookalike.server.rpc.wire_items import fill_item, read_image
from lookalike.server.rpc.wire_options import KnownOptions, read_options
from lookalike.server.rpc.wire_vectors import read_vector, read_vectors, write_vector
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


_COMES_YET: Final = TextQuery("")
"""In the place of queries whose vectors are read together."""

Asked: TypeAlias = tuple[str, Query, SearchOptions]
"""Where to look, "" if the search does not say, what for and how."""


class SearchReader:
    """Reads searches. Any thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known = KnownOptions(limits)

    def read(self, message: search_service_pb2.SearchRequest, at: str = "") -> Asked:
        """Return a search; `at` is "" or "queries[3]." with its dot.

        The message is used up. Raises QueryMissing, FilterInvalid, InvalidArgument and its
        children.
        """
        if not _is_by_vector(message):
            return self._read_any(message, at)
        vector, name, options = self._taken_apart(message, at)
        return name, VectorQuery(read_vector(vector, self._limits, f"{at}vector")), options

    def read_all(
        self, messages: Sequence[search_service_pb2.SearchRequest]
    ) -> list[Asked | LookalikeError]:
        """Return the searches of a batch, or what is wrong with them; vectors as one matrix."""
        asked: list[Asked | LookalikeError] = []
        vectors: list[types_pb2.Vector] = []
        rows: list[int] = []
        for i, message in enumerate(messages):
            try:
                if _is_by_vector(message):
                    vector, name, options = self._taken_apart(message, f"queries[{i}].")
                    asked.append((name, _COMES_YET, options))
                    vectors.append(vector)
                    rows.append(i)
                else:
                    asked.append(self._read_any(message, f"queries[{i}]."))
            except LookalikeError as error:
                asked.append(error)
        read = read_vectors(vectors, self._limits, lambda j: f"queries[{rows[j]}].vector")
        for i, found in zip(rows, read, strict=True):
            name, _, options = cast(Asked, asked[i])
            if isinstance(found, LookalikeError):
                asked[i] = found
            else:
                asked[i] = (name, VectorQuery(found), options)
        return asked

    def _read_any(self, message: search_service_pb2.SearchRequest, at: str) -> Asked:
        name = message.collection and read_name(message.collection, f"{at}collection")
        options = read_options(message, self._limits, at)
        return name, _read_query(message, self._limits, at), options

    def _taken_apart(
        self, message: search_service_pb2.SearchRequest, at: str
    ) -> tuple[types_pb2.Vector, str, SearchOptions]:
        vector = message.vector
        message.ClearField("vector")
        return vector, *self._known.read(message, at)


def _is_by_vector(message: search_service_pb2.SearchRequest) -> bool:
    """Return whether all that is looked for is a vector."""
    by_vector = message.WhichOneof("query") == "vector"
    return by_vector and not message.parts and not message.HasField("region")


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


def write_answer(
    answer: Answer, view: View, response: search_service_pb2.SearchResponse
) -> search_service_pb2.SearchResponse:
    """Fill in the answer to one query, and return it.

    Setting fields takes 5 us for ten ids and scores, passing them to constructors 22.
    """
    add = response.hits.add
    for item, score, judgement, duplicates in answer.matches:
        hit = add()
        hit.score = score
        if view is View.ID:
            hit.item.id = item.id
        else:
            fill_item(hit.item, item, view)
        if judgement is not NOT_JUDGED:
            if judgement.rate is not None:
                hit.false_match_rate = judgement.rate
            hit.tier = TIERS[judgement.tier]
        if duplicates:
            hit.duplicate_count = len(duplicates)
            hit.duplicate_ids.extend(duplicates[:_MOST_DUPLICATE_IDS])
    info = response.info
    info.exact = answer.exact
    if answer.matched_count is not None:
        info.matched_count = answer.matched_count
    info.truncated = answer.truncated
    info.embed_ms = answer.embed_ms
    info.index_ms = answer.index_ms
    info.total_ms = answer.total_ms
    info.decode_ms = answer.decode_ms
    info.queue_ms = answer.queue_ms
    info.fetch_ms = answer.fetch_ms
    info.rank_ms = answer.rank_ms
    return response


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
        runtime=info.numerics.get("runtime", ""),
        precision=info.numerics.get("precision", ""),
        parity=info.numerics.get("parity", ""),
    )
