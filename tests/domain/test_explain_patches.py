"""Why an item matches, with a model that knows patches: boxes where the same thing was put.

Troubleshooting: random pictures are named by their seeds, which a failing test prints.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from house import House, open_house
from lookalike.backends import registry
from lookalike.backends.embed.base import TextEmbedder, TextVectors
from lookalike.backends.errors import DeadlineExceeded, FailedPrecondition, ModelLacksModality
from lookalike.backends.types import Prepared, Vectors
from lookalike.server.domain import (
    NO_MODEL,
    CollectionConfig,
    ImageQuery,
    ItemQuery,
    Judgement,
    NewItem,
    Region,
    Retention,
    SearchOptions,
    TextQuery,
)
from lookalike.server.embedding import Embedding
from lookalike.server.explain import Explainer, Explanation
from lookalike.server.limits import Limits
from lookalike.server.models import ModelConfig
from lookalike.server.pictures import Pictures
from made_pictures import encoded, scene
from mosaic import CELLS, GRID, Mosaic

PATCH = 30
SIDE = GRID * PATCH
"""Shorter side of the pictures, px, and that of the middle square, which is all that is seen."""
WIDTH = 360
EDGE = (WIDTH - SIDE) // 2


class Reader(Mosaic, TextEmbedder):
    """Reads the name of a colour: it lies where patches of that colour do."""

    space, dim = "reader/1", CELLS * CELLS * 3
    patches_know_texts = True
    colours: ClassVar = {"red": (255, 0, 0), "green": (0, 255, 0)}

    def embed_prepared(self, batch: Sequence[Prepared]) -> Vectors:
        return np.asarray(self.embed_patches(batch).mean(axis=(1, 2)), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> TextVectors:
        rows = [np.tile(np.array(self.colours[text]) - 126.5, CELLS * CELLS) for text in texts]
        return TextVectors(np.stack(rows).astype(np.float32), [False] * len(texts))


class Vague(Reader):
    """Reads, but texts are nowhere near patches."""

    space = "vague/1"
    patches_know_texts = False


class Unjudged:
    def judge(self, collection: object, picture: object, matches: object) -> list[Judgement]:
        return [Judgement(None, None)]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    made = {"builtin": Mosaic, "reader": Reader, "vague": Vague}
    monkeypatch.setattr(registry.embedders, "resolve", made.__getitem__)
    configs = {name: ModelConfig(name) for name in made}
    with open_house(tmp_path / "data", configs=configs) as opened:
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


def test_a_text_is_found_in_the_picture_of_an_item(house: House, explainer: Explainer) -> None:
    house.library.create_collection(CollectionConfig("said", model="reader"), False)
    picture = np.full((SIDE, WIDTH, 3), 90, np.uint8)
    picture[: 4 * PATCH, EDGE + 3 * PATCH : EDGE + 7 * PATCH] = (240, 20, 20)
    house.put([NewItem("it", encoded(picture))], "said")
    found = explainer.explain("said", TextQuery("red"), "it", deadline=None)
    [match] = found.agreement.matches
    np.testing.assert_allclose(sides(match.item_region), box(0, 3), atol=0.02)
    assert match.strength > 0.9
    assert found.tier is None
    assert found.agreement.query_map.size == 0
    assert found.agreement.item_map.shape == (11, 16)
    assert found.agreement.item_map[:5, 7:12].min() > 0.9
    assert found.agreement.item_map[6:].max() < 0.1
    hits = house.searcher.search("said", TextQuery("red"), SearchOptions(), deadline=None).matches
    assert found.score == pytest.approx(hits[0].score, abs=1e-5)


def test_models_that_cannot_place_a_text_say_so(house: House, explainer: Explainer) -> None:
    for model, error in (("vague", FailedPrecondition), ("builtin", ModelLacksModality)):
        house.library.create_collection(CollectionConfig(model, model=model), False)
        house.put([NewItem("it", encoded(scene(1)))], model)
        with pytest.raises(error, match="picture") as caught:
            explainer.explain(model, TextQuery("red"), "it", deadline=None)
        assert type(caught.value) is error


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
