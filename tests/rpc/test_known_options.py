"""Options that came lately are not read again, and never taken for others."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from lookalike.backends.errors import InvalidArgument, LookalikeError
from lookalike.server.domain import VectorQuery
from lookalike.server.limits import Limits
from lookalike.server.rpc import wire_options
from lookalike.server.rpc.wire_options import read_options
from lookalike.server.rpc.wire_queries import SearchReader
from lookalike.server.rpc.wire_vectors import write_vector
from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import types_pb2
from rpc.harness import Server
from rpc.test_index import put, with_vector

LIMITS = Limits()
FIELDS: dict[str, tuple[Any, ...]] = {
    "collection": ("", "shoes", "No!"),
    "limit": (0, 3, 2000),
    "view": (0, 1, 3, 99),
    "min_score": (None, 0.0, 0.5, float("nan")),
    "diversity": (0.0, 0.25),
    "group_by": ("", "brand"),
    "judge": (False, True),
    "params": (None, pb.SearchParams(exact=True), pb.SearchParams(ef_search=40)),
    "filter": (
        None,
        types_pb2.Filter(all=[types_pb2.Condition(field="a", exists=True)]),
        types_pb2.Filter(any=[types_pb2.Condition(field="a", exists=True)]),
    ),
}


def made(rng: random.Random) -> pb.SearchRequest:
    message = pb.SearchRequest(**{name: rng.choice(values) for name, values in FIELDS.items()})
    message.vector.CopyFrom(write_vector(np.array([rng.random(), 1, 2], np.float32)))
    return message


def outcome(read: Any) -> object:
    try:
        return read()
    except LookalikeError as error:
        return type(error), error.field, error.message


def test_known_options_are_what_reading_them_gives() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    reader = SearchReader(LIMITS)
    for _ in range(1500):
        message = made(rng)
        bare = pb.SearchRequest.FromString(message.SerializeToString())
        bare.ClearField("vector")
        values = list(message.vector.values)
        if bare.collection == "No!":
            with pytest.raises(InvalidArgument, match="name"):
                reader.read(message)
            continue
        expected = outcome(lambda bare=bare: read_options(bare, LIMITS, ""))
        found = outcome(lambda message=message: reader.read(message))
        if not isinstance(found, tuple) or isinstance(found[0], type):
            assert found == expected
            continue
        name, query, options = found
        assert (name, options) == (bare.collection, expected)
        assert isinstance(query, VectorQuery)
        assert query.vector.tolist() == values


def test_alike_searches_have_one_object_for_their_options() -> None:
    reader = SearchReader(LIMITS)
    found = [
        reader.read(pb.SearchRequest(limit=3, vector=types_pb2.Vector(values=[number])))[2]
        for number in (1, 2)
    ]
    assert found[0] is found[1]


def test_no_more_options_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_options, "_MOST_KNOWN", 4)
    reader = SearchReader(LIMITS)
    for limit, _ in itertools.product(range(1, 30), range(2)):
        message = pb.SearchRequest(limit=limit, vector=types_pb2.Vector(values=[1]))
        assert reader.read(message)[2].limit == limit
        assert len(reader._known._known) <= 4
    long = pb.SearchRequest(group_by="x" * 2000, vector=types_pb2.Vector(values=[1]))
    before = dict(reader._known._known)
    assert reader.read(long)[2].group_by == "x" * 2000
    assert reader._known._known == before


def test_a_batch_of_all_kinds_keeps_its_order_and_blames_the_right_query(server: Server) -> None:
    put(server, with_vector("a"))
    good = types_pb2.Vector(values=[1, 2])
    queries = [
        pb.SearchRequest(vector=good),
        pb.SearchRequest(vector=types_pb2.Vector(values=[1, float("nan")])),
        pb.SearchRequest(text="x"),
        pb.SearchRequest(vector=good, limit=-1),
        pb.SearchRequest(vector=good, collection="No!"),
        pb.SearchRequest(vector=types_pb2.Vector()),
        pb.SearchRequest(vector=good, parts=[pb.QueryPart(text="x")]),
        pb.SearchRequest(),
        pb.SearchRequest(vector=good, region=types_pb2.Region(width=0.5, height=0.5)),
        pb.SearchRequest(vector=good, limit=7),
    ]
    found = server.search.BatchSearch(pb.BatchSearchRequest(queries=queries)).results
    fields = [result.error.field for result in found]
    assert fields == [
        "",
        "queries[1].vector",
        "",
        "queries[3].limit",
        "queries[4].collection",
        "queries[5].vector",
        "queries[6].parts",
        "queries[7]",
        "queries[8].region",
        "",
    ]
    assert [result.WhichOneof("result") for result in found].count("response") == 3
    limits = [options.limit for _, _, options in server.searcher.asked]
    assert limits == [10, 10, 7]


def test_an_answer_without_hits_is_an_answer(server: Server) -> None:
    put(server, with_vector("a"))
    server.library.collection("default").items.clear()
    query = pb.SearchRequest(vector=types_pb2.Vector(values=[1, 2]))
    [found] = server.search.BatchSearch(pb.BatchSearchRequest(queries=[query])).results
    assert found.WhichOneof("result") == "response"
    assert not found.response.hits
