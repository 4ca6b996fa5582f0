"""Searches of several things, judged hits, reasons, duplicates and facets over the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.fake_server import FakeServer
from lookalike.client import (
    Client,
    DuplicateProgress,
    F,
    NewItem,
    Part,
    Query,
    Region,
    Tier,
    errors,
    vector_array,
)
from lookalike.client import _answer_calls as calls
from lookalike.client import _answer_wire as wire
from lookalike.v1 import index_service_pb2, types_pb2
from lookalike.v1 import search_service_pb2 as pb


def store(server: FakeServer, *pictures: bytes) -> None:
    for i, data in enumerate(pictures):
        item = index_service_pb2.ItemInput(id=f"item-{i}", image=types_pb2.Image(data=data))
        server.store("", item, 1)


# ------------------------------------------------------------- messages


def test_parts_carry_their_input_weight_and_region() -> None:
    parts = [
        Part(text="a red shoe"),
        Part(image=b"picture", weight=2, region=(0.25, 0.5, 0.25, 0.5)),
        Part(like="boots", weight=-1),
        Part(vector=[1.0, 2.0], weight=0.5),
    ]
    message = calls.query_message(Query(parts=parts))
    assert message.WhichOneof("query") is None
    assert not message.HasField("region")
    assert [part.WhichOneof("input") for part in message.parts] == [
        "text",
        "image",
        "item_id",
        "vector",
    ]
    assert [part.weight for part in message.parts] == [1, 2, -1, 0.5]
    assert [part.HasField("region") for part in message.parts] == [False, True, False, False]
    box = message.parts[1].region
    assert (box.left, box.top, box.width, box.height) == (0.25, 0.5, 0.25, 0.5)
    assert vector_array(message.parts[3].vector).tolist() == [1.0, 2.0]


def test_every_option_of_a_search_is_sent(client: Client, server: FakeServer) -> None:
    client.search(
        image=b"x", region=Region(0, 0, 0.5, 1), diversity=0.25, group_by="size.name", group_limit=3,
        fold_duplicates=True, max_false_match_rate=0.5, judge=True,
    )  # fmt: skip
    sent = server.seen.calls[-1]
    assert sent.region == types_pb2.Region(left=0, top=0, width=0.5, height=1)
    assert (sent.diversity, sent.group_by, sent.group_limit) == (0.25, "size.name", 3)
    assert (sent.fold_duplicates, sent.max_false_match_rate, sent.judge) == (True, 0.5, True)
    client.search(image=b"x")
    plain = server.seen.calls[-1]
    assert plain == pb.SearchRequest(
        image=types_pb2.Image(data=b"x"), limit=10, view=types_pb2.ITEM_VIEW_BASIC
    )


@pytest.mark.parametrize(
    ("query", "error", "field"),
    [
        (Query(), errors.QueryMissing, ""),
        (Query(text="a", parts=[Part(text="b")]), errors.QueryMissing, ""),
        (Query(parts=[Part(text="a"), Part()]), errors.QueryMissing, "parts[1]"),
        (Query(parts=[Part(text="a", like="b")]), errors.QueryMissing, "parts[0]"),
        (Query(parts=[Part(text="a", weight=0)]), errors.InvalidArgument, "parts[0].weight"),
        (Query(parts=[Part(text="a", weight=1e-60)]), errors.InvalidArgument, "parts[0].weight"),
        (Query(parts=[Part(text="a", weight=1e60)]), errors.InvalidArgument, "parts[0].weight"),
        (Query(parts=[Part(text="a", weight=np.nan)]), errors.InvalidArgument, "parts[0].weight"),
        (
            Query(parts=[Part(image=b"a", region=(0, 0, 1))]),
            errors.InvalidArgument,
            "parts[0].region",
        ),
        (Query(image=b"a", region=(0, 0, 0, 0)), errors.InvalidArgument, "region"),
        (Query(image=b"a", region=(0, 0, 1, np.nan)), errors.InvalidArgument, "region"),
        (Query(image=b"a", region="0,0"), errors.InvalidArgument, "region"),  # type: ignore[arg-type]
        (Query(image=b"a", max_false_match_rate=0), errors.InvalidArgument, "max_false_match_rate"),
        (Query(image=b"a", max_false_match_rate=1), errors.InvalidArgument, "max_false_match_rate"),
    ],
)
def test_what_no_message_can_say_is_refused_before_it_is_sent(
    query: Query, error: type[errors.LookalikeError], field: str
) -> None:
    with pytest.raises(error) as caught:
        calls.query_message(query)
    assert caught.value.field == field
    assert caught.value.message.endswith(".")


def test_a_batch_may_mix_queries_of_all_kinds(client: Client, server: FakeServer) -> None:
    store(server, b"one")
    queries = [
        Query(parts=[Part(text="a"), Part(like="item-0")]),
        Query(text="bad"),
        Query(text="b"),
    ]
    answers = client.search_batch(queries)
    assert isinstance(answers[1], errors.ModelLacksModality)
    assert len(server.seen.calls[-1].queries[0].parts) == 2


# -------------------------------------------------------------- answers


def test_a_judged_hit_says_what_it_is_worth(client: Client, server: FakeServer) -> None:
    store(server, b"1", b"2", b"3", b"4", b"5")
    hits = client.search(image=b"1", judge=True, fold_duplicates=True).hits
    assert [hit.tier for hit in hits] == [
        Tier.SAME_PICTURE, Tier.SAME_SCENE, Tier.SIMILAR, Tier.WEAK, Tier.UNKNOWN,
    ]  # fmt: skip
    assert [hit.false_match_rate for hit in hits] == pytest.approx([1e-4, 1e-3, 1e-2, 0.1, 1])
    assert (hits[0].duplicate_count, hits[0].duplicate_ids) == (2, ("copy-1", "copy-2"))
    assert (hits[1].duplicate_count, hits[1].duplicate_ids) == (0, ())


def test_a_hit_that_was_not_judged_has_no_tier_and_no_rate(
    client: Client, server: FakeServer
) -> None:
    store(server, b"1")
    (hit,) = client.search(image=b"1")
    assert (hit.tier, hit.false_match_rate) == (Tier.NOT_JUDGED, None)
    assert not hit.tier


def test_a_rate_of_nothing_is_a_rate() -> None:
    response = pb.SearchResponse(hits=[pb.SearchHit(false_match_rate=0.0)])
    assert wire.search_result(response)[0].false_match_rate == 0.0


def test_the_times_of_an_answer_are_passed_on() -> None:
    names = ("decode_ms", "queue_ms", "embed_ms", "index_ms", "fetch_ms", "rank_ms", "total_ms")
    sent: dict[str, Any] = {name: float(i + 1) for i, name in enumerate(names)}
    info = wire.search_result(pb.SearchResponse(info=pb.SearchInfo(**sent))).info
    assert {name: getattr(info, name) for name in names} == sent


def test_reasons_come_with_boxes_and_maps(client: Client, server: FakeServer) -> None:
    found = client.explain("boots", image=b"x", region=(0, 0, 0.5, 0.5), collection="c")
    sent = server.seen.calls[-1]
    assert (sent.collection, sent.item_id, sent.image.data) == ("c", "boots", b"x")
    assert sent.region.width == 0.5
    assert (found.score, found.tier) == (0.5, Tier.SAME_SCENE)
    (match,) = found.matches
    assert match.query_region == Region(0.5, 0.25, 0.5, 0.5) == (0.5, 0.25, 0.5, 0.5)
    assert match.item_region == Region(0, 0, 1, 1)
    assert match.strength == 0.75
    assert found.query_map.tolist() == [[0, 0.25, 0.5], [0.75, 1, 0]]
    assert found.query_map.dtype == np.float32
    assert found.item_map.shape == (1, 1)
    client.explain("boots", text="red")
    assert server.seen.calls[-1].text == "red"
    client.explain("boots", like="shoe")
    assert server.seen.calls[-1].query_item_id == "shoe"
    assert not server.seen.calls[-1].HasField("region")


@pytest.mark.parametrize("given", [{}, {"image": b"x", "like": "a"}, {"text": "a", "like": "a"}])
def test_reasons_need_one_thing_to_compare_with(client: Client, given: dict[str, Any]) -> None:
    with pytest.raises(errors.QueryMissing, match="one of image, like and text"):
        client.explain("boots", **given)


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (-1, -3), (3, 0)])
def test_a_map_that_does_not_add_up_is_the_servers_defect(rows: int, columns: int) -> None:
    message = pb.ExplainResponse(query_map=pb.HeatMap(rows=rows, columns=columns, values=[0, 0, 0]))
    with pytest.raises(errors.Internal, match="heat map"):
        wire.explanation(message)


def test_duplicates_come_as_groups_with_progress(client: Client, server: FakeServer) -> None:
    server.groups = [[("a", 0), ("b", 1), ("c", 2)], [("d", 0), ("e", 3), ("f", 99)]]
    seen: list[DuplicateProgress] = []
    groups = list(
        client.find_duplicates(kind="near", where=F.price > 3, progress=seen.append, collection="c")
    )
    sent = server.seen.calls[-1]
    assert (sent.kind, sent.collection) == (pb.DUPLICATE_KIND_NEAR, "c")
    assert sent.HasField("filter")
    assert [group.ids for group in groups] == [("a", "b", "c"), ("d", "e", "f")]
    assert [m.kind for g in groups for m in g.members] == [
        "", "exact", "same_picture", "", "near", "unknown",
    ]  # fmt: skip
    first = groups[0].members[0]
    assert first.image is not None
    assert (first.image.width, first.image.size_bytes) == (40, 2048)
    assert seen == [DuplicateProgress(0, 2), DuplicateProgress(1, 2), DuplicateProgress(2, 2)]


def test_the_same_picture_is_what_duplicates_are_unless_said(
    client: Client, server: FakeServer
) -> None:
    assert list(client.find_duplicates()) == []
    assert server.seen.calls[-1].kind == pb.DUPLICATE_KIND_SAME_PICTURE
    with pytest.raises(errors.InvalidArgument, match="exact, same_picture, near"):
        next(client.find_duplicates(kind="alike"))  # type: ignore[arg-type]


def test_values_are_counted(client: Client, server: FakeServer) -> None:
    found = client.count_values(["brand", "size.name"], where="a = 1", limit=7)
    sent = server.seen.calls[-1]
    assert (list(sent.fields), sent.limit) == (["brand", "size.name"], 7)
    assert sent.HasField("filter")
    assert [one.field for one in found] == ["brand", "size.name"]
    assert [(v.value, v.count) for v in found[0].values] == [("red", 2), (7, 1), (True, 1)]
    assert isinstance(found[0].values[1].value, int)
    assert found[0].item_count == 3
    assert [one.field for one in client.count_values()] == ["colour"]
    with pytest.raises(TypeError, match="list of fields"):
        client.count_values("brand")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.explain("a", like="b"),
        lambda client: list(client.find_duplicates()),
        lambda client: client.count_values(),
    ],
)
def test_errors_of_the_server_have_their_class(
    client: Client, server: FakeServer, ask: Callable[[Client], Any]
) -> None:
    server.fail = (5, "ITEM_NOT_FOUND", "There is no such item.")
    with pytest.raises(errors.ItemNotFound):
        ask(client)


# --------------------------------------------------- writes, collections


def test_exif_is_asked_for_by_its_word(client: Client, server: FakeServer) -> None:
    v1 = index_service_pb2
    client.upsert([NewItem("a", b"x")], exif="with_position")
    assert server.seen.calls[-1].exif == v1.EXIF_MODE_WITH_POSITION
    client.upload([NewItem("b", b"x")], exif="basic")
    assert server.seen.calls[-1].start.exif == v1.EXIF_MODE_BASIC
    client.upload([NewItem("b", b"x")])
    assert server.seen.calls[-1].start.exif == v1.EXIF_MODE_NONE
    with pytest.raises(errors.InvalidArgument, match="none, basic, with_position"):
        client.upload([NewItem("b", b"x")], exif="all")  # type: ignore[arg-type]


def test_a_collection_tells_its_fields_and_its_calibration(
    client: Client, server: FakeServer
) -> None:
    made = client.create_collection("shop", indexed_fields=["brand", "price"])
    assert made.indexed_fields == ("brand", "price")
    assert made.calibration is None
    calibration = index_service_pb2.ScoreCalibration(
        pair_count=10, false_match_rates=[0.5, 0.25], scores=[0.5, 0.75]
    )
    server.collections["shop"].calibration.CopyFrom(calibration)
    known = client.collection("shop").calibration
    assert known is not None
    assert (known.pair_count, known.false_match_rates, known.scores) == (
        10,
        (0.5, 0.25),
        (0.5, 0.75),
    )
    with pytest.raises(TypeError, match="list of names"):
        client.create_collection("other", indexed_fields="brand")
