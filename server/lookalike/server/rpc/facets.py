"""CountValues: the values of metadata fields and how often they occur."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Value

from lookalike.backends.errors import InvalidArgument
from lookalike.server.limits import Limits
from lookalike.server.rpc.ports import Facets
from lookalike.server.rpc.wire import check_fields, read_count, read_field, read_name
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.v1 import search_service_pb2 as pb

_DEFAULT_LIMIT = 20
_MOST_VALUES = 1000


def count_values(
    facets: Facets, request: pb.CountValuesRequest, limits: Limits
) -> pb.CountValuesResponse:
    """Count what a request asks for.

    Raises InvalidArgument, BatchTooLarge (too many fields), FilterInvalid,
    CollectionNotFound.
    """
    name = read_name(request.collection, "collection")
    fields = [
        read_field(text, limits, f"fields[{i}]")
        for i, text in enumerate(check_fields(request.fields, limits, "fields"))
    ]
    limit = read_count(request.limit, "limit") or _DEFAULT_LIMIT
    if limit > _MOST_VALUES:
        raise InvalidArgument(
            f"limit is {limit}; {_MOST_VALUES} is the most.", field="limit", limit=_MOST_VALUES
        )
    where = read_filter(request.filter, limits)
    counted = facets.count_values(name, fields, where, limit)
    return pb.CountValuesResponse(
        fields=[
            pb.FieldCounts(
                field=found.field,
                values=[pb.ValueCount(value=_value(v), count=n) for v, n in found.values],
                item_count=found.item_count,
            )
            for found in counted
        ]
    )


def _value(value: str | float | bool) -> Value:
    match value:
        case bool():
            return Value(bool_value=value)
        case str():
            return Value(string_value=value)
        case _:
            return Value(number_value=value)
