"""Searches: by picture, text, item, vector, or several of them; and why a hit matches."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lookalike.client.errors import InvalidArgument
from lookalike.v1 import search_service_pb2
from lookalike.web.answers import JsonResponse, plain, search_response
from lookalike.web.queries import explain_request, read_query, search_request, where_filter


def routes() -> list[Route]:
    return [
        Route("/v1/search", search, methods=["POST"]),
        Route("/v1/explain", explain, methods=["POST"]),
        Route("/v1/values", values, methods=["GET"]),
    ]


async def search(request: Request) -> Response:
    """Find what looks like the query."""
    backend = request.app.state.backend
    query, files = await read_query(request, await backend.max_image_bytes())
    answer = await backend.call("SearchService", "Search", search_request(query, files))
    return JsonResponse(search_response(answer))


async def explain(request: Request) -> Response:
    """Say which parts of a query's picture and an item's agree."""
    backend = request.app.state.backend
    query, files = await read_query(request, await backend.max_image_bytes())
    answer = await backend.call("SearchService", "Explain", explain_request(query, files))
    return JsonResponse(plain(answer))


async def values(request: Request) -> Response:
    """Count the values of metadata fields."""
    asked = request.query_params
    message = search_service_pb2.CountValuesRequest(
        collection=asked.get("collection", ""),
        fields=asked.getlist("field"),
        filter=where_filter(asked.get("where", "")),
        limit=int_param(request, "limit", 0),
    )
    answer = await request.app.state.backend.call("SearchService", "CountValues", message)
    return JsonResponse(plain(answer))


def int_param(request: Request, name: str, default: int) -> int:
    """Return a whole number of the query string."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidArgument(f"{name} must be a whole number.", field=name)
    return int(text)
