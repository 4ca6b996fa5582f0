"""The command line's searches of several things, judgements, duplicates, facets, reasons."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.cli_run import Run
from client.fake_server import FakeServer
from lookalike.client import DuplicateGroup, DuplicateMember
from lookalike.client.cli.duplicates import spare_ids
from lookalike.v1 import index_service_pb2, types_pb2
from lookalike.v1 import search_service_pb2 as pb

# ------------------------------------------------------------------- search


def test_words_are_searched_for_without_an_option(run: Run, server: FakeServer) -> None:
    assert run("search", "a red shoe")[0] == 0
    assert server.seen.calls[-1].text == "a red shoe"
    server.store("", index_service_pb2.ItemInput(id="boots"), 1)
    assert run("search", "like:boots")[0] == 0
    assert server.seen.calls[-1].item_id == "boots"


def test_several_things_are_added_and_taken_away(
    run: Run, server: FakeServer, photos: Path
) -> None:
    run("index", photos)
    shoe, boots = photos / "a.jpg", photos / "sub" / "b.png"
    code, out, err = run(
        "search", "a red shoe", "+", f"2:{shoe}", "-", boots, "-", "0.5:like:a.jpg", "--json", "-k1"
    )
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 1
    parts = server.seen.calls[-1].parts
    assert [(p.WhichOneof("input"), p.weight) for p in parts] == [
        ("text", 1.0), ("image", 2.0), ("image", -1.0), ("item_id", -0.5),
    ]  # fmt: skip
    assert (parts[1].image.data, parts[2].image.data) == (b"one", b"two")


def test_every_option_reaches_the_server(run: Run, server: FakeServer, photos: Path) -> None:
    args = [
        "search", photos / "a.jpg", "--region", "0,0.25,0.5,0.5", "--diversity", "0.5",
        "--group-by", "brand", "--group-limit", "2", "--fold", "--false-match-rate", "0.125",
        "--judge",
    ]  # fmt: skip
    assert run(*args)[0] == 0
    sent = server.seen.calls[-1]
    assert sent.region == types_pb2.Region(left=0, top=0.25, width=0.5, height=0.5)
    assert (sent.diversity, sent.group_by, sent.group_limit) == (0.5, "brand", 2)
    assert (sent.fold_duplicates, sent.max_false_match_rate, sent.judge) == (True, 0.125, True)


@pytest.mark.parametrize(
    "args",
    [
        ["search", "red", "blue"],
        ["search", "red", "+"],
        ["search", "red", "--region", "0,0,1,1"],
        ["search", "like:a", "+", "like:b", "--region", "0,0,1,1"],
        ["search", "like:a", "--region", "0,0,1"],
        ["search", "red", "--like", "a"],
        ["explain", "red", "item", "--region", "0,0,1,1"],
        ["explain", "like:a"],
        ["duplicates", "--kind", "alike"],
        ["duplicates", "--list", "--json"],
        ["duplicates", "-0"],
    ],
)
def test_what_cannot_be_meant_exits_2_in_a_line_or_two(
    run: Run, server: FakeServer, args: list[str]
) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert 1 <= len(err.splitlines()) <= 2
    assert server.seen.calls == []


@pytest.mark.parametrize(
    ("option", "says"),
    [(["--false-match-rate", "1"], "above 0 and below 1"), (["--region", "0,0,0,0"], "above 0")],
)
def test_numbers_that_cannot_be_are_said_in_words(run: Run, option: list[str], says: str) -> None:
    code, out, err = run("search", "like:a", *option)
    assert (code, out) == (1, "")
    assert says in err


def test_judged_hits_are_told_in_plain_words(run: Run, server: FakeServer) -> None:
    for i in range(4):
        image = types_pb2.Image(data=b"%d" % i)
        server.store("", index_service_pb2.ItemInput(id=f"i{i}", image=image), 1)
    _, out, err = run("search", "like:i0", "--judge", "--fold")
    head, *rows = out.splitlines()
    assert re.split(r"\s{2,}", head.strip()) == [
        "score",
        "id",
        "which means",
        "by chance",
        "copies",
    ]
    assert "the same picture" in rows[0]
    assert "1 in 10,000" in rows[0]
    assert rows[0].endswith("2")
    assert "weak" in rows[3]
    assert "1 in 10" in rows[3]
    assert err == ""
    lines = run("search", "like:i0", "--judge", "--fold", "--json")[1].splitlines()
    hit = json.loads(lines[0])
    assert (hit["tier"], hit["false_match_rate"]) == ("same_picture", pytest.approx(1e-4))
    assert (hit["duplicate_count"], hit["duplicate_ids"]) == (2, ["copy-1", "copy-2"])
    plain = json.loads(run("search", "like:i0", "--json")[1].splitlines()[0])
    assert set(plain) == {"id", "score", "metadata"}


def test_what_cannot_be_judged_is_said(run: Run, server: FakeServer) -> None:
    server.store("", index_service_pb2.ItemInput(id="a", image=types_pb2.Image(data=b"a")), 1)
    code, out, err = run("search", "red", "--judge")
    assert (code, len(out.splitlines())) == (0, 2)
    assert "no hit was judged" in err


def test_a_sheet_shows_tiers_chances_copies_and_all_parts(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(3):
        image.new("RGB", (40, 30), (80 * i, 0, 0)).save(tmp_path / f"<i>{i}.png")
    server.collections["default"].metric = types_pb2.METRIC_COSINE
    run("index", tmp_path)
    page = tmp_path / "page.html"
    run("search", tmp_path / "<i>1.png", "--judge", "--fold", "--html", page)
    shown = page.read_text()
    for words in ("the same picture", "by chance: 1 in 10,000", "2 copies not shown", "pixels"):
        assert words in shown
    assert "rule of thumb" not in shown
    run("search", tmp_path / "<i>1.png", "-", "2:like:<i>0.png", "+", "<b>", "--html", page)
    shown = page.read_text()
    assert shown.count('src="data:image/') == 5
    assert "+ 1 x “&lt;b&gt;”" in shown
    assert "- 2 x" in shown
    assert not re.search(r"https?://|<script|<link|<i>|<b>&|<b>”", shown)
    run("search", tmp_path / "<i>1.png", "--html", page)
    assert "rule of thumb" in page.read_text()


# ------------------------------------------------------------------ explain


def test_reasons_are_boxes_as_text_and_json(run: Run, server: FakeServer, photos: Path) -> None:
    code, out, _ = run("explain", photos / "a.jpg", "boots", "--region", "0,0,0.5,0.5", "-c", "c")
    assert code == 0
    sent = server.seen.calls[-1]
    assert (sent.item_id, sent.image.data, sent.region.width) == ("boots", b"one", 0.5)
    assert out.splitlines() == [
        "score 0.500, the same scene or thing",
        "strength  in the picture       in the item",
        "   0.750  0.50,0.25,0.50,0.50  0.00,0.00,1.00,1.00",
    ]
    found = json.loads(run("explain", "like:shoe", "boots", "--json")[1])
    assert server.seen.calls[-1].query_item_id == "shoe"
    assert found["tier"] == "same_scene"
    assert found["matches"][0]["query_region"] == [0.5, 0.25, 0.5, 0.5]
    assert found["query_map"] == [[0, 0.25, 0.5], [0.75, 1, 0]]
    code, out, _ = run("explain", "a red boot", "boots")
    assert code == 0
    assert server.seen.calls[-1].text == "a red boot"
    assert "in the item" in out
    assert "in the picture" not in out
    code, out, err = run("explain", "like:shoe", "plain")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "no region agrees" in err


# --------------------------------------------------------------- duplicates

GROUPS = [[("a", 0), ("b", 1), ("c", 2)], [("d", 0), ("-e f", 3)]]


def test_duplicates_are_told_in_groups(run: Run, server: FakeServer) -> None:
    server.groups = GROUPS
    code, out, err = run("duplicates", "--where", "price < 3", "--kind", "near")
    assert code == 0
    assert server.seen.calls[-1].kind == pb.DUPLICATE_KIND_NEAR
    assert server.seen.calls[-1].HasField("filter")
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert rows[0] == ["group", "id", "which is", "score", "size", "file"]
    assert rows[1] == ["1", "a", "worth keeping", "40x30", "2.0 KiB"]
    assert rows[2] == ["1", "b", "the same file", "0.900", "40x30", "2.0 KiB"]
    assert [row[1] for row in rows[1:]] == ["a", "b", "c", "d", "-e f"]
    assert err == "2 groups, 3 items more than needed\n"
    objects = [json.loads(x) for x in run("duplicates", "--json", "-q")[1].splitlines()]
    assert server.seen.calls[-1].kind == pb.DUPLICATE_KIND_SAME_PICTURE
    assert [[m["id"] for m in o["members"]] for o in objects] == [["a", "b", "c"], ["d", "-e f"]]
    assert objects[0]["members"][1]["kind"] == "exact"


def test_the_list_is_of_all_but_the_first_and_nothing_is_deleted(
    run: Run, server: FakeServer
) -> None:
    server.groups = GROUPS
    assert run("duplicates", "--list", "-q") == (0, "b\nc\n-e f\n", "")
    assert run("duplicates", "--list", "-0", "-q") == (0, "b\0c\0-e f\0", "")
    assert all(isinstance(call, pb.FindDuplicatesRequest) for call in server.seen.calls)


def test_no_duplicates_is_no_failure(run: Run) -> None:
    assert run("duplicates") == (0, "", "no duplicates\n")
    assert run("duplicates", "--list", "-q") == (0, "", "")


def test_a_list_that_broke_off_is_not_printed(run: Run, server: FakeServer) -> None:
    server.groups = GROUPS
    server.breaks_after_groups = 1
    code, out, err = run("duplicates", "--list")
    assert (code, out) == (4, "")
    assert err.startswith("lookalike: ")
    code, out, _ = run("duplicates", "--json")
    assert code == 4
    assert len(out.splitlines()) == 1


def test_a_page_of_duplicates_has_the_one_to_keep_first(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    server.groups = [[("<a>", 0), ("b", 2)]]
    for item_id in ("<a>", "b"):
        image = types_pb2.Image(data=b"\x89PNG")
        server.store("", index_service_pb2.ItemInput(id=item_id, image=image), 1)
    page = tmp_path / "page.html"
    code, out, err = run("duplicates", "--html", page, "--list")
    assert (code, out) == (0, "b\n")
    assert str(page) in err
    shown = page.read_text()
    assert shown.count('src="data:image/') == 2
    assert shown.index("<b>keep</b>") < shown.index("&lt;a&gt;</div>") < shown.index("0.900")
    assert not re.search(r"https?://|<script|<link|<a>", shown)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4, unique=True)))
def test_of_every_group_the_first_is_never_in_the_list(drawn: list[list[str]]) -> None:
    groups = [DuplicateGroup(tuple(DuplicateMember(i, "", 1.0) for i in ids)) for ids in drawn]
    spare = spare_ids(groups)
    assert len(set(spare)) == len(spare)
    assert not {ids[0] for ids in drawn if ids} & set(spare)
    assert {i for ids in drawn for i in ids} == {ids[0] for ids in drawn if ids} | set(spare)


# ------------------------------------------------------------------- facets


def test_values_are_counted_in_a_table_and_as_json(run: Run, server: FakeServer) -> None:
    code, out, _ = run("facets", "brand", "--where", "a = 1", "-n", "5")
    assert code == 0
    sent = server.seen.calls[-1]
    assert (list(sent.fields), sent.limit, sent.HasField("filter")) == (["brand"], 5, True)
    assert [line.split() for line in out.splitlines()] == [
        ["field", "value", "items"], ["brand", "red", "2"], ["brand", "7", "1"],
        ["brand", "yes", "1"],
    ]  # fmt: skip
    (line,) = run("facets", "--json")[1].splitlines()
    found = json.loads(line)
    assert (found["field"], found["item_count"]) == ("colour", 3)
    assert found["values"][1] == {"value": 7, "count": 1}
    assert run("facets", "--where", "a = 1")[:2] == (0, "")


# ------------------------------------------------------- index, collections


def test_exif_is_asked_for(run: Run, server: FakeServer, photos: Path) -> None:
    v1 = index_service_pb2
    for word, mode in (
        ("basic", v1.EXIF_MODE_BASIC),
        ("with-position", v1.EXIF_MODE_WITH_POSITION),
    ):
        assert run("index", photos, "--exif", word, "-q")[0] == 0
        assert server.seen.calls[-1].start.exif == mode
    assert run("index", photos, "-q")[0] == 0
    assert not server.seen.calls[-1].start.exif
    code, _, err = run("index", photos, "--exif", "all", "-q")
    assert code == 1
    assert "basic" in err


def test_indexed_fields_and_calibration_are_shown(run: Run, server: FakeServer) -> None:
    assert run(
        "collections", "create", "new", "--indexed-field", "brand", "--indexed-field", "price"
    )[0] == 0  # fmt: skip
    assert list(server.collections["new"].indexed_fields) == ["brand", "price"]
    calibration = server.collections["new"].calibration
    calibration.false_match_rates.extend([0.02, 0.01, 0.005, 0.001])
    calibration.scores.extend([0.25, 0.5, 0.625, 0.75])
    shown = run("collections", "show", "new")[1]
    assert "brand, price" in shown
    assert "1 in 100 unrelated pairs scores 0.500 or more" in shown
    assert "1 in 1,000 unrelated pairs scores 0.750 or more" in shown
    assert "0.625" not in shown
