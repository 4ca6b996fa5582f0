from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.server.domain import (
    Answer,
    ImageQuery,
    Item,
    ItemQuery,
    Judgement,
    Match,
    MixedQuery,
    Part,
    Region,
    SearchOptions,
    TextQuery,
    Tier,
    VectorQuery,
)
from lookalike.server.limits import Limits
from lookalike.v1 import index_service_pb2 as ip
from lookalike.v1 import search_service_pb2 as sp
from lookalike.v1 import types_pb2
from made_pictures import encoded, jpeg, scene
from rpc.harness import Server, serving
from rpc.test_index import put, refusal, struct, with_vector
from rpc.test_real_server import Process, running

LEFT = types_pb2.Region(left=0, top=0.25, width=0.5, height=0.5)
TEXT = sp.QueryPart(text="a shoe")
IMAGE = types_pb2.Image(data=b"picture")


@pytest.fixture
def stocked(server: Server) -> Server:
    """A server over the fake domain, with an item "a" in its default collection."""
    put(server, with_vector("a"))
    return server


def test_every_kind_of_part_reaches_the_domain(stocked: Server) -> None:
    stocked.search.Search(
        sp.SearchRequest(
            parts=[
                sp.QueryPart(text="a shoe"),
                sp.QueryPart(image=IMAGE, weight=-0.5, region=LEFT),
                sp.QueryPart(item_id="a", weight=2, region=LEFT),
                sp.QueryPart(vector=types_pb2.Vector(values=[1, 2]), weight=0),
            ]
        )
    )
    [(_, query, options)] = stocked.searcher.asked
    assert isinstance(query, MixedQuery)
    box = Region(0, 0.25, 0.5, 0.5)
    assert query.parts[:3] == (
        Part(TextQuery("a shoe"), 1.0),
        Part(ImageQuery(b"picture", box), -0.5),
        Part(ItemQuery("a", box), 2.0),
    )
    vector = query.parts[3].input
    assert isinstance(vector, VectorQuery)
    assert (vector.vector.tolist(), query.parts[3].weight) == ([1, 2], 1.0)
    assert options == SearchOptions()


def test_a_region_reaches_the_domain(stocked: Server) -> None:
    stocked.search.Search(sp.SearchRequest(image=IMAGE, region=LEFT))
    stocked.search.Search(sp.SearchRequest(item_id="a", region=LEFT))
    box = Region(0, 0.25, 0.5, 0.5)
    queries = [query for _, query, _ in stocked.searcher.asked]
    assert queries == [ImageQuery(b"picture", box), ItemQuery("a", box)]


@pytest.mark.parametrize("sides", [{}, {"width": 1, "height": 1}])
def test_the_whole_picture_is_no_region(stocked: Server, sides: dict[str, float]) -> None:
    whole = types_pb2.Region(**sides)
    stocked.search.Search(sp.SearchRequest(image=IMAGE, region=whole))
    stocked.search.Search(sp.SearchRequest(text="x", region=whole))
    stocked.search.Search(sp.SearchRequest(parts=[TEXT], region=whole))
    assert [query for _, query, _ in stocked.searcher.asked] == [
        ImageQuery(b"picture"),
        TextQuery("x"),
        MixedQuery((Part(TextQuery("a shoe")),)),
    ]


def test_a_region_may_reach_the_edges_in_float32(stocked: Server) -> None:
    for tenth in range(1, 10):
        box = types_pb2.Region(left=tenth / 10, top=0, width=1 - tenth / 10, height=1)
        stocked.search.Search(sp.SearchRequest(image=IMAGE, region=box))
    assert len(stocked.searcher.asked) == 9


def test_every_new_option_reaches_the_domain(stocked: Server) -> None:
    stocked.search.Search(
        sp.SearchRequest(
            text="x",
            diversity=0.5,
            group_by="size.width",
            group_limit=3,
            fold_duplicates=True,
            max_false_match_rate=0.25,
            judge=True,
        )
    )
    stocked.search.Search(sp.SearchRequest(text="x", group_by="brand"))
    assert [options for _, _, options in stocked.searcher.asked] == [
        SearchOptions(
            diversity=0.5,
            group_by="size.width",
            group_limit=3,
            fold_duplicates=True,
            max_false_match_rate=0.25,
            judge=True,
        ),
        SearchOptions(group_by="brand"),
    ]


def region(**sides: float) -> types_pb2.Region:
    return types_pb2.Region(**{"left": 0.1, "top": 0.1, "width": 0.5, "height": 0.5, **sides})


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"parts": [TEXT] * 33}, "ARGUMENT_INVALID", "parts"),
        ({"text": "x", "parts": [TEXT]}, "ARGUMENT_INVALID", "parts"),
        ({"parts": [TEXT], "region": LEFT}, "ARGUMENT_INVALID", "region"),
        ({"parts": [TEXT, sp.QueryPart()]}, "QUERY_MISSING", "parts[1]"),
        ({"parts": [TEXT, sp.QueryPart(text="")]}, "ARGUMENT_INVALID", "parts[1].text"),
        (
            {"parts": [sp.QueryPart(text="x", weight=math.nan)]},
            "ARGUMENT_INVALID",
            "parts[0].weight",
        ),
        (
            {"parts": [sp.QueryPart(text="x", weight=-math.inf)]},
            "ARGUMENT_INVALID",
            "parts[0].weight",
        ),
        (
            {"parts": [TEXT, sp.QueryPart(image=types_pb2.Image())]},
            "ARGUMENT_INVALID",
            "parts[1].image",
        ),
        (
            {"parts": [sp.QueryPart(image=types_pb2.Image(data=b""))]},
            "IMAGE_UNDECODABLE",
            "parts[0].image.data",
        ),
        ({"parts": [sp.QueryPart(item_id="")]}, "ID_MISSING", "parts[0].item_id"),
        (
            {"parts": [sp.QueryPart(vector=types_pb2.Vector())]},
            "DIMENSION_MISMATCH",
            "parts[0].vector",
        ),
        ({"parts": [sp.QueryPart(text="x", region=LEFT)]}, "ARGUMENT_INVALID", "parts[0].region"),
        (
            {"parts": [sp.QueryPart(image=IMAGE, region=region(width=0))]},
            "ARGUMENT_INVALID",
            "parts[0].region.width",
        ),
        ({"text": "x", "region": LEFT}, "ARGUMENT_INVALID", "region"),
        (
            {"vector": types_pb2.Vector(values=[1]), "region": LEFT},
            "ARGUMENT_INVALID",
            "region",
        ),
        ({"image": IMAGE, "region": region(left=-0.1)}, "ARGUMENT_INVALID", "region.left"),
        ({"image": IMAGE, "region": region(left=1)}, "ARGUMENT_INVALID", "region.left"),
        ({"image": IMAGE, "region": region(top=math.nan)}, "ARGUMENT_INVALID", "region.top"),
        ({"image": IMAGE, "region": region(width=0.91)}, "ARGUMENT_INVALID", "region.width"),
        ({"image": IMAGE, "region": region(height=-1)}, "ARGUMENT_INVALID", "region.height"),
        ({"image": IMAGE, "region": region(height=math.inf)}, "ARGUMENT_INVALID", "region.height"),
        ({"text": "x", "diversity": -0.1}, "ARGUMENT_INVALID", "diversity"),
        ({"text": "x", "diversity": 1.1}, "ARGUMENT_INVALID", "diversity"),
        ({"text": "x", "diversity": math.nan}, "ARGUMENT_INVALID", "diversity"),
        ({"text": "x", "group_by": "@id"}, "ARGUMENT_INVALID", "group_by"),
        ({"text": "x", "group_by": "a\0b"}, "ARGUMENT_INVALID", "group_by"),
        ({"text": "x", "group_by": "x" * 20_000}, "ARGUMENT_INVALID", "group_by"),
        ({"text": "x", "group_by": "a", "group_limit": -1}, "ARGUMENT_INVALID", "group_limit"),
        ({"text": "x", "group_by": "a", "group_limit": 1001}, "ARGUMENT_INVALID", "group_limit"),
        ({"text": "x", "group_limit": 2}, "ARGUMENT_INVALID", "group_limit"),
        ({"text": "x", "max_false_match_rate": -0.1}, "ARGUMENT_INVALID", "max_false_match_rate"),
        ({"text": "x", "max_false_match_rate": 1}, "ARGUMENT_INVALID", "max_false_match_rate"),
        (
            {"text": "x", "max_false_match_rate": math.nan},
            "ARGUMENT_INVALID",
            "max_false_match_rate",
        ),
        (
            {"text": "x", "max_false_match_rate": 0.1, "min_score": 0.1},
            "ARGUMENT_INVALID",
            "max_false_match_rate",
        ),
    ],
)
def test_options_that_can_never_work_are_refused_alone_and_in_a_batch(
    stocked: Server, fields: dict[str, Any], reason: str, field: str
) -> None:
    request = sp.SearchRequest(**fields)
    found = refusal(stocked.search.Search, request)
    assert (found.code.name, found.reason, found.field) == ("INVALID_ARGUMENT", reason, field)
    good = sp.SearchRequest(text="x")
    answer = stocked.search.BatchSearch(sp.BatchSearchRequest(queries=[good, request, good]))
    assert [r.WhichOneof("result") for r in answer.results] == ["response", "error", "response"]
    error = answer.results[1].error
    assert (error.reason, error.field) == (reason, f"queries[1].{field}")


def test_the_limits_are_where_they_are_said_to_be(stocked: Server) -> None:
    stocked.search.Search(sp.SearchRequest(parts=[TEXT] * 32))
    stocked.search.Search(sp.SearchRequest(text="x", diversity=1, group_by="a", group_limit=1000))
    with serving(Limits(max_query_parts=2)) as small:
        found = refusal(small.search.Search, sp.SearchRequest(parts=[TEXT] * 3))
        assert found.metadata["limit"] == "2"


def test_hits_say_what_they_are_worth_and_what_they_stand_for(
    stocked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(f"copy-{i}" for i in range(150))
    matches = [
        Match(Item(1, "a"), 0.9, Judgement(1e-4, Tier.SAME_PICTURE), ("b", "c")),
        Match(Item(2, "d"), 0.8, Judgement(0.0, Tier.WEAK), many),
        Match(Item(3, "e"), 0.7),
    ]
    times: dict[str, Any] = {
        f"{name}_ms": float(i)
        for i, name in enumerate(("decode", "queue", "embed", "index", "fetch", "rank", "total"))
    }
    answer = Answer(matches, exact=True, **times)
    monkeypatch.setattr(stocked.searcher, "search", lambda *_, **__: answer)
    found = stocked.search.Search(sp.SearchRequest(text="x"))
    first, second, third = found.hits
    assert (first.duplicate_count, list(first.duplicate_ids)) == (2, ["b", "c"])
    assert first.false_match_rate == pytest.approx(1e-4)
    assert first.tier == sp.MATCH_TIER_SAME_PICTURE
    assert (second.duplicate_count, list(second.duplicate_ids)) == (150, list(many[:100]))
    assert second.HasField("false_match_rate")
    assert second.tier == sp.MATCH_TIER_WEAK
    assert not third.HasField("false_match_rate")
    assert third.tier == sp.MATCH_TIER_UNSPECIFIED
    assert third.duplicate_count == 0
    for name, value in times.items():
        assert getattr(found.info, name) == value


# ---------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(tmp_path_factory.mktemp("options") / "data") as process:
        items = [
            ip.ItemInput(
                id=f"p{n}",
                image=types_pb2.Image(data=encoded(scene(n, 640, 480))),
                metadata=struct(third=n % 3),
            )
            for n in range(60)
        ]
        process.index.UpsertItems(ip.UpsertItemsRequest(items=items), timeout=60)
        yield process


def photo(number: int) -> types_pb2.Image:
    """Return the picture of the item of this number, as a camera would give it."""
    large = Image.fromarray(scene(number, 640, 480)).resize((1600, 1200))
    return types_pb2.Image(data=encoded(np.asarray(large)))


REAL = [
    sp.SearchRequest(image=photo(3)),
    sp.SearchRequest(image=photo(3), region=LEFT),
    sp.SearchRequest(item_id="p3"),
    sp.SearchRequest(item_id="p3", region=LEFT),
    sp.SearchRequest(parts=[sp.QueryPart(image=photo(n), weight=n - 2.5) for n in range(6)]),
    sp.SearchRequest(image=photo(3), diversity=0.5, fold_duplicates=True, group_by="third"),
    sp.SearchRequest(image=photo(3), view=types_pb2.ITEM_VIEW_FULL, limit=60),
]


def parts_of(info: sp.SearchInfo) -> list[float]:
    names = ("decode", "queue", "embed", "index", "fetch", "rank")
    return [getattr(info, f"{name}_ms") for name in names]


def adds_up(info: sp.SearchInfo) -> bool:
    parts = parts_of(info)
    print([round(part, 3) for part in parts], round(info.total_ms, 3))
    return min(parts) >= 0 and abs(sum(parts) - info.total_ms) <= max(0.05 * info.total_ms, 0.5)


def test_the_parts_of_the_time_add_up_on_a_real_server(real: Process) -> None:
    # another program may take the processor between two readings of the clock; not each time
    tries = 20
    for request in REAL:
        infos = (real.search.Search(request, timeout=30).info for _ in range(tries))
        info = next(filter(adds_up, infos))
        assert (info.decode_ms > 0) == (info.embed_ms > 0)
    queries = sp.BatchSearchRequest(queries=REAL)
    batches = (real.search.BatchSearch(queries, timeout=60).results for _ in range(tries))
    assert any(all(adds_up(one.response.info) for one in batch) for batch in batches)


def test_where_the_time_goes_is_told_apart(real: Process) -> None:
    whole = real.search.Search(sp.SearchRequest(image=photo(5)), timeout=30).info
    assert whole.decode_ms > 1
    item = real.search.Search(sp.SearchRequest(item_id="p5"), timeout=30).info
    assert (item.decode_ms, item.embed_ms) == (0, 0)


def test_errors_of_parts_name_their_place(real: Process) -> None:
    bad = sp.QueryPart(image=types_pb2.Image(data=jpeg(1)[:300]))
    lost = sp.QueryPart(item_id="nope")
    tiny = sp.QueryPart(item_id="p1", region=types_pb2.Region(width=0.01, height=0.5))
    for part, reason, field in (
        (bad, "IMAGE_UNDECODABLE", "image"),
        (lost, "ITEM_NOT_FOUND", "item_id"),
        (tiny, "ARGUMENT_INVALID", "region"),
        (TEXT, "MODEL_LACKS_MODALITY", "text"),
    ):
        request = sp.SearchRequest(parts=[sp.QueryPart(item_id="p0"), part])
        found = refusal(real.search.Search, request)
        assert (found.reason, found.field) == (reason, f"parts[1].{field}")
        answer = real.search.BatchSearch(sp.BatchSearchRequest(queries=[request]), timeout=30)
        error = answer.results[0].error
        assert (error.reason, error.field) == (reason, f"queries[0].parts[1].{field}")


def test_a_collage_is_searched_by_its_box(real: Process, tmp_path: Path) -> None:
    canvas = scene(900, 800, 600).copy()
    canvas[100:480, 200:706] = scene(17, 640, 480)[:380, :506]
    box = types_pb2.Region(left=200 / 800, top=100 / 600, width=506 / 800, height=380 / 600)
    image = types_pb2.Image(data=encoded(canvas))
    hits = real.search.Search(sp.SearchRequest(image=image, region=box), timeout=30).hits
    assert hits[0].item.id == "p17"


def test_groups_hold_over_the_wire(real: Process) -> None:
    request = sp.SearchRequest(image=photo(9), group_by="third", group_limit=2, limit=60)
    hits = real.search.Search(request, timeout=30).hits
    thirds = [dict(hit.item.metadata)["third"] for hit in hits]
    assert Counter(thirds) == {0: 2, 1: 2, 2: 2}
    assert hits[0].item.id == "p9"
    scores = np.array([hit.score for hit in hits])
    assert (np.diff(scores) <= 0).all()
