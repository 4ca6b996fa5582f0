"""Items: storing files, listing, one item, its picture."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lookalike.client.errors import ItemNotFound
from lookalike.v1 import index_service_pb2, types_pb2
from lookalike.web.answers import JsonResponse, plain
from lookalike.web.queries import where_filter
from lookalike.web.routes.search import int_param
from lookalike.web.uploads import store_form

_PICTURE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
_A_DAY = "private, max-age=86400"


def routes() -> list[Route]:
    return [
        Route("/v1/items", store, methods=["POST"]),
        Route("/v1/items", listing, methods=["GET"]),
        Route("/v1/items/{rest:path}", item_or_image, methods=["GET"]),
    ]


async def store(request: Request) -> Response:
    """Store the files of a form, each with its own outcome."""
    return JsonResponse(await store_form(request))


async def listing(request: Request) -> Response:
    """List items by id, a page at a time."""
    asked = request.query_params
    message = index_service_pb2.ListItemsRequest(
        collection=asked.get("collection", ""),
        filter=where_filter(asked.get("where", "")),
        page_size=int_param(request, "limit", 0),
        page_token=asked.get("page_token", ""),
        view=types_pb2.ITEM_VIEW_BASIC,
    )
    answer = await request.app.state.backend.call("IndexService", "ListItems", message)
    return JsonResponse(plain(answer))


async def item_or_image(request: Request) -> Response:
    """Give an item, or the picture of one: a last segment `image` asks for that.

    The path is read as it was sent, for an id may have slashes, sent as %2F.
    """
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    segments = raw.decode("ascii", "replace").removeprefix("/v1/items/").split("/")
    if len(segments) > 1 and segments[-1] == "image":
        return await _image(request, _id(segments[:-1]))
    return await _item(request, _id(segments))


async def _item(request: Request, item_id: str) -> Response:
    message = index_service_pb2.GetItemRequest(
        collection=request.query_params.get("collection", ""), id=item_id
    )
    answer = await request.app.state.backend.call("IndexService", "GetItem", message)
    return JsonResponse(plain(answer.item))


async def _image(request: Request, item_id: str) -> Response:
    """Thumbnails are our own JPEGs; an original is only handed over, never shown."""
    asked = request.query_params
    original = asked.get("original", "") in ("1", "true")
    picture = await request.app.state.backend.image(item_id, original, asked.get("collection", ""))
    headers = {**_PICTURE_HEADERS, "Cache-Control": "private, no-cache"}
    if "v" in asked:  # the picture's own hash: another picture has another address
        headers["Cache-Control"] = _A_DAY
    if not original:
        return Response(picture.data, media_type="image/jpeg", headers=headers)
    headers["Content-Disposition"] = f'attachment; filename="{_file_name(item_id)}"'
    return Response(picture.data, media_type="application/octet-stream", headers=headers)


def _id(segments: list[str]) -> str:
    item_id = "/".join(map(unquote, segments))
    if not item_id:
        raise ItemNotFound("An item's id cannot be empty.")
    return item_id


def _file_name(item_id: str) -> str:
    name = item_id.rsplit("/", 1)[-1]
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return safe.strip(".")[-100:] or "picture"
