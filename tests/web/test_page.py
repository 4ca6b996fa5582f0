"""The page in a real browser: what people do with it, and what it must never do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer
from made_pictures import encoded, jpeg, scene
from web.chromium import Visit, axe_source, browser
from web.conftest import STORED
from web.running import Page as Gateway

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture
def visit(running: Browser, page: Gateway) -> Iterator[Visit]:
    one = Visit(running, page.url, viewport={"width": 1280, "height": 860})
    yield one
    one.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: PAGE_SHOTS, or a folder of this test run."""
    folder = os.environ.get("PAGE_SHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("shots")
    path.mkdir(parents=True, exist_ok=True)
    return path


def text_of(visit: Visit, selector: str) -> str:
    return (visit.tab.text_content(selector) or "").strip()


def test_a_dropped_picture_finds_itself(visit: Visit, files: Path) -> None:
    visit.open()
    visit.drop(files / "stored.jpg")
    assert visit.hits()[0] == "scene/3.jpg"
    assert text_of(visit, ".card .score") == "1.00"
    assert visit.tab.is_visible("#preview")
    assert text_of(visit, "#shown-name") == "stored.jpg"
    assert "ms" in text_of(visit, "#found-meta")


def test_a_pasted_picture_finds_itself(visit: Visit, files: Path) -> None:
    visit.open()
    visit.paste(files / "stored.jpg")
    assert visit.hits()[0] == "scene/3.jpg"


def test_a_chosen_picture_finds_itself_and_back_leads_back(visit: Visit, files: Path) -> None:
    tab = visit.open()
    tab.set_input_files("#file", str(files / "stored.jpg"))
    assert visit.hits()[0] == "scene/3.jpg"
    (files / "other.jpg").write_bytes(jpeg(11))
    tab.set_input_files("#file", str(files / "other.jpg"))
    tab.wait_for_selector(".card:first-child[data-id='scene/11.jpg']")
    tab.go_back()
    tab.wait_for_selector(".card:first-child[data-id='scene/3.jpg']")
    tab.click("#clear")
    tab.wait_for_selector("#drop-empty:visible")
    tab.wait_for_selector("#found-title:has-text('In this collection')")


def test_a_part_of_the_picture_is_searched_by_dragging(visit: Visit, tmp_path: Path) -> None:
    """A collage of two stored pictures: each half finds its own."""
    both = np.concatenate([scene(21), scene(22)], axis=1)
    (tmp_path / "both.png").write_bytes(encoded(both, "PNG"))
    tab = visit.open()
    visit.drop(tmp_path / "both.png")
    visit.hits()
    box = tab.locator("#preview").bounding_box()
    assert box is not None
    for share, wanted in ((0.0, "scene/21.jpg"), (0.5, "scene/22.jpg")):
        if tab.is_visible("#region"):
            tab.click("#region-toggle")
        left = box["x"] + box["width"] * share
        tab.mouse.move(left + 6, box["y"] + 6)  # the frame has round corners
        tab.mouse.down()
        tab.mouse.move(left + box["width"] / 4, box["y"] + box["height"] / 2, steps=3)
        tab.mouse.move(left + box["width"] / 2 - 2, box["y"] + box["height"] - 2, steps=3)
        tab.mouse.up()
        tab.wait_for_selector(f".card:first-child[data-id='{wanted}']")
        assert "%" in (tab.get_attribute("#region", "aria-label") or "")


def test_a_part_is_chosen_with_keys_alone(visit: Visit, files: Path) -> None:
    tab = visit.open()
    visit.drop(files / "stored.jpg")
    visit.hits()
    tab.focus("#region-toggle")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "region"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Shift+ArrowDown")
    visit.until("location.hash.endsWith('part=0.27%2C0.25%2C0.5%2C0.52')")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#region", state="hidden")


def test_words_are_refused_with_a_reason_where_the_model_knows_none(visit: Visit) -> None:
    tab = visit.open()
    visit.until("document.querySelector('#text-reason').textContent")
    assert tab.is_disabled("#text")
    assert "pictures only" in text_of(visit, "#text-reason")
    described = tab.get_attribute("#text", "aria-describedby")
    assert described == "text-reason"


def test_more_like_this_and_dislike_refine_the_hits(visit: Visit) -> None:
    tab = visit.open("#like=scene%2F5.jpg")
    before = visit.hits()
    assert "scene/5.jpg" not in before
    unwanted = before[0]
    tab.hover(f".card[data-id='{unwanted}'] .tile")
    with tab.expect_request("**/v1/search") as asked:
        tab.click(f".card[data-id='{unwanted}'] .act.no")
    parts = json.loads(asked.value.post_data or "")["parts"]
    assert parts == [{"item_id": "scene/5.jpg"}, {"item_id": unwanted, "weight": -0.3}]
    tab.wait_for_selector(f".card[data-id='{unwanted}']", state="detached")
    assert unwanted not in visit.hits()
    assert "minus=" in tab.url
    tab.click("#refine-list button")
    tab.wait_for_selector(f".card[data-id='{unwanted}']")


def test_a_link_brings_back_what_was_asked(running: Browser, page: Gateway) -> None:
    link = "#like=scene%2F5.jpg&where=colour+%3D+%22red%22&fold=1"
    visit = Visit(running, page.url)
    tab = visit.open(link)
    ids = visit.hits()
    assert {int(item_id[6:-4]) % 3 for item_id in ids} == {0}
    assert tab.input_value("#where") == 'colour = "red"'
    assert tab.is_checked("#fold")
    assert text_of(visit, "#filter-count") == "2"
    visit.close()


def test_a_condition_that_cannot_be_read_is_pointed_at(visit: Visit, files: Path) -> None:
    tab = visit.open()
    visit.drop(files / "stored.jpg")
    visit.hits()
    tab.fill("#where", "colour = red")
    tab.press("#where", "Enter")
    tab.wait_for_selector("#where-error:visible")
    assert "Text needs quotes" in text_of(visit, "#where-error")
    assert "^" in text_of(visit, "#where-error")
    assert tab.get_attribute("#where", "aria-invalid") == "true"
    tab.fill("#where", 'colour = "green"')
    tab.press("#where", "Enter")
    tab.wait_for_selector("#where-error", state="hidden")
    assert {int(i[6:-4]) % 3 for i in visit.hits()} == {1}


def test_facets_narrow_down(visit: Visit) -> None:
    tab = visit.open("#like=scene%2F5.jpg")
    visit.hits()
    tab.wait_for_selector("#facets input[name=colour]")
    tab.check("#facets input[name=colour][value='\"blue\"']", force=True)
    visit.until("!document.querySelector('.busy.on')")
    tab.wait_for_selector(".card:first-child[data-id='scene/8.jpg'], .card:first-child")
    visit.until(
        "[...document.querySelectorAll('.card')].every(c => +c.dataset.id.slice(6, -4) % 3 === 2)"
    )
    tab.check("#facets input[name=tags][value='\"even\"']", force=True)
    visit.until(
        "[...document.querySelectorAll('.card')].every(c => +c.dataset.id.slice(6, -4) % 2 === 0)"
    )


def test_more_hits_come_while_one_scrolls(visit: Visit) -> None:
    tab = visit.open("#like=scene%2F5.jpg")
    visit.hits()
    for _ in range(20):
        tab.mouse.wheel(0, 2000)
        if tab.locator(".card").count() >= STORED - 1:
            break
        tab.wait_for_timeout(100)
    assert tab.locator(".card").count() == STORED - 1
    ids = visit.hits()
    assert len(set(ids)) == len(ids)


def test_an_upload_names_the_one_bad_file(visit: Visit, files: Path) -> None:
    tab = visit.open("#c=spare")
    visit.until("document.querySelector('#collection').value === 'spare'")
    visit.drop(*sorted(files.glob("new-*.jpg")), files / "notes.jpg")
    tab.wait_for_selector("#upload[open]")
    assert text_of(visit, "#upload-go") == "Add 5 pictures"
    tab.click("#upload-go")
    visit.until("/1 failed/.test(document.querySelector('#upload-meta').textContent)")
    assert text_of(visit, "#upload-meta") == "4 pictures added, 1 failed"
    assert text_of(visit, ".outcome[data-state=failed] b") == "notes.jpg"
    assert "Send a JPEG" in text_of(visit, ".outcome[data-state=failed] p")
    assert tab.locator(".outcome[data-state=done]").count() == 4
    tab.keyboard.press("Escape")
    visit.drop(files / "new-2.jpg")
    visit.hits()
    assert text_of(visit, ".card .name") == "new-2.jpg"


def test_a_file_that_is_no_picture_is_refused_in_words(visit: Visit, files: Path) -> None:
    tab = visit.open()
    visit.drop(files / "notes.jpg")
    tab.wait_for_selector("#problem:visible")
    assert "Send a JPEG" in text_of(visit, "#problem")
    assert not tab.is_visible("#retry")
    assert tab.get_attribute("#problem", "role") == "alert"
    visit.drop(files / "stored.jpg")
    assert visit.hits()[0] == "scene/3.jpg"
    assert not tab.is_visible("#problem")


def test_a_server_that_goes_away_is_told_and_can_be_tried_again(
    running: Browser, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    server = LocalServer(tmp_path / "data")
    server.start()
    try:
        with Gateway(server.address) as gateway:
            visit = Visit(running, gateway.url)
            tab = visit.open()
            tab.wait_for_selector("#nothing-title:has-text('There is nothing here yet')")
            server.stop()
            visit.drop(tmp_path / "a.jpg")
            tab.wait_for_selector("#problem:visible")
            assert "does not answer" in text_of(visit, "#problem-text")
            assert tab.is_visible("#retry")
            visit.close()
    finally:
        server.stop()


def test_a_hit_in_full_shows_both_pictures_and_what_is_known(visit: Visit, files: Path) -> None:
    tab = visit.open()
    visit.drop(files / "stored.jpg")
    visit.hits()
    tab.click(".card:first-child .tile")
    tab.wait_for_selector("#detail[open]")
    assert tab.locator("#detail .pane img").count() == 2
    assert "Score 1.0" in text_of(visit, "#detail-verdict")
    assert "number" in text_of(visit, "#detail-facts")
    first = text_of(visit, "#detail-title")
    tab.keyboard.press("ArrowRight")
    assert text_of(visit, "#detail-title") != first
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#detail", state="hidden")
    assert tab.evaluate("document.activeElement.className") == "tile"


def test_why_a_hit_matches_is_drawn_over_both_pictures(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "part.png").write_bytes(encoded(scene(30)[20:110, 30:150], "PNG"))
    tab = visit.open()
    visit.drop(tmp_path / "part.png")
    assert "scene/30.jpg" in visit.hits()[:3]
    with tab.expect_response("**/v1/explain") as explained:
        tab.hover(".card[data-id='scene/30.jpg'] .tile")
    if explained.value.status != 200:
        pytest.skip("the server does not explain yet")
    tab.wait_for_selector(".card[data-id='scene/30.jpg'] .box")
    assert tab.locator("#query-boxes .box").count() > 0
    tab.mouse.move(5, 5)
    tab.wait_for_selector(".box", state="detached")


def test_the_grid_is_walked_with_keys(visit: Visit, files: Path) -> None:
    tab = visit.open()
    visit.drop(files / "stored.jpg")
    ids = visit.hits()
    focused = "document.activeElement.parentElement.dataset.id"
    tab.focus(".card:first-child .tile")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate(focused) == ids[1]
    tab.keyboard.press("ArrowDown")
    assert ids.index(tab.evaluate(focused)) > 2
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate(focused) == ids[1]
    tab.keyboard.press("+")
    tab.wait_for_selector(f".chip[title^='More like {Path(ids[1]).name}']")
    visit.until("!document.querySelector('.busy.on')")
    assert ids[1] not in visit.hits()


def test_the_first_tab_stop_skips_to_the_results(visit: Visit) -> None:
    tab = visit.open()
    tab.wait_for_selector(".card")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "results"


def test_words_search_where_the_model_knows_them(
    running: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "plugins/fake_words-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-words\nVersion: 1\n")
    place = "lookalike.backends.testing.fakes:FakeEmbedder"
    (info / "entry_points.txt").write_text(f"[lookalike.embedders]\nfake-words = {place}\n")
    monkeypatch.setenv("PYTHONPATH", str(info.parent))
    with LocalServer(tmp_path / "data", "--embedder", "fake-words") as server:
        with Client(server.address) as client:
            client.upload(NewItem(id=f"{i}", image=jpeg(i)) for i in range(5))
        with Gateway(server.address) as gateway:
            visit = Visit(running, gateway.url)
            tab = visit.open()
            tab.wait_for_selector("#text:enabled")
            assert text_of(visit, "#text-reason") == ""
            with tab.expect_request("**/v1/search") as asked:
                tab.fill("#text", "a red mug")
                tab.press("#text", "Enter")
            assert json.loads(asked.value.post_data or "")["text"] == "a red mug"
            assert len(visit.hits()) == 5
            assert "text=a+red+mug" in tab.url
            visit.close()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("light", {"viewport": {"width": 1280, "height": 860}}),
        ("dark", {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"}),
        (
            "phone",
            {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
        ),
    ],
)
def test_no_serious_fault_of_accessibility_in_any_state(
    running: Browser,
    page: Gateway,
    server: str,
    files: Path,
    shots: Path,
    name: str,
    options: dict[str, object],
) -> None:
    axe = axe_source()
    visit = Visit(running, page.url, **options)
    tab = visit.open()
    tab.wait_for_selector(".card")

    def check(state: str) -> None:
        tab.wait_for_timeout(350)
        tab.screenshot(path=shots / f"{name}-{state}.png")
        tab.evaluate(axe)
        found = tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (one["id"], one["help"], [node["html"][:200] for node in one["nodes"][:3]])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert not serious, (state, serious)

    check("start")
    visit.drop(files / "stored.jpg")
    visit.hits()
    tab.click("#region-toggle")
    tab.evaluate("document.querySelector('#filters').open = true")
    check("searched")
    tab.click(".card:nth-child(2) .tile")
    check("detail")
    tab.keyboard.press("Escape")
    tab.click("#add")
    tab.set_input_files("#upload-files", [str(files / "notes.jpg"), str(files / "new-1.jpg")])
    tab.click("#upload-go")
    visit.until("/failed/.test(document.querySelector('#upload-meta').textContent)")
    check("upload")
    tab.keyboard.press("Escape")
    tab.fill("#where", "colour =")
    tab.press("#where", "Enter")
    tab.wait_for_selector("#where-error:visible")
    check("error")
    width: int = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "the page scrolls sideways"
    visit.close()
    with Client(server) as client:  # other tests know what is stored
        client.delete(where='name = "new-1.jpg"')
