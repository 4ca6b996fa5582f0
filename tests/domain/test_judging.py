from __future__ import annotations

import itertools
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from copied_pictures import altered, things
from house import House, open_house
from lookalike.backends.types import Metric, Vectors, normalize
from lookalike.server.calibration import Calibration, fit, learn, sample_size, scores_of
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    CollectionConfig,
    ImageQuery,
    ItemQuery,
    Match,
    NewItem,
    Retention,
    SearchOptions,
    Tier,
    VectorQuery,
    View,
)
from lookalike.server.judging import SCENE_RATE, SIMILAR_RATE, Judge
from made_pictures import encoded

DIM = 24


def kinds(count: int, seed: int, dim: int = DIM) -> Vectors:
    """Return unit vectors around 40 centres."""
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(40, dim))
    rows = centres[rng.integers(0, 40, count)] + rng.normal(size=(count, dim))
    return normalize(rows.astype(np.float32))


def never(row: int, other: int) -> bool:
    return False


def vectors_in(house: House, rows: Vectors, first: int = 0, name: str = "v") -> Collection:
    config = CollectionConfig(name, model="none", dimension=rows.shape[1])
    house.library.create_collection(config, exist_ok=True)
    items = [NewItem(f"v-{first + i}", vector=row) for i, row in enumerate(rows)]
    house.put(items, name, bulk=True)
    return house.library.collection(name)


# ------------------------------------------------------------ what scores mean


def test_rates_are_the_shares_of_a_known_distribution() -> None:
    print("seed 1")
    normal = statistics.NormalDist()
    found = fit(np.random.default_rng(1).normal(size=1_000_000).astype(np.float32))
    assert found is not None
    for rate in (0.3, 0.1, 0.01, 0.001):
        assert found.score(rate) == pytest.approx(normal.inv_cdf(1 - rate), abs=0.02)
    for score in (0.0, 1.0, 2.0, 3.0):
        assert found.rate(score) == pytest.approx(1 - normal.cdf(score), rel=0.1)
    # Beyond what the sample can tell the model is careful: it says more, not less.
    for score in (4.5, 5.0, 6.0):
        true = 1 - normal.cdf(score)
        assert true < found.rate(score) < 1e-4


def test_an_exponential_tail_is_met_far_beyond_the_sample() -> None:
    print("seed 2")
    found = fit(np.random.default_rng(2).exponential(size=200_000).astype(np.float32))
    assert found is not None
    for rate in (1e-2, 1e-4, 1e-6):
        assert found.score(rate) == pytest.approx(-np.log(rate), rel=0.07)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(2, 3000),
    levels=st.sampled_from([0, 3, 50]),
    scores=st.lists(st.floats(-3, 6), min_size=2, max_size=8),
)
def test_rates_fall_as_scores_rise_and_stay_between_0_and_1(
    seed: int, count: int, levels: int, scores: list[float]
) -> None:
    drawn = np.random.default_rng(seed).normal(size=count)
    if levels:  # many equal scores
        drawn = np.round(drawn * levels / 6) * 6 / levels
    found = fit(drawn.astype(np.float32))
    if found is None:
        assert len(set(drawn.astype(np.float32).tolist())) == 1
        return
    assert all(a > b for a, b in itertools.pairwise(found.rates))
    assert all(a < b for a, b in itertools.pairwise(found.scores))
    rates = [found.rate(score) for score in sorted(scores)]
    assert all(0 < rate <= 1 for rate in rates)
    assert all(a >= b for a, b in itertools.pairwise(rates))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rate=st.floats(1e-12, 0.9))
def test_score_and_rate_undo_each_other(seed: int, rate: float) -> None:
    found = fit(np.random.default_rng(seed).normal(size=5000).astype(np.float32))
    assert found is not None
    assert found.rate(found.score(rate)) == pytest.approx(rate, rel=1e-6)


def test_the_table_of_cosines_ends_at_one() -> None:
    found = learn(kinds(200, 3), Metric.COSINE, never)
    assert found is not None
    assert found.scores[-1] <= 1
    assert found.rate(1.0) > 0


@pytest.mark.parametrize("metric", list(Metric))
def test_a_rate_that_is_asked_for_holds_on_items_that_were_not_seen(metric: Metric) -> None:
    seen, unseen = kinds(600, 4), kinds(600, 5)
    if metric is not Metric.COSINE:
        stretch = np.random.default_rng(6).uniform(0.5, 2, (1200, 1)).astype(np.float32)
        seen, unseen = seen * stretch[:600], unseen * stretch[600:]
    found = learn(seen, metric, never)
    assert found is not None
    scores = scores_of(unseen, seen, metric)
    for rate in (0.1, 0.01):
        assert np.mean(scores >= found.score(rate)) == pytest.approx(rate, rel=0.35)


@pytest.mark.parametrize("metric", list(Metric))
def test_scores_are_those_that_the_engine_gives(metric: Metric, tmp_path: Path) -> None:
    print("seed 7")
    rows = np.random.default_rng(7).normal(size=(60, 6)).astype(np.float32)
    with open_house(tmp_path) as house:
        config = CollectionConfig("m", model="none", dimension=6, metric=metric)
        house.library.create_collection(config, exist_ok=False)
        house.put([NewItem(f"{i}", vector=row) for i, row in enumerate(rows)], "m")
        hits = house.searcher.search(
            "m", VectorQuery(rows[0]), SearchOptions(limit=60), deadline=None
        )
    unit = normalize(rows) if metric is Metric.COSINE else rows
    wanted = np.sort(scores_of(unit[:1], unit, metric)[0])[::-1]
    assert np.allclose([match.score for match in hits.matches], wanted, atol=1e-4)


def test_pairs_that_show_the_same_picture_are_left_out() -> None:
    rows = kinds(300, 8)
    doubled = np.concatenate([rows, rows[:30]])

    def same(row: int, other: int) -> bool:
        return abs(row - other) == 300

    plain = learn(rows, Metric.COSINE, never)
    without, despite = learn(doubled, Metric.COSINE, same), learn(doubled, Metric.COSINE, never)
    assert plain
    assert without
    assert despite
    assert without.score(1e-3) == pytest.approx(plain.score(1e-3), abs=0.01)
    assert despite.score(1e-3) > plain.score(1e-3) + 0.05
    assert without.pair_count == 330 * 329 // 2 - 30


def test_the_same_picture_is_asked_for_only_where_it_pays() -> None:
    asked: list[tuple[int, int]] = []

    def count(row: int, other: int) -> bool:
        asked.append((row, other))
        return False

    learn(kinds(300, 9), Metric.COSINE, count)
    assert 0 < len(asked) <= 10


def test_the_sample_is_bounded() -> None:
    assert sample_size(10_000_000, 512) <= 3000
    assert sample_size(10_000_000, 32768) * 32768 <= 4_000_000
    assert sample_size(80, 512) == 80


# -------------------------------------------------------- when it is learned


def test_few_items_tell_nothing(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        collection = vectors_in(house, kinds(49, 10))
        assert house.judge.calibration(collection) is None
        vectors_in(house, kinds(1, 11), first=49)
        found = house.judge.calibration(collection)
        assert found is not None
        assert found.pair_count == 50 * 49 // 2


def test_it_is_learned_again_after_a_quarter_and_not_before(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        collection = vectors_in(house, kinds(100, 12))
        first = house.judge.calibration(collection)
        vectors_in(house, kinds(24, 13), first=100)
        assert house.judge.calibration(collection) is first
        vectors_in(house, kinds(2, 14), first=124)
        grown = house.judge.calibration(collection)
        assert grown is not None
        assert grown.pair_count == 126 * 125 // 2
        collection.delete([f"v-{i}" for i in range(40)], dry_run=False)
        shrunk = house.judge.calibration(collection)
        assert shrunk is not None
        assert shrunk.pair_count == 86 * 85 // 2


def test_the_same_items_give_the_same_calibration(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        collection = vectors_in(house, kinds(120, 15))
        assert Judge().calibration(collection) == Judge().calibration(collection)


def test_searches_go_on_with_the_old_one_while_it_is_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path) as house:
        collection = vectors_in(house, kinds(60, 16))
        judge, learning, go_on = Judge(), threading.Event(), threading.Event()
        old = judge.calibration(collection)
        vectors_in(house, kinds(60, 17), first=60)
        vectors = Collection.vectors

        def slow(self: Collection, keys: np.ndarray) -> Vectors:
            learning.set()
            assert go_on.wait(20)
            return vectors(self, keys)

        monkeypatch.setattr(Collection, "vectors", slow)
        with ThreadPoolExecutor(1) as pool:
            learner = pool.submit(judge.calibration, collection)
            assert learning.wait(20)
            started = time.monotonic()
            assert judge.calibration(collection) is old
            assert time.monotonic() - started < 5
            go_on.set()
            new = learner.result(20)
        assert new is not None
        assert old is not None
        assert new.pair_count > old.pair_count


def test_it_is_learned_while_every_item_is_being_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time that more than one is read, one of them goes."""
    with open_house(tmp_path) as house:
        collection = vectors_in(house, kinds(120, 18))
        vectors = Collection.vectors
        going = iter([f"v-{i}" for i in range(10)])

        def restless(self: Collection, keys: np.ndarray) -> Vectors:
            if len(keys) > 1:
                self.delete([next(going)], dry_run=False)
                raise KeyError("an item is gone")
            return vectors(self, keys)

        monkeypatch.setattr(Collection, "vectors", restless)
        found = Judge().calibration(collection)
        assert found is not None
        assert found.pair_count == 117 * 116 // 2


# ------------------------------------------------------------------- judging


def stocked(house: House, retention: Retention = Retention.THUMBNAIL) -> Collection:
    """60 pictures whose vectors the test chooses: item i of picture i, at angle i."""
    config = CollectionConfig("p", model="none", dimension=DIM, retention=retention)
    house.library.create_collection(config, exist_ok=False)
    rows = kinds(60, 18)
    house.put(
        [
            NewItem(f"p-{i}", image=encoded(things(i), quality=90), vector=row)
            for i, row in enumerate(rows)
        ],
        "p",
        bulk=True,
    )
    return house.library.collection("p")


def match(collection: Collection, i: int, score: float) -> Match:
    return Match(collection.get(f"p-{i}", View.BASIC), score)


def test_only_a_copy_is_the_same_picture_however_high_the_others_score(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        collection = stocked(house)
        picture = things(3)
        matches = [match(collection, i, 0.999) for i in (1, 2, 3, 4)]
        tiers = [j.tier for j in house.judge.judge(collection, picture, matches)]
        assert tiers.pop(2) is Tier.SAME_PICTURE
        assert Tier.SAME_PICTURE not in tiers


def test_tiers_follow_the_rates(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        collection = stocked(house)
        found = house.judge.calibration(collection)
        assert found is not None
        rates = (SCENE_RATE / 2, SCENE_RATE * 2, SIMILAR_RATE / 2, SIMILAR_RATE * 2, 0.5)
        matches = [match(collection, i, found.score(rate)) for i, rate in enumerate(rates)]
        judged = house.judge.judge(collection, None, matches)
        assert [j.rate for j in judged] == pytest.approx(rates)
        scene, similar, weak = Tier.SAME_SCENE, Tier.SIMILAR, Tier.WEAK
        assert [j.tier for j in judged] == [scene, similar, similar, weak, weak]


def test_only_what_may_be_a_copy_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path) as house:
        collection = stocked(house)
        found = house.judge.calibration(collection)
        assert found is not None
        looked: list[str] = []
        image = Collection.image

        def watched(self: Collection, item_id: str, original: bool) -> object:
            looked.append(item_id)
            return image(self, item_id, original)

        monkeypatch.setattr(Collection, "image", watched)
        weak = found.score(0.3)
        # The best two always, the others only where few unrelated pairs score as high.
        matches = [match(collection, i, weak - i / 1000) for i in (3, 4, 5, 6)]
        house.judge.judge(collection, things(300), matches)
        assert looked == ["p-3", "p-4"]
        looked.clear()
        judged = house.judge.judge(collection, things(5), matches)
        assert judged[2].tier is Tier.WEAK
        looked.clear()
        many = [match(collection, i, 0.999 - i / 1000) for i in range(60)]
        house.judge.judge(collection, things(300), many)
        assert 2 < len(looked) <= 20


def test_without_pictures_nothing_is_the_same_picture(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        collection = stocked(house, Retention.NONE)
        judged = house.judge.judge(collection, things(3), [match(collection, 3, 0.999)])
        assert judged[0].tier is not Tier.SAME_PICTURE
        assert house.judge.judge(collection, things(3), []) == []


def test_a_small_collection_still_knows_its_copies(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem(f"{i}", image=encoded(things(i), quality=90)) for i in range(5)])
        copy = ImageQuery(altered(things(2), "cropped"))
        answer = house.searcher.search("", copy, SearchOptions(judge=True), deadline=None)
        tiers = {m.item.id: m.judgement.tier for m in answer.matches}
        assert tiers.pop("2") is Tier.SAME_PICTURE
        assert set(tiers.values()) == {None}
        assert {m.judgement.rate for m in answer.matches} == {None}


def test_searches_are_judged_and_an_item_stands_for_its_picture(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        items = [NewItem(f"{i}", image=encoded(things(i), quality=90)) for i in range(60)]
        items.append(NewItem("copy", image=altered(things(7), "written on")))
        house.put(items, bulk=True)
        options = SearchOptions(limit=5, judge=True)
        for query in (ItemQuery("copy"), ImageQuery(altered(things(7), "smaller"))):
            answer = house.searcher.search("", query, options, deadline=None)
            tiers = {m.item.id: m.judgement.tier for m in answer.matches}
            assert tiers.pop("7") is Tier.SAME_PICTURE
            tiers.pop("copy", None)
            assert Tier.SAME_PICTURE not in tiers.values()
            assert all(m.judgement.rate is not None for m in answer.matches)


def test_a_calibration_is_a_table_one_can_read() -> None:
    found = Calibration(6, (1.0, 0.5, 0.25), (0.0, 1.0, 2.0))
    assert found.rate(-1) == found.rate(0) == 1
    assert found.rate(1) == pytest.approx(0.5)
    assert found.rate(1.5) == pytest.approx(0.25 * 2**0.5)
    assert found.rate(4) == pytest.approx(0.0625)
    assert found.score(0.0625) == pytest.approx(4)
