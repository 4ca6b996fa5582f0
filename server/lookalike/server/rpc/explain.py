"""Explain: which regions of two pictures agree."""

from __future__ import annotations

from lookalike.backends.errors import InvalidArgument, ItemNotFound, QueryMissing
from lookalike.server.agreement import Heat
from lookalike.server.domain import ImageQuery, ItemQuery, Region, TextQuery
from lookalike.server.limits import Limits, check_id
from lookalike.server.rpc.ports import Explainer
from lookalike.server.rpc.wire import read_name
from lookalike.server.rpc.wire_items import read_image
from lookalike.server.rpc.wire_queries import TIERS, read_region, read_text
from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import types_pb2


def explain(
    explainer: Explainer, request: pb.ExplainRequest, limits: Limits, deadline: float
) -> pb.ExplainResponse:
    """Explain what a request asks for.

    Raises QueryMissing, IdMissing, InvalidArgument and what `Explainer.explain` does.
    """
    name = read_name(request.collection, "collection")
    query = _read_query(request, limits)
    has_picture = not isinstance(query, TextQuery)
    check_id(request.item_id, limits, "item_id")
    try:
        found = explainer.explain(name, query, request.item_id, deadline=deadline)
    except ItemNotFound as error:
        is_query = isinstance(query, ItemQuery) and error.metadata.get("id") != request.item_id
        error.field = "query_item_id" if is_query else "item_id"
        raise
    agreement = found.agreement
    return pb.ExplainResponse(
        score=found.score,
        tier=TIERS[found.tier],
        matches=[
            pb.RegionMatch(
                query_region=_write_region(match.query_region) if has_picture else None,
                item_region=_write_region(match.item_region),
                strength=match.strength,
            )
            for match in agreement.matches
        ],
        query_map=_write_heat(agreement.query_map),
        item_map=_write_heat(agreement.item_map),
    )


def _read_query(request: pb.ExplainRequest, limits: Limits) -> ImageQuery | ItemQuery | TextQuery:
    region = read_region(request.region, "region")
    match request.WhichOneof("query"):
        case "image":
            return ImageQuery(read_image(request.image, limits, "image"), region)
        case "query_item_id":
            check_id(request.query_item_id, limits, "query_item_id")
            return ItemQuery(request.query_item_id, region)
        case "text" if region is not None:
            raise InvalidArgument(
                "A region is part of a picture, and a text has none; leave it out.", field="region"
            )
        case "text":
            return TextQuery(read_text(request.text, limits, "text"))
    raise QueryMissing(
        "There is nothing to compare with; set image, query_item_id or text.",
    )


def _write_region(region: Region) -> types_pb2.Region:
    return types_pb2.Region(
        left=region.left, top=region.top, width=region.width, height=region.height
    )


def _write_heat(heat: Heat) -> pb.HeatMap:
    rows, columns = heat.shape
    return pb.HeatMap(columns=columns, rows=rows, values=heat.ravel().tolist())
