"""What every engine must do: subclass `EngineConformance` in a test file.

    class TestMine(EngineConformance):
        engine_cls = MyEngine

Each test plays against a dict and a float64 comparison with everything.

Troubleshooting: an engine that is right but approximate sets `index` and
`min_recall`; one that needs options sets `options`; one that answers late
("eventually") cannot pass, searches must see what `apply` took in.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from lookalike.backends.engine.base import Engine, EngineConfig
from lookalike.backends.errors import (
    Cancelled,
    DimensionMismatch,
    InvalidArgument,
    VectorNotFinite,
)
from lookalike.backends.testing.scene import DIM, NO_KEYS, Scene
from lookalike.backends.types import Changes, IndexSpec, Keys, Metric, SearchParams


class EngineConformance:
    """The contract of `Engine`, as tests. Subclasses name the class."""

    engine_cls: ClassVar[type[Engine]]
    index: ClassVar[IndexSpec] = IndexSpec("exact")
    other_index: ClassVar[IndexSpec] = IndexSpec("exact")
    """What `rebuild` is asked for."""
    options: ClassVar[dict[str, object]] = {}
    min_recall: ClassVar[float] = 1.0
    seed: ClassVar[int] = 20240607

    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
        scenes: list[Scene] = []

        def make(metric: Metric = Metric.COSINE, name: str = "engine") -> Scene:
            config = EngineConfig(
                owner="store/1/space",
                directory=tmp_path / name,
                dim=DIM,
                metric=metric,
                index=self.index,
                options=dict(self.options),
            )
            sys.stdout.write(f"seed {self.seed}\n")
            scene = Scene(self.engine_cls, config, self.min_recall, self.seed)
            scenes.append(scene)
            return scene

        yield make
        for scene in scenes:
            scene.engine.close()

    @pytest.fixture
    def scene(self, make: Callable[..., Scene]) -> Scene:
        return make()

    # -- searching ---------------------------------------------------------------

    @pytest.mark.parametrize("metric", list(Metric))
    def test_answers_are_those_of_comparing_with_everything(
        self, make: Callable[..., Scene], metric: Metric
    ) -> None:
        scene = make(metric)
        for count in (1, 7, 50, 200):
            scene.add(count)
            scene.check(10)
        scene.settle()
        scene.check(10)
        scene.check(5, params=SearchParams(exact=True))

    def test_an_empty_engine_finds_nothing(self, scene: Scene) -> None:
        hits = scene.engine.search(scene.random(2), 10)
        assert hits.ids.shape == (2, 0)
        assert scene.engine.stats().count == 0

    def test_k_beyond_the_count_gives_all(self, scene: Scene) -> None:
        keys = scene.add(5)
        hits = scene.engine.search(scene.random(1), 1000)
        assert sorted(key for key in hits.ids[0] if key >= 0) == keys.tolist()

    def test_exact_is_said_only_when_everything_was_compared(self, scene: Scene) -> None:
        scene.add(100)
        scene.settle()
        hits = scene.check(10, params=SearchParams(exact=True))
        assert hits.exact

    def test_equal_vectors_come_in_the_order_of_their_keys(self, scene: Scene) -> None:
        one = scene.random(1)
        scene.add(20)
        keys = [int(scene.add(vectors=one)[0]) for _ in range(30)]
        hits = scene.engine.search(one, 10, params=SearchParams(exact=True))
        assert hits.ids[0].tolist() == keys[:10]

    @pytest.mark.parametrize("filled", [False, True])
    def test_a_query_that_is_no_vector_is_refused(self, scene: Scene, filled: bool) -> None:
        if filled:
            scene.add(40)
        query = scene.random(1)
        for bad in (np.nan, np.inf, -np.inf):
            broken = query.copy()
            broken[0, 3] = bad
            with pytest.raises(VectorNotFinite):
                scene.engine.search(broken, 10)
        with pytest.raises(DimensionMismatch):
            scene.engine.search(query[:, :-1], 10)
        with pytest.raises(InvalidArgument):
            scene.engine.search(query, 0)

    def test_only_the_direction_of_a_cosine_query_counts(self, scene: Scene) -> None:
        scene.add(60)
        query = scene.random(1)
        short = scene.engine.search(query, 10)
        long = scene.engine.search(query * np.float32(1234.5), 10)
        assert short.ids.tolist() == long.ids.tolist()
        np.testing.assert_allclose(short.scores, long.scores, atol=1e-6)

    # -- allowed keys ------------------------------------------------------------

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.95, 1.0])
    def test_allowed_keys_are_the_only_ones(self, scene: Scene, share: float) -> None:
        scene.add(300)
        scene.remove(scene.some(30))
        scene.settle()
        scene.add(40)
        scene.check(10, allowed=scene.some(max(1, int(share * 310))))

    def test_unknown_and_removed_keys_are_ignored(self, scene: Scene) -> None:
        keys = scene.add(30)
        scene.remove(keys[:5])
        allowed = np.array([0, *keys[:8], 10**9, 10**12], np.int64)
        hits = scene.engine.search(scene.random(1), 10, allowed=allowed)
        assert sorted(key for key in hits.ids[0] if key >= 0) == keys[5:8].tolist()

    def test_no_allowed_key_finds_nothing(self, scene: Scene) -> None:
        scene.add(30)
        hits = scene.engine.search(scene.random(1), 10, allowed=NO_KEYS)
        assert (hits.ids == -1).all()

    # -- changing ----------------------------------------------------------------

    def test_what_apply_took_in_is_seen_at_once(self, scene: Scene) -> None:
        for _ in range(60):
            vectors = scene.random(3)
            keys = scene.add(vectors=vectors)
            assert scene.engine.search(vectors, 1).ids[:, 0].tolist() == keys.tolist()
            scene.remove(keys[:1])
            assert keys[0] not in scene.engine.search(vectors[:1], 5).ids

    def test_an_update_shows_the_new_vector_only(self, scene: Scene) -> None:
        keys = scene.add(50)
        old = scene.truth.vectors(keys[:1])
        changes = scene.truth.commit(keys[:1], scene.random(1))
        scene.engine.apply(changes)
        assert keys[0] not in scene.engine.search(old, 10).ids
        assert scene.engine.search(changes.vectors, 1).ids[0, 0] == changes.added[0]
        assert scene.engine.stats().count == 50

    def test_applying_twice_changes_nothing(self, scene: Scene) -> None:
        keys = scene.add(50)
        changes = scene.truth.commit(keys[10:20], scene.random(5))
        for _ in range(3):
            scene.engine.apply(changes)
            assert scene.engine.stats().count == 45
        scene.check(45)
        assert scene.engine.applied_seq == changes.seq

    def test_a_commit_without_changes_moves_the_seq(self, scene: Scene) -> None:
        scene.engine.apply(Changes(77, NO_KEYS, NO_KEYS, scene.random(0)))
        assert scene.engine.applied_seq == 77

    def test_removing_everything_leaves_nothing(self, scene: Scene) -> None:
        keys = scene.add(120)
        scene.settle()
        scene.remove(keys)
        assert scene.engine.stats().count == 0
        assert (scene.engine.search(scene.random(1), 5).ids == -1).all()
        scene.add(3)
        scene.check(5)

    def test_searches_meanwhile_see_what_was_there_before(self, scene: Scene) -> None:
        """Never a key that was gone before the search began, always one that was there."""
        stays = scene.random(1)
        kept = int(scene.add(vectors=stays)[0])
        gone: set[int] = set()
        faults: list[str] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                before = gone.copy()
                found = set(scene.engine.search(stays, 400).ids[0].tolist())
                if found & before:
                    faults.append(f"removed keys {found & before} came back")
                if kept not in found:
                    faults.append("the key that stays was not found")

        threads = [threading.Thread(target=look, name=f"look-{i}") for i in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            keys = scene.add(5)
            scene.remove(keys[:4])
            gone.update(keys[:4].tolist())
        stop.set()
        for thread in threads:
            thread.join()
        assert not faults, faults[0]

    # -- opening -----------------------------------------------------------------

    def test_reopened_from_a_snapshot_it_answers_the_same(self, scene: Scene) -> None:
        scene.add(150)
        scene.remove(scene.some(20))
        scene.settle()
        assert scene.engine.snapshot() == scene.truth.seq()
        scene.reopen()
        assert scene.engine.stats().recovered == ""
        assert scene.engine.applied_seq == scene.truth.seq()
        scene.check(20)

    def test_reopened_without_a_snapshot_it_answers_the_same(self, scene: Scene) -> None:
        scene.add(150)
        scene.remove(scene.some(20))
        scene.reopen()
        assert scene.engine.stats().count == 130
        scene.check(20)

    def test_reopened_from_an_old_snapshot_it_answers_the_same(self, scene: Scene) -> None:
        scene.add(150)
        scene.settle()
        scene.engine.snapshot()
        scene.remove(scene.some(50))
        scene.add(70)
        scene.reopen()
        assert scene.engine.stats().count == 170
        scene.check(30)

    def test_changes_while_closed_are_reconciled(self, scene: Scene) -> None:
        keys = scene.add(150)
        scene.settle()
        scene.engine.snapshot()
        scene.engine.close()
        scene.truth.commit(keys[::3], scene.random(0))
        scene.truth.commit(NO_KEYS, scene.random(40))
        scene.reopen()
        assert scene.engine.stats().count == 140
        scene.check(30)

    def test_keys_that_vanish_while_it_opens_are_left_out(self, scene: Scene) -> None:
        keys = scene.add(60)
        scene.engine.close()
        truth = scene.truth
        listed = truth.keys

        def keys_then_lose_some() -> Keys:
            found = listed()
            if int(keys[3]) in truth.items:
                changes.append(truth.commit(keys[3:6], scene.random(0)))
            return found

        changes: list[Changes] = []
        truth.keys = keys_then_lose_some  # type: ignore[method-assign]
        scene.reopen()
        for change in changes:
            scene.engine.apply(change)
        truth.keys = listed  # type: ignore[method-assign]
        assert scene.engine.stats().count == 57
        scene.check(57)

    def test_another_owners_files_are_not_used(self, make: Callable[..., Scene]) -> None:
        first = make(name="shared")
        first.add(100)
        first.settle()
        first.engine.snapshot()
        first.engine.close()
        config = replace(first.config, owner="store/2/space")
        second = Scene(self.engine_cls, config, self.min_recall, self.seed + 1)
        second.add(30)
        second.check(30)
        second.engine.close()

    # -- rebuilding --------------------------------------------------------------

    def test_rebuilding_keeps_the_answers(self, scene: Scene) -> None:
        scene.add(200)
        scene.remove(scene.some(40))
        seen: list[str] = []
        scene.engine.rebuild(self.other_index, lambda phase, done, total: seen.append(phase))
        assert scene.engine.stats().count == 160
        assert seen, "progress was never called"
        scene.check(20)
        scene.add(30)
        scene.check(20)

    def test_a_cancelled_rebuild_changes_nothing(self, scene: Scene) -> None:
        scene.add(200)
        scene.settle()
        queries = scene.random(4)
        before = scene.engine.search(queries, 20)

        def cancel(phase: str, done: int, total: int) -> None:
            raise Cancelled("enough")

        with pytest.raises(Cancelled):
            scene.engine.rebuild(self.other_index, cancel)
        scene.settle()
        after = scene.engine.search(queries, 20)
        assert scene.engine.stats().count == 200
        if before.exact and after.exact:
            assert before.ids.tolist() == after.ids.tolist()
        scene.check(20, queries=queries)

    def test_changes_during_a_rebuild_are_kept(self, scene: Scene) -> None:
        keys = scene.add(200)
        left = iter(range(0, 100, 5))

        def change(phase: str, done: int, total: int) -> None:
            for start in [next(left, None)]:
                if start is not None:
                    scene.remove(keys[start : start + 5])
                    scene.add(2)

        scene.engine.rebuild(self.other_index, change)
        assert scene.engine.stats().count == len(scene.truth.items)
        scene.check(30)
        scene.check(len(scene.truth.items))
