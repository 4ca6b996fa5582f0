"""What every vector index must do: subclass `IndexConformance` in a test file.

    class TestMine(IndexConformance):
        backend = "mine"

The name is looked up in the registry; where its library is missing the tests are
skipped with what to install. A claim that cannot hold is not deleted but overridden
with `@pytest.mark.xfail(reason=...)`. Call `pytest.register_assert_rewrite(
"lookalike.backends.testing.index")` before the import to have failures explained.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lookalike.backends.errors import DimensionMismatch, InvalidArgument, VectorNotFinite
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.testing._index_suite import METRICS, IndexSuite, Scene, Stop, overridden
from lookalike.backends.testing.clusters import best_rows, clustered, recall
from lookalike.backends.types import Hits, Metric, SearchParams


class IndexConformance(IndexSuite):
    """The contract of `VectorIndex`, as tests. Subclasses name the backend."""

    def test_no_overrides_DO_NOT_OVERRIDE(self) -> None:
        """Troubleshooting: mark the override `@pytest.mark.xfail(reason=...)` and say why."""
        names = overridden(type(self), IndexConformance)
        assert not names, f"overridden without a reason: {', '.join(names)}"

    # -- what is found ----------------------------------------------------------

    def test_most_of_the_true_nearest_are_found(self, scene: Scene) -> None:
        """Troubleshooting: build or search harder by default, or score the metric rightly."""
        hits = scene.index.search(scene.queries, 10)
        scene.check(hits, 10)
        assert (hits.ids >= 0).all(), "fewer hits than live rows although more are there"
        assert recall(hits.ids, best_rows(scene.scores, 10)) >= self.min_recall

    def test_many_neighbours_are_found_as_well(self, scene: Scene) -> None:
        """Troubleshooting: a search for k rows must look at a good deal more than k."""
        hits = scene.index.search(scene.queries, 100)
        scene.check(hits, 100)
        assert recall(hits.ids, best_rows(scene.scores, 100)) >= self.min_recall

    def test_an_exact_search_finds_exactly_the_true_nearest(self, scene: Scene) -> None:
        """Troubleshooting: `params.exact` and `exact = True` promise every row is compared."""
        if not scene.index.exact:
            hits = scene.index.search(scene.queries, 10, params=SearchParams(exact=True))
        else:
            hits = scene.index.search(scene.queries, 10)
        assert hits.exact, "`Hits.exact` must say so"
        assert hits.ids.tolist() == [rows.tolist() for rows in best_rows(scene.scores, 10)]

    def test_knobs_that_mean_nothing_here_are_ignored(self, scene: Scene) -> None:
        """Troubleshooting: knobs are clamped to what the index has, never an error."""
        for params in (SearchParams(ef_search=100_000), SearchParams(nprobe=100_000)):
            hits = scene.index.search(scene.queries, 10, params=params)
            scene.check(hits, 10)
            assert recall(hits.ids, best_rows(scene.scores, 10)) >= self.min_recall

    def test_equal_vectors_are_all_found_and_come_by_rising_row(
        self, index_cls: type[VectorIndex]
    ) -> None:
        """Troubleshooting: sort by (-score, row); equal vectors must score equally."""
        vectors = clustered(self.count, self.dim, Metric.COSINE, seed=self.seed)
        twins = np.sort(self._rng().choice(self.count, 6, replace=False))
        vectors[twins] = vectors[twins[0]]
        hits = self._build(index_cls, vectors, Metric.COSINE).search(vectors[twins[:1]], 6)
        assert hits.ids[0].tolist() == twins.tolist()

    def test_every_vector_finds_itself(self, scenes: Callable[[Metric], Scene]) -> None:
        """Troubleshooting: a graph has islands, or codes are not refined by the vectors."""
        scene = scenes(Metric.COSINE)
        sample = np.sort(self._rng().choice(self.count, 300, replace=False))
        hits = scene.index.search(scene.vectors[sample], 1)
        assert (hits.ids[:, 0] == sample).mean() >= self.min_recall

    # -- live rows --------------------------------------------------------------

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
    def test_dead_rows_are_never_returned_whatever_the_churn(
        self, scene: Scene, share: float
    ) -> None:
        """Troubleshooting: filter inside the search, look deeper, or compare the live exactly."""
        live = self._rng().random(len(scene.vectors)) < share
        hits = scene.index.search(scene.queries, 10, live=live)
        scene.check(hits, 10)
        assert live[hits.ids[hits.ids >= 0]].all(), "a dead row was returned"
        assert (hits.ids >= 0).all(), "fewer hits than live rows although more are there"
        assert recall(hits.ids, best_rows(scene.scores, 10, live)) >= self.min_recall

    def test_a_few_live_rows_are_all_found(self, scene: Scene) -> None:
        """Troubleshooting: where few rows are live, compare them all."""
        live = np.zeros(len(scene.vectors), dtype=np.bool_)
        live[self._rng().choice(len(live), 7, replace=False)] = True
        hits = scene.index.search(scene.queries, 10, live=live)
        scene.check(hits, 10)
        assert hits.ids[:, :7].tolist() == [r.tolist() for r in best_rows(scene.scores, 7, live)]
        assert (hits.ids[:, 7:] == -1).all()

    def test_live_rows_far_from_the_query_are_found(self, scene: Scene) -> None:
        """Troubleshooting: the mask shuts out all that is near; go on, or compare the live."""
        order = np.argsort(-scene.scores[0])
        live = np.ones(len(order), dtype=np.bool_)
        live[order[: len(order) * 3 // 4]] = False
        hits = scene.index.search(scene.queries[:1], 10, live=live)
        scene.check(hits, 10, slice(0, 1))
        assert recall(hits.ids, best_rows(scene.scores[:1], 10, live)) >= self.min_recall

    def test_without_a_live_row_nothing_is_found(self, scene: Scene) -> None:
        """Troubleshooting: an empty mask is no reason to fail, or to ignore it."""
        live = np.zeros(len(scene.vectors), dtype=np.bool_)
        hits = scene.index.search(scene.queries, 3, live=live)
        assert (hits.ids == -1).all()
        assert (hits.scores == -np.inf).all()

    # -- edges ------------------------------------------------------------------

    @pytest.mark.parametrize("count", [1, 2, 3, 17, 100])
    def test_a_few_vectors_are_indexed_and_all_found(
        self, index_cls: type[VectorIndex], count: int
    ) -> None:
        """Troubleshooting: k is clamped to the count; training needs a fallback for few."""
        for metric in METRICS:
            vectors = clustered(count, self.dim, metric, seed=self.seed)
            hits = self._build(index_cls, vectors, metric).search(vectors, count + 5)
            assert hits.ids.shape == (count, count)
            assert np.sort(hits.ids, axis=1).tolist() == [list(range(count))] * count

    def test_wrong_queries_are_refused(self, scene: Scene) -> None:
        """Troubleshooting: do not override `search`; it checks before `_search`."""
        with pytest.raises(InvalidArgument):
            scene.index.search(scene.queries, 0)
        with pytest.raises(DimensionMismatch):
            scene.index.search(scene.queries[:, :-1], 3)
        for strange in (np.nan, np.inf):
            query = scene.queries[:1].copy()
            query[0, 3] = strange
            with pytest.raises(VectorNotFinite):
                scene.index.search(query, 3)

    def test_no_queries_have_no_hits(self, scene: Scene) -> None:
        """Troubleshooting: (0, dim) queries are an empty batch, no error."""
        assert scene.index.search(scene.queries[:0], 3).ids.shape == (0, 3)

    def test_queries_in_any_layout_are_answered_and_left_alone(self, scene: Scene) -> None:
        """Troubleshooting: never scale or convert in place; the caller owns the queries."""
        plain = scene.index.search(scene.queries[:7], 5)
        wide = np.asfortranarray(scene.queries[:7].astype(np.float64))
        wide.flags.writeable = False
        assert scene.index.search(wide, 5).ids.tolist() == plain.ids.tolist()  # type: ignore[arg-type]
        before = scene.queries.copy()
        scene.index.search(scene.queries, 5, live=np.ones(len(scene.vectors), dtype=np.bool_))
        assert (scene.queries == before).all()

    def test_eight_threads_get_the_answers_of_one(self, scene: Scene) -> None:
        """Troubleshooting: a search may not write to the index, its parameters included."""
        masks = [None, self._rng().random(len(scene.vectors)) < 0.3]
        knobs = [SearchParams(), SearchParams(exact=True), SearchParams(ef_search=300, nprobe=2)]

        def ask(i: int) -> Hits:
            part = scene.queries[i % 40 : i % 40 + 1]
            return scene.index.search(part, 1 + i % 12, live=masks[i % 2], params=knobs[i % 3])

        alone = [ask(i) for i in range(160)]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(ask, range(160)))
        for one, other in zip(alone, together, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.scores.tolist() == other.scores.tolist()

    # -- files ------------------------------------------------------------------

    def test_a_saved_index_answers_as_before(
        self, scene: Scene, index_cls: type[VectorIndex], tmp_path: Path
    ) -> None:
        """Troubleshooting: save what was measured and set, not only what the library keeps."""
        path = tmp_path / "index"
        scene.index.save(path)
        again = index_cls.load(self._spec(scene.metric), path, scene.vectors)
        live = self._rng().random(len(scene.vectors)) < 0.7
        for mask in (None, live):
            before = scene.index.search(scene.queries, 10, live=mask)
            after = again.search(scene.queries, 10, live=mask)
            assert after.ids.tolist() == before.ids.tolist()
            assert after.scores.tolist() == before.scores.tolist()
        assert again.settings == scene.index.settings
        assert again.exact == scene.index.exact

    def test_files_that_are_cut_off_or_rubbish_are_refused(
        self,
        index_cls: type[VectorIndex],
        scenes: Callable[[Metric], Scene],
        tmp_path: Path,
    ) -> None:
        """Troubleshooting: check length and header before the library reads; ValueError."""
        scene = scenes(Metric.COSINE)
        path = tmp_path / "index"
        scene.index.save(path)
        whole = path.read_bytes()
        cuts = {0, 1, 7, 100, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1}
        wrong = [whole[:cut] for cut in sorted(cuts) if cut < len(whole)]
        wrong += [self._rng().bytes(size) for size in (8, 300, 5000)]
        wrong += [b"\0" * 5000, whole[: len(whole) // 2] * 2]
        for content in wrong:
            path.write_bytes(content)
            with pytest.raises(ValueError):
                index_cls.load(self._spec(), path, scene.vectors)

    def test_a_file_of_other_vectors_is_refused(
        self,
        index_cls: type[VectorIndex],
        scenes: Callable[[Metric], Scene],
        tmp_path: Path,
    ) -> None:
        """Troubleshooting: write count and dimension into the file, compare them on load."""
        scene = scenes(Metric.COSINE)
        path = tmp_path / "index"
        scene.index.save(path)
        for other in (scene.vectors[:-1], scene.vectors[:, :-1].copy(), scene.vectors[:1]):
            with pytest.raises(ValueError):
                index_cls.load(self._spec(), path, other)

    # -- building ---------------------------------------------------------------

    def test_progress_tells_how_far_it_is_and_can_stop_the_build(
        self, index_cls: type[VectorIndex], scenes: Callable[[Metric], Scene]
    ) -> None:
        """Troubleshooting: call progress between chunks, and let what it raises pass."""
        vectors = scenes(Metric.COSINE).vectors
        told: list[tuple[str, int, int]] = []
        index_cls.build(self._spec(), vectors, progress=lambda *what: told.append(what))
        assert told, "progress was never called"
        assert all(phase and 0 <= done <= total for phase, done, total in told)
        assert told[-1][1] == told[-1][2], "the last report must say that all is done"

        def stop(phase: str, done: int, total: int) -> None:
            raise Stop

        with pytest.raises(Stop):
            index_cls.build(self._spec(), vectors, progress=stop)

    def test_vectors_on_disk_are_indexed_and_left_alone(
        self, index_cls: type[VectorIndex], scenes: Callable[[Metric], Scene], tmp_path: Path
    ) -> None:
        """Troubleshooting: a memory-mapped, read-only matrix must do; never write to it."""
        scene = scenes(Metric.L2)
        path = tmp_path / "vectors"
        scene.vectors.tofile(path)
        before = path.read_bytes()
        mapped = np.memmap(path, dtype=np.float32, mode="r", shape=scene.vectors.shape)
        index = index_cls.build(self._spec(Metric.L2), mapped)
        index.save(tmp_path / "index")
        again = index_cls.load(self._spec(Metric.L2), tmp_path / "index", mapped)
        for each in (index, again):
            hits = each.search(scene.queries, 10)
            scene.check(hits, 10)
            assert recall(hits.ids, best_rows(scene.scores, 10)) >= self.min_recall
        assert path.read_bytes() == before

    def test_what_it_says_about_itself_is_json(self, scene: Scene) -> None:
        """Troubleshooting: `settings` holds plain numbers and strings, no numpy scalars."""
        assert isinstance(json.loads(json.dumps(scene.index.settings)), dict)
        assert scene.index.memory_bytes >= 0
        assert scene.index.backend == self.backend
