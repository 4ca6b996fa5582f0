"""SearchService.StreamSearch: queries and answers in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from queue import SimpleQueue

import grpc
import pytest

from lookalike.server.limits import Limits
from lookalike.v1 import search_service_pb2 as sp
from lookalike.v1 import types_pb2
from rpc.harness import Server, serving
from rpc.test_index import put, with_vector


def asked(tag: int, **query: object) -> sp.StreamSearchRequest:
    return sp.StreamSearchRequest(tag=tag, search=sp.SearchRequest(**query))  # type: ignore[arg-type]


class Talk:
    """A stream on which one speaks only when one has been answered."""

    def __init__(self, server: Server) -> None:
        self._queue: SimpleQueue[sp.StreamSearchRequest | None] = SimpleQueue()
        self.answers = server.search.StreamSearch(iter(self._queue.get, None), timeout=20)

    def ask(self, request: sp.StreamSearchRequest) -> sp.StreamSearchResponse:
        self._queue.put(request)
        answer: sp.StreamSearchResponse = next(self.answers)
        return answer

    def close(self) -> None:
        self._queue.put(None)


def test_answers_come_in_turn_with_their_tags(server: Server) -> None:
    put(server, with_vector("a"))
    talk = Talk(server)
    for tag in (7, 7, -1):
        answer = talk.ask(asked(tag, vector=types_pb2.Vector(values=[1, 2])))
        assert answer.tag == tag
        assert [hit.item.id for hit in answer.result.response.hits] == ["a"]
    talk.close()
    assert list(talk.answers) == []
    assert talk.answers.code() is grpc.StatusCode.OK


def test_many_may_be_sent_at_once_and_are_answered_in_order(server: Server) -> None:
    put(server, with_vector("a"))

    def queries() -> Iterator[sp.StreamSearchRequest]:
        for tag in range(50):
            yield asked(tag, text=f"number {tag}")

    assert [answer.tag for answer in server.search.StreamSearch(queries())] == list(range(50))
    texts = [getattr(query, "text", "") for _, query, _ in server.searcher.asked]
    assert texts == [f"number {tag}" for tag in range(50)]


@pytest.mark.parametrize(
    ("query", "reason", "field"),
    [
        ({}, "QUERY_MISSING", "search"),
        ({"text": "x", "limit": -1}, "ARGUMENT_INVALID", "search.limit"),
        ({"text": "x", "collection": "No"}, "ARGUMENT_INVALID", "search.collection"),
        ({"item_id": "nobody"}, "ITEM_NOT_FOUND", "search.item_id"),
    ],
)
def test_a_query_that_fails_leaves_the_stream_alone(
    server: Server, query: dict[str, object], reason: str, field: str
) -> None:
    put(server, with_vector("a"))
    talk = Talk(server)
    error = talk.ask(asked(1, **query)).result.error
    assert (error.reason, error.field) == (reason, field)
    assert talk.ask(asked(2, item_id="a")).result.HasField("response")
    talk.close()


def test_more_streams_than_allowed_are_refused_until_one_ends() -> None:
    with serving(Limits(max_search_streams=2)) as server:
        put(server, with_vector("a"))
        talks = [Talk(server), Talk(server)]
        for talk in talks:
            talk.ask(asked(1, item_id="a"))
        with pytest.raises(grpc.RpcError) as refused:
            Talk(server).ask(asked(1, item_id="a"))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        talks[0].close()
        assert list(talks[0].answers) == []
        assert Talk(server).ask(asked(3, item_id="a")).tag == 3
        talks[1].close()


def test_streams_end_when_the_server_goes_down(server: Server) -> None:
    put(server, with_vector("a"))
    talk = Talk(server)
    talk.ask(asked(1, item_id="a"))
    server.search_streams.drain()
    with pytest.raises(grpc.RpcError) as ended:
        talk.ask(asked(2, item_id="a"))
    assert ended.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(grpc.RpcError) as refused:
        Talk(server).ask(asked(1, item_id="a"))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_caller_who_leaves_frees_the_place() -> None:
    with serving(Limits(max_search_streams=1)) as server:
        put(server, with_vector("a"))
        talk = Talk(server)
        talk.ask(asked(1, item_id="a"))
        talk.answers.cancel()
        for _ in range(500):
            with contextlib.suppress(grpc.RpcError):
                assert Talk(server).ask(asked(2, item_id="a")).tag == 2
                return
        pytest.fail("the place of a caller who left stays taken")
