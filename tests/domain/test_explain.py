"""Which regions of two pictures agree, and why an item matches a query.

Troubleshooting: random scenes are named by their seeds, which a failing test prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from house import House, open_house
from lookalike.backends.errors import ImageNotRetained, InvalidArgument, ItemNotFound
from lookalike.server.agreement import agree, heat_shape
from lookalike.server.domain import (
    CollectionConfig,
    ImageQuery,
    ItemQuery,
    Judgement,
    NewItem,
    Region,
    Retention,
    SearchOptions,
    Tier,
)
from lookalike.server.embedding import Embedding
from lookalike.server.explain import Explainer, in_whole
from lookalike.server.limits import Limits
from lookalike.server.pictures import Pictures
from made_pictures import encoded, scene

WHOLE = Region(0.0, 0.0, 1.0, 1.0)


def overlap(one: Region, other: Region) -> float:
    """Return intersection over union."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    both = max(width, 0.0) * max(height, 0.0)
    return both / (one.width * one.height + other.width * other.height - both)


def detailed(seed: int, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    """Return a scene with fine detail all over it, as photographs have."""
    rng = np.random.default_rng(seed)
    made = scene(seed, width, height).astype(np.float32)
    for cells in (12, 30):
        grain = rng.uniform(0, 255, (cells, cells, 3)).astype(np.uint8)
        grown = Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC)
        made = 0.65 * made + 0.35 * np.asarray(grown, np.float32)
    return np.clip(made, 0, 255).astype(np.uint8)


def collage(seed: int, share: float = 0.4) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Region]:
    """Return a collage, what was pasted on it, and where."""
    rng = np.random.default_rng(seed)
    item, made = detailed(seed), detailed(seed + 10_000)
    height, width = (round(n * share**0.5) for n in item.shape[:2])
    top, left = int(rng.integers(0, 240 - height)), int(rng.integers(0, 320 - width))
    small = Image.fromarray(item).resize((width, height), Image.Resampling.LANCZOS)
    made[top : top + height, left : left + width] = np.asarray(small)
    return made, item, Region(left / 320, top / 240, width / 320, height / 240)


# ---------------------------------------------------------------- the regions


def test_the_strongest_region_is_where_the_picture_was_pasted() -> None:
    start = int(np.random.SeedSequence().generate_state(1)[0]) % 10_000
    print(f"seed {start}")
    good = 0
    for seed in range(start, start + 6):
        made, item, place = collage(seed)
        matches = agree(made, item).matches
        good += bool(matches) and overlap(matches[0].query_region, place) > 0.5
        good += bool(matches) and overlap(matches[0].item_region, WHOLE) > 0.5
    assert good >= 10


def test_the_roles_can_be_changed() -> None:
    made, item, place = collage(3)
    [match, *_] = agree(item, made).matches
    assert overlap(match.item_region, place) > 0.7
    assert overlap(match.query_region, WHOLE) > 0.7


def test_a_picture_agrees_with_itself_all_over() -> None:
    picture = detailed(5)
    found = agree(picture, picture)
    [match, *_] = found.matches
    assert overlap(match.query_region, WHOLE) > 0.95
    assert match.strength > 0.9
    assert found.query_map.shape == found.item_map.shape == (12, 16)
    assert np.median(found.query_map) > 0.9


def test_different_pictures_agree_far_less_than_the_same_ones() -> None:
    strengths = []
    for seed in range(5):
        matches = agree(detailed(seed), detailed(seed + 500)).matches
        strengths.append(matches[0].strength if matches else 0.0)
    assert np.median(strengths) < 0.25, strengths


def test_the_heat_is_where_the_pasted_picture_is() -> None:
    made, item, place = collage(11)
    heat = agree(made, item).query_map
    rows, columns = heat.shape
    y = (np.arange(rows) + 0.5)[:, None] / rows
    x = (np.arange(columns) + 0.5)[None] / columns
    inside = (abs(y - place.top - place.height / 2) < place.height / 2) & (
        abs(x - place.left - place.width / 2) < place.width / 2
    )
    assert heat[inside].mean() > 2 * heat[~inside].mean()
    assert heat.min() >= 0
    assert heat.max() <= 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (7, 3), (64, 64)])
def test_pictures_of_any_shape_can_be_compared(shape: tuple[int, int]) -> None:
    flat = np.zeros((*shape, 3), np.uint8)
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for one, other in ((flat, noise), (noise, flat), (noise, noise), (noise, detailed(1))):
        found = agree(one, other)
        assert max(found.query_map.shape) <= 16
        assert len(found.matches) <= 16
        for match in found.matches:
            for region in (match.query_region, match.item_region):
                assert 0 <= region.left < region.left + region.width <= 1 + 1e-6
                assert 0 <= region.top < region.top + region.height <= 1 + 1e-6
            assert 0 <= match.strength <= 1


def test_flat_pictures_have_nothing_in_common() -> None:
    flat = np.full((100, 100, 3), 128, np.uint8)
    found = agree(flat, flat)
    assert found.matches == ()
    assert not found.query_map.any()


def test_the_map_of_a_part_lies_in_its_place_in_the_whole() -> None:
    picture = detailed(6)
    part = Region(0.5, 0.0, 0.5, 1.0)
    found = in_whole(agree(picture[:, 160:], picture), part, (240, 160))
    [match, *_] = found.matches
    assert overlap(match.query_region, part) > 0.9
    assert overlap(match.item_region, part) > 0.9
    assert found.query_map.shape == heat_shape(240, 320) == (12, 16)
    assert not found.query_map[:, :8].any()
    assert found.query_map[:, 8:].mean() > 0.5


# --------------------------------------------------------------- the explainer


class EveryOneIsSimilar:
    def judge(self, collection: object, picture: object, matches: object) -> list[Judgement]:
        assert picture is not None
        return [Judgement(0.5, Tier.SIMILAR)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path / "data") as opened:
        yield opened


@pytest.fixture
def explainer(house: House) -> Iterator[Explainer]:
    pictures = Pictures(Limits(), threads=1)
    embedding = Embedding(house.models, pictures)
    yield Explainer(house.library, embedding, pictures, EveryOneIsSimilar())
    pictures.close()


@pytest.mark.parametrize("retention", [Retention.THUMBNAIL, Retention.ORIGINAL])
def test_an_item_is_explained_with_the_score_of_a_search(
    house: House, explainer: Explainer, retention: Retention
) -> None:
    house.library.create_collection(CollectionConfig("kept", retention=retention), False)
    made, item, place = collage(21)
    house.put([NewItem("it", encoded(item)), NewItem("other", encoded(detailed(77)))], "kept")
    query = ImageQuery(encoded(made))
    found = explainer.explain("kept", query, "it", deadline=None)
    hits = house.searcher.search("kept", query, SearchOptions(), deadline=None).matches
    scores = {hit.item.id: hit.score for hit in hits}
    assert found.score == pytest.approx(scores["it"], abs=1e-5)
    assert found.tier is Tier.SIMILAR
    assert overlap(found.agreement.matches[0].query_region, place) > 0.5


def test_an_item_can_be_the_query_and_only_a_part_of_it(house: House, explainer: Explainer) -> None:
    made, item, place = collage(22)
    house.put([NewItem("made", encoded(made)), NewItem("it", encoded(item))])
    found = explainer.explain("", ItemQuery("made", place), "it", deadline=None)
    [match, *_] = found.agreement.matches
    assert overlap(match.query_region, place) > 0.7
    assert overlap(match.item_region, WHOLE) > 0.7


def test_what_is_missing_is_said(house: House, explainer: Explainer) -> None:
    house.library.create_collection(CollectionConfig("bare", retention=Retention.NONE), False)
    house.put([NewItem("it", encoded(scene(1)))], "bare")
    picture = ImageQuery(encoded(scene(2)))
    with pytest.raises(ImageNotRetained) as caught:
        explainer.explain("bare", picture, "it", deadline=None)
    assert caught.value.field == "item_id"
    with pytest.raises(ItemNotFound):
        explainer.explain("bare", picture, "nobody", deadline=None)
    house.put([NewItem("it", encoded(scene(1))), NewItem("two", encoded(scene(3)))])
    tiny = ImageQuery(picture.data, Region(0.0, 0.0, 0.01, 0.01))
    with pytest.raises(InvalidArgument) as refused:
        explainer.explain("", tiny, "it", deadline=None)
    assert refused.value.field == "region"


def test_a_query_item_without_a_picture_is_named(house: House, explainer: Explainer) -> None:
    dim = house.models.get("").dim
    bare = np.ones(dim, np.float32)
    house.put([NewItem("bare", vector=bare), NewItem("it", encoded(scene(1)))])
    with pytest.raises(ImageNotRetained) as caught:
        explainer.explain("", ItemQuery("bare"), "it", deadline=None)
    assert caught.value.field == "query_item_id"
