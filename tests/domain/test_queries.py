from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from house import House, open_house
from lookalike.backends.errors import (
    DimensionMismatch,
    FailedPrecondition,
    ImageNotRetained,
    ImageUndecodable,
    InvalidArgument,
    ItemNotFound,
    LookalikeError,
    VectorZero,
)
from lookalike.backends.types import Metric, RgbImage, normalize
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    Answer,
    CollectionConfig,
    ImageQuery,
    Input,
    ItemQuery,
    Judgement,
    Match,
    MixedQuery,
    NewItem,
    Part,
    Query,
    Region,
    Retention,
    SearchOptions,
    Tier,
    VectorQuery,
    View,
)
from lookalike.server.embedding import Embedding
from lookalike.server.folding import NEAR
from lookalike.server.judging import Judge
from lookalike.server.limits import Limits
from lookalike.server.pictures import Pictures
from lookalike.server.searcher import Searcher
from made_pictures import encoded, jpeg, scene


def at(degrees: float, length: float = 1.0) -> np.ndarray:
    """Return a vector in the plane."""
    angle = np.radians(degrees)
    return np.array([np.cos(angle), np.sin(angle)], np.float32) * np.float32(length)


def plane(house: House, metric: Metric = Metric.COSINE, step: int = 5) -> None:
    """Fill the collection "v" with vectors all around, named by their degrees."""
    house.library.create_collection(
        CollectionConfig("v", model="none", dimension=2, metric=metric), exist_ok=False
    )
    house.put([NewItem(f"{d}", vector=at(d)) for d in range(0, 360, step)], "v")


def mixed(*parts: tuple[Input | np.ndarray, float]) -> MixedQuery:
    return MixedQuery(
        tuple(
            Part(VectorQuery(one) if isinstance(one, np.ndarray) else one, weight)
            for one, weight in parts
        )
    )


def find(house: House, query: Query, collection: str = "v", **options: Any) -> Answer:
    return house.searcher.search(collection, query, SearchOptions(**options), deadline=None)


def ids(answer: Answer) -> list[str]:
    return [match.item.id for match in answer.matches]


# --------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("parts", "degrees"),
    [
        ([(at(0), 1.0), (at(90), 1.0)], 45.0),
        ([(at(0), 3.0), (at(90), 1.0)], 18.435),
        ([(at(0, 50), 1.0), (at(90, 0.1), 1.0)], 45.0),  # by direction, not by length
        ([(at(0), 1.0), (at(45), -1.0)], 292.5),
        ([(at(0), 1.0), (at(90), -0.5)], 333.435),
        ([(at(30), -1.0)], 210.0),
        ([(at(0), 1e-30), (at(90), 1e-30)], 45.0),
        ([(at(0), 3e38), (at(90), 3e38), (at(45), 3e38)], 45.0),
        ([(at(0), 1.0)] * 16 + [(at(90), 1.0)] * 16, 45.0),
    ],
)
def test_parts_meet_where_their_weights_pull_them(
    parts: list[tuple[np.ndarray, float]], degrees: float, tmp_path: Path
) -> None:
    with open_house(tmp_path) as house:
        plane(house)
        found = find(house, mixed(*parts), limit=72)
        for match in found.matches:
            away = np.radians(float(match.item.id) - degrees)
            assert match.score == pytest.approx(np.cos(away), abs=1e-5)
        assert found.matches[0].score > np.cos(np.radians(2.6))


@pytest.mark.parametrize("metric", list(Metric))
def test_one_part_is_the_query_itself(metric: Metric, tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(house, metric)
        one = VectorQuery(at(33, 7.0))
        plain, part = find(house, one), find(house, mixed((one, 0.3)))
        assert ids(plain) == ids(part)
        for a, b in zip(plain.matches, part.matches, strict=True):
            assert a.score == pytest.approx(b.score, rel=1e-5)


@pytest.mark.parametrize("metric", list(Metric))
def test_a_long_vector_counts_no_more_than_a_short_one(metric: Metric, tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(house, metric)
        sums = mixed((VectorQuery(at(0, 1.9)), 1.0), (VectorQuery(at(90, 0.1)), 1.0))
        found = find(house, sums, limit=2)
        assert ids(found)[0] == "45"
        # where lengths matter, the sum has the mean one: here 1, as the items have
        best = {Metric.COSINE: 1.0, Metric.DOT: 1.0, Metric.L2: 0.0}[metric]
        assert found.matches[0].score == pytest.approx(best, abs=1e-5)


def test_a_sum_agrees_with_one_made_by_hand(tmp_path: Path) -> None:
    seed = 3
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 24)).astype(np.float32)
    with open_house(tmp_path) as house:
        house.library.create_collection(
            CollectionConfig("v", model="none", dimension=24), exist_ok=False
        )
        house.put([NewItem(f"{i}", vector=row) for i, row in enumerate(rows)], "v")
        for _ in range(20):
            vectors = rng.normal(size=(4, 24)).astype(np.float32)
            weights = rng.normal(size=4)
            aim = weights @ normalize(vectors).astype(np.float64)
            scores = normalize(rows) @ (aim / np.linalg.norm(aim))
            best = np.argsort(-scores)[:5]
            answer = find(house, mixed(*zip(vectors, weights, strict=True)), limit=5)
            assert ids(answer) == [str(i) for i in best]
            assert [m.score for m in answer.matches] == pytest.approx(scores[best], abs=1e-5)


def test_items_that_are_parts_are_left_out_of_the_hits(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(house)
        parts = [(ItemQuery("0"), 1.0), (ItemQuery("10"), 2.0), (ItemQuery("180"), -1.0)]
        answer = find(house, mixed(*parts), limit=1000)
        assert len(answer.matches) == 72 - 3
        assert not {"0", "10", "180"} & set(ids(answer))
        assert ids(answer)[0] == "5"
        assert len(find(house, mixed(*parts), limit=69).matches) == 69


@pytest.mark.parametrize(
    "parts",
    [
        [(at(10), 1.0), (at(10), -1.0)],
        [(at(10), 2.0), (at(10, 9), -2.0)],
        [(at(0), 1.0), (at(120), 1.0), (at(240), 1.0)],
        [(ItemQuery("5"), 1.0), (ItemQuery("5"), -1.0)],
    ],
)
def test_parts_that_cancel_each_other_out_are_refused(
    parts: list[tuple[Any, float]], tmp_path: Path
) -> None:
    with open_house(tmp_path) as house:
        plane(house)
        with pytest.raises(InvalidArgument, match="cancel each other out") as caught:
            find(house, mixed(*parts))
        assert caught.value.field == "parts"


@pytest.mark.parametrize(
    ("part", "error", "field"),
    [
        (ItemQuery("nope"), ItemNotFound, "parts[1].item_id"),
        (VectorQuery(np.ones(3, np.float32)), DimensionMismatch, "parts[1].vector"),
        (VectorQuery(np.zeros(2, np.float32)), VectorZero, "parts[1].vector"),
    ],
)
def test_an_error_names_its_part(
    part: Input, error: type[LookalikeError], field: str, tmp_path: Path
) -> None:
    with open_house(tmp_path) as house:
        plane(house, Metric.COSINE)
        with pytest.raises(error) as caught:
            find(house, mixed((at(0), 1.0), (part, 1.0)))
        assert caught.value.field == field


def test_a_picture_for_a_collection_without_a_model_is_blamed(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(house)
        with pytest.raises(FailedPrecondition, match="Send a vector") as caught:
            find(house, mixed((at(0), 1.0), (ImageQuery(jpeg(1)), 1.0)))
        assert caught.value.field == "parts[1].image"


def test_a_vector_without_direction_is_no_part_of_a_sum(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(house, Metric.DOT)
        with pytest.raises(VectorZero) as caught:
            find(house, mixed((at(0), 1.0), (at(0, 0.0), 1.0)))
        assert caught.value.field == "parts[1].vector"


def test_all_parts_are_begun_before_the_first_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    start = Embedding.start_picture

    def spy(self: Embedding, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        events.append("begin")
        wait = start(self, *args, **kwargs)

        def waited() -> Any:
            events.append("wait")
            return wait()

        return waited

    monkeypatch.setattr(Embedding, "start_picture", spy)
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(3)])
        pictures = mixed(*((ImageQuery(jpeg(i)), 1.0) for i in range(4)))
        requests: list[tuple[str, Query, SearchOptions]] = [
            ("", query, SearchOptions()) for query in (pictures, ImageQuery(jpeg(1)))
        ]
        house.searcher.search_batch(requests, deadline=None)
    assert events == ["begin"] * 5 + ["wait"] * 5


def test_a_damaged_picture_among_parts_is_named(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem("a", jpeg(1))])
        parts = mixed((ImageQuery(jpeg(1)), 1.0), (ImageQuery(jpeg(2)[:200]), 1.0))
        with pytest.raises(ImageUndecodable) as caught:
            find(house, parts, "")
        assert caught.value.field == "parts[1].image"


def test_away_from_a_picture_is_the_other_way(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(20)])
        towards = find(house, ImageQuery(jpeg(3)), "", limit=20)
        away = find(house, mixed((ImageQuery(jpeg(3)), -1.0)), "", limit=20)
        assert ids(away) == ids(towards)[::-1]
        assert ids(away)[-1] == "3"


# ------------------------------------------------------------------- regions


def collage(seed: int, share: float = 0.4) -> tuple[np.ndarray, Region]:
    """Return a picture with `scene(seed)` on `share` of the area of another, and where."""
    width, height = 320, 240
    canvas = scene(seed + 1000, width, height).copy()
    side = share**0.5
    inner = Image.fromarray(scene(seed)).resize((round(width * side), round(height * side)))
    rng = np.random.default_rng(seed)
    left = int(rng.integers(0, width - inner.width + 1))
    top = int(rng.integers(0, height - inner.height + 1))
    canvas[top : top + inner.height, left : left + inner.width] = np.asarray(inner)
    return canvas, Region(left / width, top / height, inner.width / width, inner.height / height)


def test_what_the_box_shows_is_found_first(tmp_path: Path) -> None:
    count = 40
    with open_house(tmp_path) as house:
        scenes = [NewItem(f"{i}", jpeg(i)) for i in range(count)]
        house.put(scenes + [NewItem(f"under-{i}", jpeg(i + 1000)) for i in range(count)])
        requests: list[tuple[str, Query, SearchOptions]] = []
        for i in range(count):
            canvas, region = collage(i)
            requests.append(
                ("", ImageQuery(encoded(canvas, "PNG"), region), SearchOptions(limit=1))
            )
        answers = house.searcher.search_batch(requests, deadline=None)
    first = [answer.matches[0].item.id for answer in answers if isinstance(answer, Answer)]
    right = sum(found == str(i) for i, found in enumerate(first))
    assert right >= 0.95 * count, first


def test_the_box_is_meant_on_the_upright_picture(tmp_path: Path) -> None:
    canvas, region = collage(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right by 90 degrees
    turned = encoded(np.ascontiguousarray(np.rot90(canvas)), "JPEG", quality=95, exif=exif)
    upright = encoded(canvas, "JPEG", quality=95)
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(10)])
        answers = [find(house, ImageQuery(data, region), "") for data in (turned, upright)]
        assert ids(answers[0])[0] == ids(answers[1])[0] == "5"
        assert answers[0].matches[0].score == pytest.approx(answers[1].matches[0].score, abs=0.02)


def test_a_small_box_of_a_large_picture_keeps_its_pixels(tmp_path: Path) -> None:
    inner = scene(7, 320, 240)
    canvas = np.full((3000, 4000, 3), 90, np.uint8)
    canvas[1500:1740, 2000:2320] = inner
    region = Region(2000 / 4000, 1500 / 3000, 320 / 4000, 240 / 3000)
    data = encoded(canvas, "JPEG", quality=95)
    with open_house(tmp_path) as house:
        model = house.library.collection("", create=True).model()
        pictures = Pictures(Limits(), threads=1)
        try:
            assert pictures.read(data, model, region).image.shape == inner.shape
        finally:
            pictures.close()
        house.put([NewItem("inner", encoded(inner, "PNG")), NewItem("other", jpeg(8))])
        answer = find(house, ImageQuery(data, region), "")
        assert answer.matches[0].item.id == "inner"
        assert answer.matches[0].score > 0.98


def test_the_whole_as_a_box_changes_nothing(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(5)])
        plain = find(house, ImageQuery(jpeg(2)), "")
        whole = find(house, ImageQuery(jpeg(2), Region(0, 0, 1, 1)), "")
        assert ids(plain) == ids(whole)
        assert whole.matches[0].score == pytest.approx(plain.matches[0].score, abs=1e-5)


def test_each_part_has_its_own_box(tmp_path: Path) -> None:
    left, right = scene(1, 160, 120), scene(2, 160, 120)
    both = encoded(np.hstack([left, right]), "PNG")
    halves = Region(0, 0, 0.5, 1), Region(0.5, 0, 0.5, 1)
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(10)])
        seen = mixed((ImageQuery(both, halves[0]), 1.0), (ImageQuery(both, halves[1]), 1.0))
        assert set(ids(find(house, seen, ""))[:2]) == {"1", "2"}
        one = mixed((ImageQuery(both, halves[0]), 1.0), (ImageQuery(both, halves[1]), -1.0))
        answer = find(house, one, "")
        assert ids(answer)[0] == "1"
        assert ids(answer)[-1] == "2"


@pytest.mark.parametrize("retention", [Retention.ORIGINAL, Retention.THUMBNAIL])
def test_a_box_in_an_item_is_cut_from_the_picture_that_is_kept(
    retention: Retention, tmp_path: Path
) -> None:
    canvas, region = collage(3)
    with open_house(tmp_path) as house:
        house.library.create_collection(CollectionConfig("v", retention=retention), exist_ok=False)
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(10)], "v")
        house.put([NewItem("collage", encoded(canvas, "PNG"))], "v")
        answer = find(house, ItemQuery("collage", region))
        assert ids(answer)[0] == "3"
        assert "collage" not in ids(answer)
        assert "3" not in ids(find(house, mixed((ItemQuery("3", region), 1.0))))


def test_a_box_in_an_item_comes_from_the_original_where_there_is_one(tmp_path: Path) -> None:
    canvas = np.full((1500, 2000, 3), 90, np.uint8)
    inner = scene(7, 100, 75)
    canvas[600:675, 900:1000] = inner  # 13 x 10 pixels of a thumbnail
    region = Region(900 / 2000, 600 / 1500, 100 / 2000, 75 / 1500)
    data = encoded(canvas, "PNG")
    with open_house(tmp_path) as house:
        for name in ("original", "thumbnail"):
            config = CollectionConfig(name, retention=Retention(name))
            house.library.create_collection(config, exist_ok=False)
            house.put([NewItem("big", data), NewItem("inner", encoded(inner, "PNG"))], name)
        [match] = find(house, ItemQuery("big", region), "original").matches
        assert match.score > 0.98
        with pytest.raises(InvalidArgument, match="13 x 10 pixels") as caught:
            find(house, ItemQuery("big", region), "thumbnail")
        assert caught.value.field == "region"


def test_a_box_in_an_item_without_a_picture_is_refused(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.library.create_collection(
            CollectionConfig("v", retention=Retention.NONE), exist_ok=False
        )
        house.put([NewItem("a", jpeg(1)), NewItem("b", jpeg(2))], "v")
        assert ids(find(house, ItemQuery("a"))) == ["b"]
        with pytest.raises(ImageNotRetained, match="send the picture"):
            find(house, ItemQuery("a", Region(0, 0, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("region", "good"),
    [
        (Region(0, 0, 0.1, 0.5), True),  # 16 x 60 of 160 x 120 pixels
        (Region(0.5, 0.5, 0.09, 0.5), False),
        (Region(0, 0, 0.5, 0.1), False),
        (Region(0.999, 0, 0.001, 1), False),
        (Region(0, 0, 1e-38, 1e-45), False),
    ],
)
def test_a_box_of_less_than_16_pixels_shows_nothing(
    region: Region, good: bool, tmp_path: Path
) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem("a", jpeg(1))])
        if good:
            assert len(find(house, ImageQuery(jpeg(1), region), "").matches) == 1
            return
        with pytest.raises(InvalidArgument, match="16 a side") as caught:
            find(house, mixed((ImageQuery(jpeg(1), region), 1.0)), "")
        assert caught.value.field == "parts[0].region"


# ------------------------------------------------------------------ ordering


def shelf(house: House, *items: tuple[str, float, str | None]) -> None:
    """Store (id, degrees, brand) in "v"."""
    house.library.create_collection(
        CollectionConfig("v", model="none", dimension=2), exist_ok=False
    )
    if not items:
        return
    house.put(
        [
            NewItem(name, vector=at(degrees), metadata={"brand": brand} if brand else {})
            for name, degrees, brand in items
        ],
        "v",
    )


EAST = VectorQuery(at(0))


def test_groups_show_their_best(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        shelf(
            house, ("a1", 1, "a"), ("a2", 2, "a"), ("n1", 3, None), ("b1", 4, "b"), ("a3", 5, "a"),
            ("n2", 6, None), ("b2", 7, "b"),
        )  # fmt: skip
        assert ids(find(house, EAST, group_by="brand")) == ["a1", "n1", "b1", "n2"]
        two = find(house, EAST, group_by="brand", group_limit=2)
        assert ids(two) == ["a1", "a2", "n1", "b1", "n2", "b2"]
        assert ids(find(house, EAST, group_by="brand", limit=2)) == ["a1", "n1"]
        assert find(house, EAST, group_by="nope").matches == find(house, EAST).matches


def test_groups_are_filled_from_far_behind(tmp_path: Path) -> None:
    crowd = [(f"a{i}", i / 100, "a") for i in range(600)]
    rest = [(f"b{i}", 90 + i, f"b{i}") for i in range(5)]
    with open_house(tmp_path) as house:
        shelf(house, *crowd, *rest)
        answer = find(house, EAST, group_by="brand", limit=4)
        assert ids(answer) == ["a0", "b0", "b1", "b2"]
        # nothing more is there: less is shown, and the search ends
        assert len(find(house, EAST, group_by="brand", limit=50).matches) == 6
        best = find(house, EAST, group_by="brand", limit=50, min_score=0.5)
        assert ids(best) == ["a0"]


def test_duplicates_fold_into_the_best_and_are_counted(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        shelf(
            house, ("a", 0, None), ("a-1", 1, None), ("b", 40, None), ("a-2", 2, None),
            ("b-1", 43, None), ("c", 80, None),
        )  # fmt: skip
        answer = find(house, EAST, fold_duplicates=True)
        folded = {match.item.id: match.duplicates for match in answer.matches}
        assert folded == {"a": ("a-1", "a-2"), "b": ("b-1",), "c": ()}
        assert ids(answer) == ["a", "b", "c"]
        plain = find(house, EAST)
        assert len(plain.matches) == sum(1 + len(d) for d in folded.values())
        assert ids(find(house, EAST, fold_duplicates=True, limit=2)) == ["a", "b"]


def test_folding_makes_room_for_others(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        twins = [(f"t{i:03}", 0, None) for i in range(300)]
        shelf(house, *twins, ("other", 90, None))
        answer = find(house, EAST, fold_duplicates=True, limit=2)
        assert ids(answer) == ["t000", "other"]
        assert len(answer.matches[0].duplicates) == 299


def test_saved_again_is_folded_and_another_picture_is_not(tmp_path: Path) -> None:
    count = 12
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(count)])
        house.put([NewItem(f"{i}-again", encoded(scene(i), quality=60)) for i in range(count)])
        for i in range(0, count, 3):
            answer = find(house, ImageQuery(jpeg(i)), "", fold_duplicates=True, limit=24)
            assert len(answer.matches) == count
            assert answer.matches[0].item.id == str(i)
            for match in answer.matches:
                number = match.item.id.removesuffix("-again")
                assert {match.item.id, *match.duplicates} == {number, f"{number}-again"}


def test_copies_far_apart_by_vector_fold_where_their_pictures_agree(tmp_path: Path) -> None:
    count = 8
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", encoded(scene(i, 320, 240))) for i in range(count)])
        for i in range(count):
            cropped = np.ascontiguousarray(scene(i, 320, 240)[30:210, 20:290])
            house.put([NewItem(f"{i}-crop", encoded(cropped, quality=80))])
        far = folded = 0
        for i in range(count):
            far += find(house, ItemQuery(f"{i}"), "", limit=1).matches[0].score < NEAR
            query = ImageQuery(encoded(scene(i, 320, 240)))
            first, *others = find(house, query, "", fold_duplicates=True).matches
            assert first.item.id == f"{i}"
            folded += first.duplicates == (f"{i}-crop",)
            for match in (first, *others):
                number = match.item.id.removesuffix("-crop")
                assert {match.item.id, *match.duplicates} <= {number, f"{number}-crop"}
        assert far >= count / 2  # their vectors alone would not do
        assert folded >= 0.75 * count


@pytest.mark.parametrize(("unrelated", "folded"), [(0.5, True), (0.99, False), (0.9999, False)])
def test_where_all_pictures_are_close_folding_asks_for_more(
    unrelated: float, folded: bool, tmp_path: Path
) -> None:
    class Crowded(Ruler):
        def score(self, rate: float) -> float:
            return unrelated

    with open_house(tmp_path) as house:
        shelf(house, ("a", 0, None), ("b", 10, None), ("b-1", 10.01, None))  # 0.985 apart
        judged(house, Crowded())
        answer = find(house, EAST, fold_duplicates=True)
        assert ids(answer) == (["a"] if folded else ["a", "b"])


def test_variety_leaves_the_first_and_spreads_the_rest(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        shelf(
            house, ("a", 5, None), ("a-1", 6, None), ("a-2", 7, None), ("b", -40, None),
            ("c", 80, None),
        )  # fmt: skip
        assert ids(find(house, EAST, limit=3)) == ["a", "a-1", "a-2"]
        spread = find(house, EAST, limit=3, diversity=0.7)
        assert ids(spread) == ["a", "c", "b"]
        assert [m.score for m in spread.matches] == pytest.approx(
            [np.cos(np.radians(d)) for d in (5, 80, 40)], abs=1e-5
        )
        assert set(ids(find(house, EAST, limit=5, diversity=1.0))) == {"a", "a-1", "a-2", "b", "c"}


def test_the_steps_come_in_their_order(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        shelf(
            house, ("a", 1, "x"), ("a-1", 2, "x"), ("b", 30, "x"), ("c", 50, "y"), ("d", -60, "z"),
            ("far", 150, "w"),
        )  # fmt: skip
        # folded first: the twin does not use up its group
        two = find(house, EAST, fold_duplicates=True, group_by="brand", group_limit=2)
        assert ids(two) == ["a", "b", "c", "d", "far"]
        one = find(house, EAST, fold_duplicates=True, group_by="brand", min_score=0.0)
        assert ids(one) == ["a", "c", "d"]
        assert one.matches[0].duplicates == ("a-1",)
        # grouped before variety chooses
        spread = find(
            house, EAST, fold_duplicates=True, group_by="brand", min_score=0, diversity=0.5, limit=2
        )
        assert ids(spread) == ["a", "d"]
        every = find(house, EAST, group_by="brand", diversity=0.9)
        assert sorted(ids(every)) == ["a", "c", "d", "far"]


def test_equal_scores_go_by_id(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        shelf(house, *((name, 10, name) for name in "dbeac"))
        for options in ({}, {"group_by": "brand"}, {"diversity": 0.01}):
            assert ids(find(house, EAST, **options)) == list("abcde")
        [match] = find(house, EAST, fold_duplicates=True).matches
        assert (match.item.id, match.duplicates) == ("a", ("b", "c", "d", "e"))


def test_nothing_is_put_in_order_too(tmp_path: Path) -> None:
    every: dict[str, Any] = {"group_by": "brand", "fold_duplicates": True, "diversity": 0.5}
    with open_house(tmp_path) as house:
        shelf(house)
        assert find(house, EAST, **every).matches == []
        house.put([NewItem("a", vector=at(90))], "v")
        assert find(house, EAST, min_score=0.5, **every).matches == []
        assert find(house, ItemQuery("a"), **every).matches == []
        assert ids(find(house, EAST, **every)) == ["a"]


def test_every_view_shows_what_it_should_after_ordering(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        shelf(house, ("a", 1, "x"), ("b", 30, "y"))
        for view in View:
            for options in ({"group_by": "brand"}, {"diversity": 0.1}, {"fold_duplicates": True}):
                first = find(house, EAST, view=view, **options).matches[0].item
                plain = find(house, EAST, view=view).matches[0].item
                assert (first.id, first.metadata) == (plain.id, plain.metadata)
                assert (first.vector is not None) is (view is View.FULL)
                assert bool(first.metadata) is (view is not View.ID)


def test_a_batch_answers_as_single_searches_do(tmp_path: Path) -> None:
    seed = 11
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    with open_house(tmp_path) as house:
        shelf(house, *((f"{i}", rng.uniform(0, 360), f"{i % 7}") for i in range(200)))
        requests: list[tuple[str, Query, SearchOptions]] = [
            (
                "v",
                mixed((at(rng.uniform(0, 360)), 1.0), (ItemQuery(f"{i}"), -0.4)),
                SearchOptions(
                    limit=int(rng.integers(1, 30)),
                    diversity=float(rng.choice([0, 0.3])),
                    group_by=str(rng.choice(["", "brand"])),
                    group_limit=int(rng.integers(1, 4)),
                    fold_duplicates=bool(rng.integers(2)),
                    min_score=float(rng.choice([-1, 0.5])),
                ),
            )
            for i in range(60)
        ]
        requests[7] = ("v", ItemQuery("nope"), SearchOptions())
        together = house.searcher.search_batch(requests, deadline=None)
        for i, (request, answer) in enumerate(zip(requests, together, strict=True)):
            if i == 7:
                assert isinstance(answer, ItemNotFound)
                continue
            assert isinstance(answer, Answer)
            alone = house.searcher.search(*request, deadline=None)
            assert ids(alone) == ids(answer)
            assert [m.duplicates for m in alone.matches] == [m.duplicates for m in answer.matches]


# ------------------------------------------------------------------- judging


class Ruler:
    """A judge whose every word can be told beforehand."""

    def __init__(self, known: bool = True) -> None:
        self.known = known
        self.seen: list[tuple[RgbImage | None, list[str]]] = []

    def calibration(self, collection: Collection) -> Ruler | None:
        return self if self.known else None

    def score(self, rate: float) -> float:
        return 1 - rate

    def judge(
        self, collection: Collection, picture: RgbImage | None, matches: Sequence[Match]
    ) -> list[Judgement]:
        self.seen.append((picture, [match.item.id for match in matches]))
        return [Judgement(1 - match.score, Tier.SIMILAR) for match in matches]


def judged(house: House, judge: Ruler) -> House:
    house.searcher._judge = judge
    return house


def test_a_rate_is_a_score_by_calibration(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(judged(house, Ruler()))
        found = find(house, EAST, max_false_match_rate=0.1, limit=100)
        assert found.matches == find(house, EAST, min_score=0.9, limit=100).matches
        assert 1 < len(found.matches) < 72


@pytest.mark.parametrize("judge", [None, Ruler(known=False)])
def test_a_rate_without_a_calibration_is_refused(judge: Ruler | None, tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(house)
        house.searcher._judge = judge
        with pytest.raises(FailedPrecondition, match="too few items") as caught:
            find(house, EAST, max_false_match_rate=0.1)
        assert caught.value.field == "max_false_match_rate"


def test_all_who_ask_first_for_a_rate_get_it(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = np.random.default_rng(4).normal(size=(400, 8)).astype(np.float32)
        house.library.create_collection(
            CollectionConfig("v", model="none", dimension=8), exist_ok=False
        )
        house.put([NewItem(f"{i}", vector=row) for i, row in enumerate(rows)], "v")
        house.searcher._judge = Judge()
        with ThreadPoolExecutor(8) as pool:
            answers = [
                pool.submit(find, house, VectorQuery(rows[0]), max_false_match_rate=0.1, limit=400)
                for _ in range(8)
            ]
        found = {tuple(ids(answer.result())) for answer in answers}
        assert len(found) == 1
        assert 4 < len(found.pop()) < 150


def test_a_rate_for_a_sum_is_refused(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        plane(judged(house, Ruler()))
        with pytest.raises(InvalidArgument, match="another scale"):
            find(house, mixed((at(0), 1.0), (at(9), 1.0)), max_false_match_rate=0.1)
        assert find(house, mixed((at(0), 2.0)), max_false_match_rate=0.1).matches


def test_only_what_is_shown_is_judged(tmp_path: Path) -> None:
    ruler = Ruler()
    with open_house(tmp_path) as house:
        plane(judged(house, ruler))
        assert find(house, EAST).matches[0].judgement == Judgement()
        answer = find(house, EAST, judge=True, limit=3, group_by="@")
        assert ruler.seen == [(None, ids(answer))]
        for match in answer.matches:
            assert match.judgement == Judgement(1 - match.score, Tier.SIMILAR)
        sums = find(house, mixed((at(0), 1.0), (at(9), 1.0)), judge=True)
        assert {match.judgement for match in sums.matches} == {Judgement()}
        assert len(ruler.seen) == 1


def test_the_judge_sees_the_querys_picture(tmp_path: Path) -> None:
    ruler = Ruler()
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(4)])
        judged(house, ruler)
        find(house, ImageQuery(jpeg(1)), "", judge=True)
        find(house, ItemQuery("1"), "", judge=True)
        find(house, ImageQuery(jpeg(1), Region(0, 0, 0.5, 1)), "", judge=True)
        find(house, mixed((ImageQuery(jpeg(1)), 1.0)), "", judge=True)
    shapes = [picture.shape for picture, _ in ruler.seen if picture is not None]
    assert shapes == [(120, 160, 3), (120, 160, 3), (120, 80, 3), (120, 160, 3)]


def test_a_searcher_takes_its_judge(tmp_path: Path) -> None:
    ruler = Ruler()
    with open_house(tmp_path) as house:
        plane(house)
        pictures = Pictures(Limits(), threads=1)
        try:
            searcher = Searcher(house.library, Embedding(house.models, pictures), ruler)
            searcher.search("v", EAST, SearchOptions(judge=True), deadline=None)
        finally:
            pictures.close()
    assert len(ruler.seen) == 1


# ---------------------------------------------------------------------- time


def test_the_parts_of_the_time_add_up(tmp_path: Path) -> None:
    big = encoded(scene(1, 1600, 1200))
    region = Region(0.2, 0.2, 0.5, 0.5)
    queries: list[tuple[Query, dict[str, Any]]] = [
        (ImageQuery(big), {}),
        (ImageQuery(big, region), {}),
        (ItemQuery("3"), {}),
        (ItemQuery("3", region), {}),
        (mixed(*((ImageQuery(jpeg(500 + i)), 1.0) for i in range(8))), {}),
        (mixed((ImageQuery(big), 1.0), (ItemQuery("2"), -1.0)), {"diversity": 0.5}),
        (ImageQuery(big), {"fold_duplicates": True, "group_by": "x", "diversity": 0.2}),
    ]
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", jpeg(i)) for i in range(100)])
        for query, options in queries:
            answers = (find(house, query, "", **options) for _ in range(_TRIES))
            answer = next(filter(_adds_up, answers))
            has_picture = not isinstance(query, ItemQuery) or query.region is not None
            assert (answer.decode_ms > 0) is has_picture
            assert (answer.embed_ms > 0) is has_picture
            assert answer.index_ms > 0
            assert answer.fetch_ms > 0
            assert (answer.rank_ms > 0) or not options
        requests = [("", query, SearchOptions(**options)) for query, options in queries]
        batches = (house.searcher.search_batch(requests, deadline=None) for _ in range(_TRIES))
        assert any(all(isinstance(a, Answer) and _adds_up(a) for a in batch) for batch in batches)


_TRIES = 20
"""Another program may take the processor between two readings of the clock; not each time."""


def _adds_up(answer: Answer) -> bool:
    parts = (
        answer.decode_ms, answer.queue_ms, answer.embed_ms, answer.index_ms, answer.fetch_ms,
        answer.rank_ms,
    )  # fmt: skip
    print(parts, answer.total_ms)
    assert min(parts) >= 0
    return abs(sum(parts) - answer.total_ms) <= max(0.05 * answer.total_ms, 0.5)
