from __future__ import annotations

import math
import time
from typing import Any

import grpc
import numpy as np
import pytest

from lookalike.backends.types import SearchParams
from lookalike.server.domain import (
    ImageQuery,
    ItemQuery,
    SearchOptions,
    TextQuery,
    VectorQuery,
    View,
)
from lookalike.server.limits import Limits
from lookalike.v1 import embed_service_pb2 as ep
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from lookalike.v1 import system_service_pb2, types_pb2
from rpc.fake_domain import BAD_PICTURE
from rpc.harness import Server, serving
from rpc.test_index import put, refusal, struct, with_vector


def search(**fields: Any) -> sp.SearchRequest:
    return sp.SearchRequest(**fields)


def test_every_kind_of_query_reaches_the_domain(server: Server) -> None:
    put(server, with_vector("a"))
    server.search.Search(search(text="a shoe"))
    server.search.Search(search(image=types_pb2.Image(data=b"picture"), collection="default"))
    server.search.Search(search(item_id="a"))
    server.search.Search(search(vector=types_pb2.Vector(values=[1, 2])))
    queries = [query for _, query, _ in server.searcher.asked]
    assert queries[:3] == [TextQuery("a shoe"), ImageQuery(b"picture"), ItemQuery("a")]
    assert isinstance(queries[3], VectorQuery)
    assert queries[3].vector.tolist() == [1, 2]
    assert {name for name, _, _ in server.searcher.asked} == {"default"}
    assert server.searcher.asked[0][2] == SearchOptions()


def test_every_option_reaches_the_domain(server: Server) -> None:
    put(server, with_vector("a"))
    server.search.Search(
        search(
            text="x",
            limit=1000,
            min_score=-0.5,
            view=types_pb2.ITEM_VIEW_FULL,
            params=sp.SearchParams(exact=True, ef_search=5, nprobe=6),
        )
    )
    assert server.searcher.asked[0][2] == SearchOptions(
        1000, min_score=-0.5, view=View.FULL, params=SearchParams(True, 5, 6)
    )


def test_an_answer_is_written_in_full(server: Server) -> None:
    put(server, with_vector("a", x=1), with_vector("b"))
    answer = server.search.Search(search(text="x", view=types_pb2.ITEM_VIEW_FULL))
    assert [(hit.item.id, round(hit.score, 3)) for hit in answer.hits] == [("a", 1.0), ("b", 0.9)]
    assert dict(answer.hits[0].item.metadata) == {"x": 1}
    assert len(answer.hits[0].item.vector.values) == 8
    assert answer.info.exact
    assert answer.info.truncated
    assert answer.info.matched_count == 2
    assert answer.info.total_ms == 1.5


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({}, "QUERY_MISSING", ""),
        ({"text": ""}, "ARGUMENT_INVALID", "text"),
        ({"text": "x" * 8193}, "ARGUMENT_INVALID", "text"),
        ({"image": types_pb2.Image()}, "ARGUMENT_INVALID", "image"),
        ({"image": types_pb2.Image(data=b"")}, "IMAGE_UNDECODABLE", "image.data"),
        ({"item_id": ""}, "ID_MISSING", "item_id"),
        ({"item_id": "x" * 257}, "ID_INVALID", "item_id"),
        ({"item_id": "nope"}, "ITEM_NOT_FOUND", "item_id"),
        ({"vector": types_pb2.Vector()}, "DIMENSION_MISMATCH", "vector"),
        ({"vector": types_pb2.Vector(values=[math.inf])}, "VECTOR_NOT_FINITE", "vector"),
        ({"text": "x", "limit": -1}, "ARGUMENT_INVALID", "limit"),
        ({"text": "x", "limit": 1001}, "ARGUMENT_INVALID", "limit"),
        ({"text": "x", "min_score": math.nan}, "ARGUMENT_INVALID", "min_score"),
        ({"text": "x", "view": 9}, "ARGUMENT_INVALID", "view"),
        ({"text": "x", "collection": "A"}, "ARGUMENT_INVALID", "collection"),
        ({"text": "x", "collection": "nope"}, "COLLECTION_NOT_FOUND", ""),
        (
            {"text": "x", "params": sp.SearchParams(ef_search=-1)},
            "ARGUMENT_INVALID",
            "params.ef_search",
        ),
        (
            {"text": "x", "params": sp.SearchParams(nprobe=-1)},
            "ARGUMENT_INVALID",
            "params.nprobe",
        ),
        (
            {"text": "x", "filter": types_pb2.Filter(all=[types_pb2.Condition(field="a")])},
            "FILTER_INVALID",
            "filter.all[0]",
        ),
    ],
)
def test_a_search_that_can_never_work_is_refused(
    server: Server, fields: dict[str, Any], reason: str, field: str
) -> None:
    put(server, with_vector("a"))
    found = refusal(server.search.Search, search(**fields))
    assert (found.reason, found.field) == (reason, field)
    not_found = reason.endswith("_NOT_FOUND")
    assert found.code.name == ("NOT_FOUND" if not_found else "INVALID_ARGUMENT")


def test_a_batch_answers_each_query_in_its_place(server: Server) -> None:
    put(server, with_vector("a"))
    put(server, with_vector("b"))
    queries = [
        search(text="x"),
        search(),
        search(item_id="nope"),
        search(text="x", collection="nope"),
        search(text="x", limit=2000),
        search(text="x", filter=types_pb2.Filter(any=[types_pb2.Condition(eq=None)])),
        search(text="x", limit=1),
    ]
    answer = server.search.BatchSearch(sp.BatchSearchRequest(queries=queries))
    assert [(r.error.reason, r.error.field, len(r.response.hits)) for r in answer.results] == [
        ("", "", 2),
        ("QUERY_MISSING", "queries[1]", 0),
        ("ITEM_NOT_FOUND", "queries[2].item_id", 0),
        ("COLLECTION_NOT_FOUND", "queries[3]", 0),
        ("ARGUMENT_INVALID", "queries[4].limit", 0),
        ("FILTER_INVALID", "queries[5].filter.any[0]", 0),
        ("", "", 1),
    ]


def test_a_batch_has_a_collection_for_queries_that_name_none(server: Server) -> None:
    queries = [search(text="x"), search(text="x", collection="b")]
    server.search.BatchSearch(sp.BatchSearchRequest(collection="a", queries=queries))
    assert [name for name, _, _ in server.searcher.asked] == ["a", "b"]


def test_a_batch_has_1_to_256_queries(server: Server) -> None:
    call = server.search.BatchSearch
    assert refusal(call, sp.BatchSearchRequest()).reason == "INPUTS_EMPTY"
    assert len(call(sp.BatchSearchRequest(queries=[search(text="x")] * 256)).results) == 256
    many = sp.BatchSearchRequest(queries=[search(text="x")] * 257)
    assert refusal(call, many).reason == "BATCH_TOO_LARGE"


def test_an_answer_that_no_message_can_carry_is_refused_in_words() -> None:
    with serving(Limits(max_message_bytes=164 * 1024)) as server:
        put(server, *(with_vector(f"{i}", text="x" * 10_000) for i in range(20)))
        found = refusal(server.search.Search, search(text="x", limit=20))
        assert (found.reason, found.field) == ("BATCH_TOO_LARGE", "limit")
        assert len(server.search.Search(search(text="x", limit=5)).hits) == 5
        answer = server.search.BatchSearch(
            sp.BatchSearchRequest(queries=[search(text="x", limit=6)] * 3)
        )
        assert [r.error.reason for r in answer.results] == [
            "",
            "BATCH_TOO_LARGE",
            "BATCH_TOO_LARGE",
        ]


# -------------------------------------------------------------------- embedding


def text(value: str) -> ep.EmbedInput:
    return ep.EmbedInput(text=value)


def image(data: bytes) -> ep.EmbedInput:
    return ep.EmbedInput(image=types_pb2.Image(data=data))


def test_inputs_that_fail_have_their_errors_in_their_places(server: Server) -> None:
    inputs = [
        text("a shoe"),
        ep.EmbedInput(),
        text(""),
        image(b""),
        image(BAD_PICTURE),
        text("long"),
        image(b"ok"),
    ]
    answer = server.embed.Embed(ep.EmbedRequest(inputs=inputs))
    assert [(r.error.reason, r.error.field) for r in answer.results] == [
        ("", ""),
        ("ARGUMENT_INVALID", "inputs[1]"),
        ("ARGUMENT_INVALID", "inputs[2].text"),
        ("IMAGE_UNDECODABLE", "inputs[3].image.data"),
        ("IMAGE_UNDECODABLE", "inputs[4].image"),
        ("", ""),
        ("", ""),
    ]
    assert [r.truncated for r in answer.results].index(True) == 5
    assert answer.model.name == "fake"
    assert answer.model.is_default
    assert list(answer.model.modalities) == [ep.MODALITY_IMAGE, ep.MODALITY_TEXT]
    assert answer.model.fingerprint == "fake/1"


def test_vectors_have_length_1_unless_asked_otherwise(server: Server) -> None:
    def length(**fields: Any) -> float:
        answer = server.embed.Embed(ep.EmbedRequest(inputs=[text("a")], **fields))
        return float(np.linalg.norm(answer.results[0].vector.values))

    assert abs(length() - 1) < 1e-6
    assert abs(length(unnormalized=True) - 3 * 8**0.5) < 1e-5


def test_a_request_has_1_to_256_inputs(server: Server) -> None:
    call = server.embed.Embed
    assert refusal(call, ep.EmbedRequest()).reason == "INPUTS_EMPTY"
    assert len(call(ep.EmbedRequest(inputs=[text("x")] * 256)).results) == 256
    assert refusal(call, ep.EmbedRequest(inputs=[text("x")] * 257)).field == "inputs"
    found = refusal(call, ep.EmbedRequest(model="nope", inputs=[text("x")]))
    assert (found.code, found.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


def test_the_callers_deadline_reaches_the_domain(server: Server) -> None:
    server.embed.Embed(ep.EmbedRequest(inputs=[text("x")]), timeout=5)
    server.embed.Embed(ep.EmbedRequest(inputs=[text("x")]))
    left = [(deadline or 0) - time.monotonic() for deadline in server.embedding.deadlines]
    assert 3 < left[0] < 5.1
    assert 28 < left[1] < 30.1


def test_models_are_listed_page_by_page(server: Server) -> None:
    names, token = [], ""
    while True:
        page = server.embed.ListModels(ep.ListModelsRequest(page_size=4, page_token=token))
        names += [model.name for model in page.models]
        if not (token := page.next_page_token):
            break
    assert names == ["fake", "m0", "m1", "m2", "m3", "m4"]


def test_one_model_is_described(server: Server) -> None:
    assert server.embed.GetModel(ep.GetModelRequest()).model.name == "fake"
    assert not server.embed.GetModel(ep.GetModelRequest(name="m1")).model.is_default
    assert refusal(server.embed.GetModel, ep.GetModelRequest(name="no")).reason == (
        "MODEL_NOT_FOUND"
    )


def test_the_server_says_what_it_is(server: Server) -> None:
    info = server.system.GetServerInfo(system_service_pb2.GetServerInfoRequest())
    assert (info.version, info.engine, info.default_model, info.ready) == (
        "1.2.3",
        "local",
        "fake",
        True,
    )
    assert list(info.backends) == ["auto", "exact"]
    assert info.start_time.ToSeconds() == 1_700_000_000
    limits = Limits()
    for field in info.limits.DESCRIPTOR.fields:
        assert getattr(info.limits, field.name) == getattr(limits, field.name)


def test_metadata_of_every_kind_comes_back_as_it_was(server: Server) -> None:
    values = {"s": "é", "n": -1.5, "t": True, "z": None, "l": [1, [2], {"a": []}], "o": {"k": {}}}
    put(server, ip.ItemInput(id="a", image=types_pb2.Image(data=b"x"), metadata=struct(**values)))
    answer = server.index.GetItem(ip.GetItemRequest(id="a"))
    assert answer.item.metadata == struct(**values)
