"""Why an item matches, with a model that knows patches: boxes where the same thing was put.

Troubleshooting: random pictures are named by their seeds, which a failing test prints.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from house import House, open_house
from lookalike.backends import registry
from lookalike.backends.errors import DeadlineExceeded
from lookalike.server.domain import (
    NO_MODEL,
    CollectionConfig,
    ImageQuery,
    ItemQuery,
    Judgement,
    NewItem,
    Region,
    Retention,
)
from lookalike.server.embedding import Embedding
from lookalike.server.explain import Explainer, Explanation
from lookalike.server.limits import Limits
from lookalike.server.pictures import Pictures
from made_pictures import encoded, scene
from mosaic import CELLS, GRID, Mosaic

PATCH = 30
SIDE = GRID * PATCH
"""Shorter side of the pictures, px, and that of the middle square, which is all that is seen."""
WIDTH = 360
EDGE = (WIDTH - SIDE) // 2


class Unjudged:
    def judge(self, collection: object, picture: object, matches: object) -> list[Judgement]:
        return [Judgement(None, None)]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(registry.embedders, "resolve", lambda name: Mosaic)
    with open_house(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def explainer(house: House) -> Iterator[Explainer]:
    pictures = Pictures(Limits(), threads=2)
    yield Explainer(house.library, Embedding(house.models, pictures), pictures, Unjudged())
    pictures.close()


def noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return random colours, one for each cell of a patch."""
    cell = PATCH // CELLS
    colours = rng.integers(0, 256, (height // cell, width // cell, 3))
    return np.kron(colours, np.ones((cell, cell, 1))).astype(np.uint8)


def pair(seed: int, here: tuple[int, int], there: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Return two pictures with the same 4 x 4 patches in them, from (row, column) on."""
    print("seed", seed)
    rng = np.random.default_rng(seed)
    thing, made = noise(rng, 4 * PATCH, 4 * PATCH), []
    for row, column in (here, there):
        picture = noise(rng, SIDE, WIDTH)
        top, left = row * PATCH, EDGE + column * PATCH
        picture[top : top + 4 * PATCH, left : left + 4 * PATCH] = thing
        made.append(picture)
    return made


def box(row: float, column: float) -> list[float]:
    """Return where 4 x 4 patches lie in the whole picture."""
    left, width = (EDGE + column * PATCH) / WIDTH, 4 * PATCH / WIDTH
    return [left, row / GRID, width, 4 / GRID]


def sides(region: Region) -> list[float]:
    return [region.left, region.top, region.width, region.height]


def check(found: Explanation, here: list[float], there: list[float]) -> None:
    match = found.agreement.matches[0]
    np.testing.assert_allclose(sides(match.query_region), here, atol=0.02)
    np.testing.assert_allclose(sides(match.item_region), there, atol=0.02)
    assert match.strength > 0.4


@pytest.mark.parametrize("retention", [Retention.THUMBNAIL, Retention.ORIGINAL])
def test_boxes_lie_on_the_same_thing_in_the_whole_pictures(
    house: House, explainer: Explainer, retention: Retention
) -> None:
    house.library.create_collection(CollectionConfig("kept", retention=retention), False)
    query, item = pair(1, (0, 4), (3, 1))
    house.put([NewItem("it", encoded(item, "PNG")), NewItem("q", encoded(query, "PNG"))], "kept")
    for asked in (ImageQuery(encoded(query, "PNG")), ItemQuery("q")):
        found = explainer.explain("kept", asked, "it", deadline=time.monotonic() + 60)
        check(found, box(0, 4), box(3, 1))
        heat = found.agreement.query_map
        assert not heat[:, :2].any(), "what the model does not see has no heat"
        assert not heat[:, 14:].any()


def test_a_photograph_that_lies_on_its_side_is_explained_upright(
    house: House, explainer: Explainer
) -> None:
    query, item = pair(2, (4, 0), (1, 2))
    house.put([NewItem("it", encoded(item, "PNG"))])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    file = io.BytesIO()
    Image.fromarray(np.rot90(query)).save(file, "PNG", exif=exif)
    found = explainer.explain("", ImageQuery(file.getvalue()), "it", deadline=None)
    check(found, box(4, 0), box(1, 2))


def test_boxes_of_a_part_lie_in_the_whole_picture(house: House, explainer: Explainer) -> None:
    query, item = pair(3, (2, 2), (4, 4))
    wide = np.concatenate([noise(np.random.default_rng(9), SIDE, 240), query], axis=1)
    house.put([NewItem("it", encoded(item, "PNG")), NewItem("q", encoded(wide, "PNG"))])
    part = Region(240 / 600, 0.0, 360 / 600, 1.0)
    left, top, width, height = box(2, 2)
    here = [part.left + left * part.width, top, width * part.width, height]
    for asked in (ImageQuery(encoded(wide, "PNG"), part), ItemQuery("q", part)):
        check(explainer.explain("", asked, "it", deadline=None), here, box(4, 4))


def test_a_thing_that_lies_between_patches_is_found(house: House, explainer: Explainer) -> None:
    start = int(np.random.SeedSequence().generate_state(1)[0]) % 10_000
    print("seed", start)
    good = 0
    for seed in range(start, start + 8):
        rng = np.random.default_rng(seed)
        item, query = scene(seed, SIDE, SIDE), scene(seed + 10_000, SIDE, SIDE)
        top, left = rng.integers(0, SIDE - 160, 2)
        query[top : top + 160, left : left + 160] = item[40:200, 40:200]
        house.put([NewItem("it", encoded(item))])
        found = explainer.explain("", ImageQuery(encoded(query)), "it", deadline=None)
        heat, y, x = found.agreement.query_map, *np.mgrid[0:16, 0:16] * SIDE / 16 + SIDE / 32
        inside = (y > top) & (y < top + 160) & (x > left) & (x < left + 160)
        good += float(heat[inside].mean()) > float(heat[~inside].mean())
    assert good >= 6


def test_without_the_model_pixels_are_compared(house: House, explainer: Explainer) -> None:
    house.library.create_collection(CollectionConfig("own", model=NO_MODEL, dimension=3), False)
    query, item = pair(4, (0, 0), (3, 3))
    for name, picture in (("q", query), ("it", item)):
        house.put([NewItem(name, encoded(picture, "PNG"), np.ones(3, np.float32))], "own")
    found = explainer.explain("own", ItemQuery("q"), "it", deadline=None)
    assert found.agreement.query_map[:, :2].any(), "pixels are seen at the edges, too"


def test_a_deadline_that_has_passed_ends_it(house: House, explainer: Explainer) -> None:
    house.put([NewItem("it", encoded(pair(5, (0, 0), (1, 1))[0], "PNG"))])
    with pytest.raises(DeadlineExceeded):
        explainer.explain("", ItemQuery("it"), "it", deadline=time.monotonic() - 1)
