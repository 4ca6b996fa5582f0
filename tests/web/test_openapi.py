"""The OpenAPI document has every route, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.routing import Route
from starlette.testclient import TestClient

from lookalike.v1 import search_service_pb2
from lookalike.web import Settings, make_app
from lookalike.web.openapi import document


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for one in value.values():
            yield from refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from refs(one)


def test_every_route_is_described_and_every_description_has_a_route() -> None:
    described = {
        (method.upper(), path) for path, item in document()["paths"].items() for method in item
    }
    there = {
        (method, route.path)
        for route in make_app(Settings()).routes
        if isinstance(route, Route) and route.path != "/"
        for method in (route.methods or set()) - {"HEAD"}
    }
    one_route = {("GET", "/v1/items/{id}"), ("GET", "/v1/items/{id}/image")}
    assert one_route <= described
    assert described - one_route == there - {("GET", "/v1/items/{rest:path}")}


def test_every_reference_leads_somewhere() -> None:
    made = document()
    for ref in refs(made):
        node: Any = made
        for step in ref.removeprefix("#/").split("/"):
            node = node[step]
    names = [
        operation["operationId"] for item in made["paths"].values() for operation in item.values()
    ]
    assert len(names) == len(set(names))


def test_the_schemas_name_every_field_of_a_search() -> None:
    schemas = document()["components"]["schemas"]
    request = set(search_service_pb2.SearchRequest.DESCRIPTOR.fields_by_name)
    assert set(schemas["SearchRequest"]["properties"]) == request | {"where"}
    hit = set(search_service_pb2.SearchHit.DESCRIPTOR.fields_by_name) - {"item"}
    assert hit <= set(schemas["Hit"]["properties"])


def test_it_is_served(http: TestClient) -> None:
    assert http.get("/openapi.json").json() == json.loads(json.dumps(document()))
