"""The API over HTTP as an OpenAPI document, written by hand and compared with the routes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

_TITLE = "lookalike over HTTP"
_ABOUT = (
    "Search by picture as JSON over HTTP, for those without gRPC. Requests are the JSON form "
    "of the messages of lookalike.v1, answers likewise: names as in the protos, enum values as "
    "lower-case words, 64-bit integers as numbers. An empty or absent collection is the one "
    "named 'default'."
)


_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_FLAG: dict[str, Any] = {"type": "boolean"}
_FREE: dict[str, Any] = {"type": "object"}
_FILE: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}


def _query(name: str, description: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind}}


_COLLECTION = _query("collection", "The collection.")
_WHERE = _query("where", "Only items that pass: price < 100 and brand = 'acme'.")
_LIMIT = _query("limit", "At most this many.", "integer")
_ITEM_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The item's id, percent-encoded; a slash in it is %2F.",
    "schema": _TEXT,
}


def document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "description": _ABOUT, "version": _version()},
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": {
                "Error": {
                    "description": "What went wrong; the HTTP status follows from `code`.",
                    "content": _json({"$ref": "#/components/schemas/Error"}),
                }
            },
        },
    }


def _paths() -> dict[str, Any]:
    return {**_search_paths(), **_item_paths(), **_other_paths()}


def _search_paths() -> dict[str, Any]:
    return {
        "/v1/search": {
            "post": _operation(
                "search",
                "Find what looks like a picture, a text, an item, a vector, or several of them",
                _ref("SearchResponse"),
                body=_bodies("SearchRequest", "SearchForm"),
            )
        },
        "/v1/explain": {
            "post": _operation(
                "explain",
                "Say which parts of a query's picture and of an item's agree",
                _ref("Explanation"),
                body=_bodies("ExplainRequest", "ExplainForm"),
            )
        },
        "/v1/values": {
            "get": _operation(
                "countValues",
                "Count the values of metadata fields",
                _object({"fields": _list({"type": "object"})}),
                parameters=[
                    *(_COLLECTION, _WHERE, _LIMIT),
                    _query("field", "A field; may be repeated. None: those with few values."),
                ],
            )
        },
    }


def _item_paths() -> dict[str, Any]:
    page = {"items": _list(_ref("Item")), "next_page_token": _TEXT}
    pictures = {
        kind: {"schema": {"type": "string", "contentMediaType": kind}}
        for kind in ("image/jpeg", "application/octet-stream")
    }
    original = _query("original", "1: the file itself.")
    return {
        "/v1/items": {
            "get": _operation(
                "listItems",
                "List items by id",
                _object(page),
                parameters=[*(_COLLECTION, _WHERE, _LIMIT), _query("page_token", "Of a page.")],
            ),
            "post": _operation(
                "storeItems",
                "Store pictures; 200 even if some fail, so look at `counts.failed`",
                _ref("StoreResponse"),
                body={"multipart/form-data": {"schema": _ref("StoreForm")}},
            ),
        },
        "/v1/items/{id}": {
            "get": _operation(
                "getItem", "Give one item", _ref("Item"), parameters=[_ITEM_ID, _COLLECTION]
            )
        },
        "/v1/items/{id}/image": {
            "get": _operation(
                "getItemImage",
                "Give an item's thumbnail, or with original=1 its file as an attachment",
                {},
                parameters=[_ITEM_ID, _COLLECTION, original],
                content=pictures,
            )
        },
    }


def _other_paths() -> dict[str, Any]:
    free = {"type": "object"}
    found = _object({"collections": _list(_ref("Collection"))})
    name = {"name": "name", "in": "path", "required": True, "schema": _TEXT}
    one = _operation(
        "getCollection",
        "Describe one collection, with what its scores mean",
        _ref("Collection"),
        parameters=[name],
    )
    return {"/v1/collections/{name}": {"get": one}} | {
        path: {"get": _operation(name, summary, answer)}
        for path, name, summary, answer in (
            ("/v1/collections", "listCollections", "List the collections by name", found),
            ("/v1/info", "getInfo", "Say what the server is and what it takes", free),
            ("/healthz", "getHealth", "Say that the gateway lives", free),
            ("/readyz", "getReadiness", "Say whether searches are answered; 503 if not", free),
            ("/openapi.json", "getApi", "Give this document", free),
        )
    }


def _schemas() -> dict[str, Any]:
    return {
        "Error": _object({"error": _object(_fault(), ["code", "reason", "message"])}),
        **_item_schemas(),
        **_search_schemas(),
        "StoreForm": _object(
            {
                "collection": _TEXT,
                "write_mode": {"enum": ["upsert", "skip_existing", "create_only"]},
                "ids": {
                    "enum": ["name", "content"],
                    "description": "Whence ids come: the files' names (default) or their bytes.",
                },
                "metadata": {**_TEXT, "description": "A JSON object, for the files after it."},
                "id": {**_TEXT, "description": "The id of the next file."},
                "file": _list(_FILE),
            }
        ),
        "StoreResponse": _object(
            {
                "results": _list(
                    _object({"name": _TEXT, "id": _TEXT, "outcome": _TEXT, "error": _FREE})
                ),
                "counts": _FREE,
            }
        ),
        "Collection": _object(
            {
                **dict.fromkeys(("name", "description", "model", "metric", "state"), _TEXT),
                "item_count": _WHOLE,
                "modalities": _list({"enum": ["image", "text"]}),
                "calibration": _FREE,
            }
        ),
    }


def _item_schemas() -> dict[str, Any]:
    item = {
        **dict.fromkeys(("id", "create_time", "update_time"), _TEXT),
        "metadata": _FREE,
        "image": _ref("ImageInfo"),
        "vector": _list(_NUMBER),
    }
    hit = {
        "score": _NUMBER,
        "false_match_rate": _NUMBER,
        "tier": {"enum": ["same_picture", "same_scene", "similar", "weak"]},
        "duplicate_count": _WHOLE,
        "duplicate_ids": _list(_TEXT),
    }
    info = {
        **dict.fromkeys(("width", "height", "size_bytes"), _WHOLE),
        **dict.fromkeys(("media_type", "sha256"), _TEXT),
        **dict.fromkeys(("has_thumbnail", "has_original"), _FLAG),
    }
    return {"Item": _object(item), "ImageInfo": _object(info), "Hit": _object({**item, **hit})}


def _search_schemas() -> dict[str, Any]:
    sides = dict.fromkeys(("left", "top", "width", "height"), _NUMBER)
    region = {
        "description": "A box in fractions of the picture: left, top, width, height.",
        "oneOf": [_object(sides), {**_list(_NUMBER), "minItems": 4, "maxItems": 4}],
    }
    picture = {
        "description": "Base64 of an image file; in a form, '@NAME' is the file of that field.",
        "oneOf": [_object({"data": {**_TEXT, "contentEncoding": "base64"}}), _TEXT],
    }
    inputs = {
        **dict.fromkeys(("text", "item_id"), _TEXT),
        "image": picture,
        "vector": _list(_NUMBER),
        "region": region,
    }
    options = {
        **dict.fromkeys(("collection", "group_by"), _TEXT),
        **dict.fromkeys(("min_score", "max_false_match_rate", "diversity"), _NUMBER),
        **dict.fromkeys(("judge", "fold_duplicates"), _FLAG),
        "limit": {**_WHOLE, "description": "At most this many hits; 10 by default."},
        "where": {**_TEXT, "description": "A condition as text, in place of `filter`."},
        "group_limit": _WHOLE,
        "view": {"enum": ["id", "basic", "full"]},
        "filter": _FREE,
        "params": _FREE,
        "parts": {**_list(_object({**inputs, "weight": _NUMBER})), "maxItems": 32},
    }
    explain = {
        **dict.fromkeys(("collection", "query_item_id", "text", "item_id"), _TEXT),
        "region": region,
    }
    explanation = {
        **dict.fromkeys(("query_map", "item_map"), _FREE),
        "score": _NUMBER,
        "tier": _TEXT,
        "matches": _list(_FREE),
    }
    return {
        "SearchRequest": _object({**inputs, **options}),
        "SearchForm": _object({**inputs, **options, "image": _FILE, "request": _FREE}),
        "SearchResponse": _object({"hits": _list(_ref("Hit")), "info": _FREE}),
        "ExplainRequest": _object({**explain, "image": picture}),
        "ExplainForm": _object({**explain, "image": _FILE, "request": _FREE}),
        "Explanation": _object(explanation),
    }


def _fault() -> dict[str, Any]:
    return {
        "code": {**_TEXT, "description": "The gRPC code's name: INVALID_ARGUMENT."},
        "reason": {**_TEXT, "description": "For programs, stable: IMAGE_UNDECODABLE."},
        "message": {**_TEXT, "description": "For people; may change."},
        "field": _TEXT,
        "retry_after_s": _NUMBER,
    }


def _operation(
    name: str,
    summary: str,
    answer: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    content: dict[str, Any] | None = None,
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": {"description": "The answer.", "content": content or _json(answer)},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _bodies(json: str, form: str) -> dict[str, Any]:
    return {**_json(_ref(json)), "multipart/form-data": {"schema": _ref(form)}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "object", "properties": properties}
    return {**out, "required": required} if required else out


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _version() -> str:
    try:
        return version("lookalike")
    except PackageNotFoundError:
        return "0+unknown"
