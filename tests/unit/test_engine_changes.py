"""What the local engine takes in and what its answers look like."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine_parts import (
    ForgetfulIndex,
    Opens,
    SlowIndex,
    opener,
)
from lookalike.backends.engine import _part
from lookalike.backends.engine._part import difference, rows_of
from lookalike.backends.errors import (
    DimensionMismatch,
    InvalidArgument,
    VectorNotFinite,
    VectorZero,
)
from lookalike.backends.testing.scene import NO_KEYS
from lookalike.backends.types import Changes, Metric, SearchParams


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    SlowIndex.begun.clear()
    SlowIndex.go_on.clear()
    open_scene, scenes = opener(tmp_path, monkeypatch)
    yield open_scene
    SlowIndex.go_on.set()
    for scene in scenes:
        scene.engine.close()


def test_an_index_that_finds_too_little_is_helped_out(opens: Opens) -> None:
    scene = opens(ForgetfulIndex, delta_limit=50)
    scene.add(200)
    scene.settle()
    scene.check(10)
    assert not scene.engine.search(scene.random(2), 2).exact
    scene.check(10, allowed=scene.some(190))


def test_few_allowed_keys_are_compared_exactly(
    opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_part, "FEW", 20)
    scene = opens(delta_limit=50)
    scene.add(200)
    scene.settle()
    assert scene.check(10, allowed=scene.some(20)).exact
    assert not scene.check(10, allowed=scene.some(100)).exact
    assert not scene.check(10).exact
    assert scene.check(10, params=SearchParams(exact=True)).exact


def test_bad_vectors_are_refused_and_change_nothing(opens: Opens) -> None:
    scene = opens()
    scene.add(10)
    bad = scene.random(2)
    bad[1, 3] = np.nan
    with pytest.raises(VectorNotFinite):
        scene.engine.apply(Changes(5, NO_KEYS, np.array([98, 99]), bad))
    with pytest.raises(DimensionMismatch):
        scene.engine.apply(Changes(5, NO_KEYS, np.array([98]), bad[:1, :5]))
    assert scene.engine.stats().count == 10
    assert scene.engine.applied_seq == 1


def test_a_zero_query_has_no_cosine(opens: Opens) -> None:
    scene = opens()
    zero = np.zeros((1, 24), np.float32)
    with pytest.raises(VectorZero):
        scene.engine.search(zero, 5)
    for metric in (Metric.DOT, Metric.L2):
        other = opens(name=metric, metric=metric)
        other.add(20)
        other.check(5, queries=zero)


def test_keys_that_do_not_rise_are_taken_in_all_the_same(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    vectors = scene.random(5)
    order = [30, 10, 20, 10]
    scene.engine.apply(Changes(1, NO_KEYS, np.array(order), vectors[[0, 1, 2, 1]]))
    scene.engine.apply(Changes(2, np.array([20]), np.array([5, 15]), vectors[3:5]))
    scene.truth.items = {30: vectors[0], 10: vectors[1], 5: vectors[3], 15: vectors[4]}
    scene.check(4)


def test_a_key_that_a_commit_added_and_removed_is_gone(opens: Opens) -> None:
    scene = opens()
    scene.engine.apply(Changes(1, np.array([7]), np.array([7, 8]), scene.random(2)))
    assert scene.engine.search(scene.random(1), 5).ids.tolist() == [[8]]


def test_changes_of_the_past_do_not_bring_keys_back(opens: Opens) -> None:
    scene = opens()
    first = scene.truth.commit(NO_KEYS, scene.random(5))
    scene.engine.apply(first)
    scene.remove(first.added[:2])
    scene.engine.apply(first)
    assert scene.engine.stats().count == 3
    assert scene.engine.applied_seq == 2


@pytest.mark.parametrize("options", [{"delta_limit": 0}, {"build_threads": "2"}, {"delta": 5}])
def test_options_that_make_no_sense_are_refused(opens: Opens, options: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        opens(**options)


def test_huge_and_tiny_numbers_keep_their_order(opens: Opens) -> None:
    for metric in (Metric.DOT, Metric.L2):
        scene = opens(name=f"huge {metric}", metric=metric)
        vectors = scene.random(40) * np.logspace(-30, 18, 40, dtype=np.float32)[:, None]
        scene.add(vectors=vectors)
        hits = scene.engine.search(vectors[-1:], 40)
        assert hits.ids.min() >= 0
        assert np.isfinite(hits.scores).all()
        scene.check(10, queries=vectors[20:21])


def test_close_neighbours_far_from_zero_are_told_apart(opens: Opens) -> None:
    scene = opens(metric=Metric.L2)
    vectors = scene.random(50) * np.float32(0.01) + np.float32(1000)
    scene.add(vectors=vectors.astype(np.float32))
    scene.check(5, queries=vectors[:10].astype(np.float32))


def test_thousands_of_equal_vectors_come_by_key(opens: Opens) -> None:
    scene = opens(delta_limit=10**6)
    one = scene.random(1)
    scene.add(3000)
    keys = scene.add(vectors=np.repeat(one, 3000, axis=0))
    hits = scene.engine.search(one, 20)
    assert hits.ids[0].tolist() == keys[:20].tolist()
    assert (hits.scores == 1.0).all()


def test_sets_of_keys_are_right() -> None:
    rng = np.random.default_rng(3)
    print("seed 3")
    for _ in range(300):
        a = np.unique(rng.integers(0, 60, rng.integers(0, 40)))
        a = np.arange(7, 7 + len(a)) if rng.random() < 0.3 else a
        b = np.unique(rng.integers(0, 60, rng.integers(0, 40)))
        assert rows_of(a, b).tolist() == np.flatnonzero(np.isin(a, b)).tolist()
        assert difference(a, b).tolist() == np.setdiff1d(a, b).tolist()


def test_an_update_is_seen_whole_by_every_search(opens: Opens) -> None:
    """Never both vectors of an item, never neither, also while segments are swapped."""
    scene = opens(delta_limit=30)
    scene.add(50)
    versions = [int(scene.add()[0])]
    faults: list[set[int]] = []
    stop = threading.Event()

    def look() -> None:
        rng = np.random.default_rng(1)
        while not stop.is_set():
            query = rng.standard_normal((1, 24), dtype=np.float32)
            found = set(scene.engine.search(query, 1000).ids[0].tolist()) - stay
            if len(found) != 1:
                faults.append(found)

    stay = set(scene.truth.keys().tolist()) - set(versions)
    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        changes = scene.truth.commit(np.array(versions[-1:]), scene.random(1))
        scene.engine.apply(changes)
        versions.append(int(changes.added[0]))
    stop.set()
    for thread in threads:
        thread.join()
    assert not faults, f"{len(faults)} searches saw {faults[0]} of one item"


def test_equal_vectors_come_by_key_whatever_the_order_of_segments(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    one = scene.random(1)
    first = scene.add(vectors=np.repeat(one, 60, axis=0))
    scene.settle()
    second = scene.add(vectors=np.repeat(one, 55, axis=0))
    scene.settle()
    assert len(scene.engine.stats().segments) == 2
    scene.remove(first[:13])  # built anew, so it comes after the second
    scene.settle()
    hits = scene.engine.search(one, 100)
    assert hits.ids[0].tolist() == [*first[13:].tolist(), *second[:53].tolist()]
