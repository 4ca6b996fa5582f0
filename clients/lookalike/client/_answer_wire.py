"""Messages of SearchService to values; see `_wire`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lookalike.client import _answers as answers
from lookalike.client._json import from_struct, from_value
from lookalike.client._vectors import FloatMatrix, vector_array
from lookalike.client._wire import enum_word, error_of, image_info, time_of
from lookalike.client.errors import Internal, LookalikeError
from lookalike.v1 import search_service_pb2, types_pb2


def tier(value: int) -> answers.Tier:
    """Return what a match is worth; UNKNOWN for a tier that this client does not know."""
    if value == search_service_pb2.MATCH_TIER_UNSPECIFIED:
        return answers.Tier.NOT_JUDGED
    return answers.Tier(enum_word(search_service_pb2.MatchTier, value, "MATCH_TIER_"))


def _hit(message: search_service_pb2.SearchHit) -> answers.Hit:
    """Read a hit. Most are an id and a score: what is not set is not looked into."""
    item = message.item
    duplicates = message.duplicate_count
    fields: dict[str, Any] = {}
    if message.tier:
        fields["tier"] = tier(message.tier)
    if message.HasField("false_match_rate"):
        fields["false_match_rate"] = message.false_match_rate
    if duplicates:
        fields["duplicate_count"] = duplicates
        fields["duplicate_ids"] = tuple(message.duplicate_ids)
    if item.HasField("metadata"):
        fields["metadata"] = from_struct(item.metadata)
    if item.HasField("image"):
        fields["image"] = image_info(item.image)
    if item.HasField("vector"):
        fields["vector"] = vector_array(item.vector)
    if item.HasField("create_time"):
        fields["create_time"] = time_of(item, "create_time")
        fields["update_time"] = time_of(item, "update_time")
    return answers.Hit(item.id, message.score, **fields)


def search_result(message: search_service_pb2.SearchResponse) -> answers.SearchResult:
    info = message.info
    return answers.SearchResult(
        tuple(map(_hit, message.hits)),
        answers.SearchInfo(
            exact=info.exact,
            matched_count=info.matched_count if info.HasField("matched_count") else None,
            truncated=info.truncated,
            embed_ms=info.embed_ms,
            index_ms=info.index_ms,
            total_ms=info.total_ms,
            decode_ms=info.decode_ms,
            queue_ms=info.queue_ms,
            fetch_ms=info.fetch_ms,
            rank_ms=info.rank_ms,
        ),
    )


def batch_results(
    message: search_service_pb2.BatchSearchResponse,
) -> tuple[answers.SearchResult | LookalikeError, ...]:
    return tuple(map(batch_result, message.results))


def batch_result(
    message: search_service_pb2.BatchSearchResult,
) -> answers.SearchResult | LookalikeError:
    return error_of(message.error) if message.HasField("error") else search_result(message.response)


def region(message: types_pb2.Region) -> answers.Region:
    """Return a box; one that was left out is the whole picture."""
    box = answers.Region(message.left, message.top, message.width, message.height)
    return box if any(box) else answers.Region(0.0, 0.0, 1.0, 1.0)


def explanation(message: search_service_pb2.ExplainResponse) -> answers.Explanation:
    return answers.Explanation(
        score=message.score,
        tier=tier(message.tier),
        matches=tuple(
            answers.RegionMatch(region(m.query_region), region(m.item_region), m.strength)
            for m in message.matches
        ),
        query_map=_heat_map(message.query_map),
        item_map=_heat_map(message.item_map),
    )


def _heat_map(message: search_service_pb2.HeatMap) -> FloatMatrix:
    rows, columns = message.rows, message.columns
    if rows < 0 or columns < 0 or rows * columns != len(message.values):
        raise Internal(
            f"The server sent a heat map of {rows} x {columns} cells with "
            f"{len(message.values)} values; that is a defect of the server."
        )
    return np.array(message.values, dtype=np.float32).reshape(rows, columns)


def duplicate_group(message: search_service_pb2.DuplicateGroup) -> answers.DuplicateGroup:
    return answers.DuplicateGroup(tuple(map(_member, message.members)))


def _member(message: search_service_pb2.DuplicateMember) -> answers.DuplicateMember:
    kinds = search_service_pb2.DuplicateKind
    kind = enum_word(kinds, message.kind, "DUPLICATE_KIND_") if message.kind else ""
    image = image_info(message.image) if message.HasField("image") else None
    return answers.DuplicateMember(message.id, kind, message.score, image)


def field_counts(
    message: search_service_pb2.CountValuesResponse,
) -> tuple[answers.FieldCounts, ...]:
    return tuple(
        answers.FieldCounts(
            one.field,
            tuple(answers.ValueCount(from_value(v.value), v.count) for v in one.values),
            one.item_count,
        )
        for one in message.fields
    )
