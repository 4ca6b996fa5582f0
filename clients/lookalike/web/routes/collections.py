"""Collections: what there is to search, and how it is doing."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lookalike.v1 import index_service_pb2
from lookalike.web.answers import JsonResponse, plain
from lookalike.web.backend import Backend

_PAGE_SIZE = 1000


def routes() -> list[Route]:
    return [
        Route("/v1/collections", collections, methods=["GET"]),
        Route("/v1/collections/{name}", collection, methods=["GET"]),
    ]


async def collections(request: Request) -> Response:
    """List the collections by name, each with what its model embeds as `modalities`."""
    backend: Backend = request.app.state.backend
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        page = index_service_pb2.ListCollectionsRequest(page_size=_PAGE_SIZE, page_token=token)
        answer = await backend.call("IndexService", "ListCollections", page)
        found += map(plain, answer.collections)
        token = answer.next_page_token
        if not token:
            break
    modalities = await backend.modalities()
    for one in found:
        one["modalities"] = modalities.get(one.get("model", ""), [])
    return JsonResponse({"collections": found})


async def collection(request: Request) -> Response:
    """Describe one collection, with what its scores mean (`calibration`)."""
    backend: Backend = request.app.state.backend
    message = index_service_pb2.GetCollectionRequest(name=request.path_params["name"])
    found = plain((await backend.call("IndexService", "GetCollection", message)).collection)
    modalities = await backend.modalities()
    return JsonResponse({**found, "modalities": modalities.get(found.get("model", ""), [])})
