"""Searches of several things, judgements, duplicates, reasons and facets against a real server."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from lookalike.client import Client, NewItem, Part, Tier
from lookalike.client.cli import run
from lookalike.client.local_server import LocalServer
from made_pictures import encoded, scene

ITEMS = 60
COPIED = (3, 17, 41)


@dataclass(frozen=True)
class Shop:
    """A server with 60 different pictures, of which three are there again, and files of them."""

    address: str
    folder: Path

    def file(self, number: int) -> Path:
        return self.folder / f"{number:02}.png"


def cli(shop: Shop, *args: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, {"LOOKALIKE_ADDRESS": shop.address}):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(arg) for arg in args])
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def lines(shop: Shop, *args: str | Path) -> list[dict[str, Any]]:
    code, out, err = cli(shop, *args, "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with LocalServer(tmp_path_factory.mktemp("data") / "data") as server:
        made = Shop(server.address, folder)
        with Client(server.address) as client:
            client.upload(_items(made))
        yield made


def _items(shop: Shop) -> Iterator[NewItem]:
    for i in range(ITEMS):
        pixels = scene(i, 240, 180)
        shop.file(i).write_bytes(encoded(pixels, "PNG"))
        colour = ("red", "green", "blue")[i % 3]
        yield NewItem(f"{i:02}", shop.file(i), metadata={"colour": colour, "n": i})
        if i in COPIED:
            small = Image.fromarray(pixels).resize((160, 120))
            out = io.BytesIO()
            small.save(out, "JPEG", quality=80)
            yield NewItem(f"{i:02}-copy", out.getvalue(), metadata={"colour": colour})
    yield NewItem("03-same", shop.file(3))


# ------------------------------------------------------------------- search


def test_a_sum_of_pictures_finds_both_and_a_difference_avoids_one(shop: Shop) -> None:
    both = lines(shop, "search", shop.file(10), "+", shop.file(20), "-k", "2")
    assert {hit["id"] for hit in both} == {"10", "20"}
    weighed = lines(shop, "search", f"3:{shop.file(10)}", "+", "like:20", "-k", "1")
    assert weighed[0]["id"] == "10"
    without = lines(shop, "search", shop.file(10), "-", shop.file(20), "-k", str(2 * ITEMS))
    assert without[0]["id"] == "10"
    assert without[-1]["id"] == "20"


def test_the_client_says_the_same_as_the_command_line(shop: Shop) -> None:
    parts = [Part(image=shop.file(10), weight=2), Part(like="20", weight=-1)]
    with Client(shop.address) as client:
        expected = client.search(parts=parts, k=5).ids
    typed = lines(shop, "search", f"2:{shop.file(10)}", "-", "like:20", "-k", "5")
    assert tuple(hit["id"] for hit in typed) == expected


def test_words_for_a_model_that_knows_none_are_explained(shop: Shop) -> None:
    for args in (["a red shoe"], [str(shop.file(1)), "+", "a red shoe"]):
        code, out, err = cli(shop, "search", *args)
        assert (code, out) == (1, "")
        assert "embeds pictures only" in err


def test_a_region_is_what_is_looked_for(shop: Shop, tmp_path: Path) -> None:
    canvas = Image.fromarray(scene(777, 480, 360))
    canvas.paste(Image.fromarray(scene(25, 240, 180)), (240, 180))
    canvas.save(tmp_path / "pasted.png")
    found = lines(shop, "search", tmp_path / "pasted.png", "--region", "0.5,0.5,0.5,0.5", "-k", "1")
    assert found[0]["id"] == "25"
    assert found[0]["score"] > 0.99


def test_what_is_judged_has_a_tier_and_a_chance(shop: Shop) -> None:
    hits = lines(shop, "search", shop.file(17), "--judge", "-k", "20")
    assert [hit["tier"] for hit in hits[:2]] == ["same_picture"] * 2
    assert {hit["id"] for hit in hits[:2]} == {"17", "17-copy"}
    assert all(hit["tier"] != "same_picture" for hit in hits[2:])
    rates = [hit["false_match_rate"] for hit in hits]
    assert rates == sorted(rates)
    code, out, _ = cli(shop, "search", shop.file(17), "--judge", "-k", "2")
    assert code == 0
    assert "the same picture" in out.splitlines()[1]
    assert "by chance" in out.splitlines()[0]


def test_a_false_match_rate_stands_for_a_score(shop: Shop) -> None:
    few = lines(shop, "search", shop.file(17), "--false-match-rate", "0.001", "-k", "60")
    many = lines(shop, "search", shop.file(17), "--false-match-rate", "0.5", "-k", "60")
    assert 1 <= len(few) < len(many) < 60
    assert {hit["id"] for hit in few} >= {"17", "17-copy"}


def test_folding_grouping_and_variety_order_the_hits(shop: Shop) -> None:
    folded = lines(shop, "search", shop.file(3), "--fold", "-k", "5")
    assert folded[0]["duplicate_count"] == 2
    assert {folded[0]["id"], *folded[0]["duplicate_ids"]} == {"03", "03-copy", "03-same"}
    grouped = lines(
        shop, "search", shop.file(4), "--group-by", "colour", "--group-limit", "2",
        "--where", "exists colour", "-k", "20",
    )  # fmt: skip
    colours = [hit["metadata"]["colour"] for hit in grouped]
    assert sorted(colours) == ["blue", "blue", "green", "green", "red", "red"]
    plain = [hit["id"] for hit in lines(shop, "search", shop.file(3), "-k", "5")]
    varied = [
        hit["id"] for hit in lines(shop, "search", shop.file(3), "-k", "5", "--diversity", "0.9")
    ]
    assert plain[0] == varied[0]
    assert plain != varied


def test_the_page_shows_what_hits_are_worth(shop: Shop, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert cli(shop, "search", shop.file(17), "--judge", "-k", "3", "--html", page)[0] == 0
    assert "by chance: " in page.read_text()
    assert page.read_text().count("data:image/jpeg;base64,") == 4


# ------------------------------------------------------------------ explain


def test_a_reason_is_where_the_two_agree(shop: Shop, tmp_path: Path) -> None:
    canvas = Image.fromarray(scene(777, 480, 360))
    canvas.paste(Image.fromarray(scene(25, 240, 180)), (240, 180))
    canvas.save(tmp_path / "pasted.png")
    (found,) = lines(shop, "explain", tmp_path / "pasted.png", "25")
    left, top, width, height = found["matches"][0]["query_region"]
    assert left + width / 2 > 0.5
    assert top + height / 2 > 0.5
    assert cli(shop, "explain", "like:03", "03-copy")[0] == 0
    assert cli(shop, "explain", "like:03", "nobody")[0] == 5


# --------------------------------------------------------------- duplicates


def test_duplicates_are_the_copies_and_the_list_leaves_one_of_each(shop: Shop) -> None:
    groups = [[m["id"] for m in group["members"]] for group in lines(shop, "duplicates")]
    assert sorted(map(sorted, groups)) == [
        ["03", "03-copy", "03-same"], ["17", "17-copy"], ["41", "41-copy"],
    ]  # fmt: skip
    assert {group[0] for group in groups} == {"03", "17", "41"}
    code, out, _ = cli(shop, "duplicates", "--list", "-0", "-q")
    assert code == 0
    assert sorted(out.split("\0")[:-1]) == ["03-copy", "03-same", "17-copy", "41-copy"]
    exact = lines(shop, "duplicates", "--kind", "exact")
    assert [[m["id"] for m in group["members"]] for group in exact] == [["03", "03-same"]]
    none = cli(shop, "duplicates", "--where", "colour = 'pink'")
    assert (none[0], none[1]) == (0, "")
    assert cli(shop, "items", "count")[1] == f"{ITEMS + 4}\n"


def test_duplicates_are_told_in_a_table_and_on_a_page(shop: Shop, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, err = cli(shop, "duplicates", "--html", page)
    assert code == 0
    assert out.count("worth keeping") == 3
    assert "240x180" in out
    assert "3 groups, 4 items more than needed" in err
    assert page.read_text().count("data:image/jpeg;base64,") == 7


# ------------------------------------------------- facets, calibration, EXIF


def test_values_are_counted(shop: Shop) -> None:
    (colours,) = lines(shop, "facets", "colour", "--where", "n < 10")
    assert [(v["value"], v["count"]) for v in colours["values"]] == [
        ("red", 4), ("blue", 3), ("green", 3),
    ]  # fmt: skip
    assert colours["item_count"] == 10
    assert "colour" in {one["field"] for one in lines(shop, "facets")}


def test_what_unrelated_pictures_score_is_shown(shop: Shop) -> None:
    cli(shop, "search", shop.file(1), "--judge")
    with Client(shop.address) as client:
        known = client.collection().calibration
        hit = client.search(image=shop.file(1), judge=True, k=1)[0]
    assert known is not None
    assert known.pair_count > 1000
    assert list(known.false_match_rates) == sorted(known.false_match_rates, reverse=True)
    assert list(known.scores) == sorted(known.scores)
    assert hit.tier is Tier.SAME_PICTURE
    assert "1 in 100 unrelated pairs" in cli(shop, "collections", "show")[1]


def test_what_the_camera_wrote_is_taken_over_where_it_is_asked_for(
    shop: Shop, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0110] = "Camera 1"
    Image.fromarray(scene(900)).save(tmp_path / "shot.jpg", exif=exif.tobytes())
    made = ["collections", "create", "shots", "--indexed-field", "exif.camera", "--exist-ok"]
    assert cli(shop, *made)[0] == 0
    assert cli(shop, "index", tmp_path / "shot.jpg", "-c", "shots", "-q")[0] == 0
    (plain,) = lines(shop, "items", "list", "-c", "shots")
    assert "exif" not in plain["metadata"]
    assert cli(shop, "index", tmp_path, "--exif", "basic", "-c", "shots", "-q")[0] == 0
    where = "exif.camera = 'Camera 1'"
    assert cli(shop, "items", "count", "--where", where, "-c", "shots")[1] == "1\n"
    assert "exif.camera" in cli(shop, "collections", "show", "shots")[1]
