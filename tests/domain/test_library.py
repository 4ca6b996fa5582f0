"""Collections, their models and jobs, across restarts."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.errors import (
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    DiskFull,
    FailedPrecondition,
    IndexSpecInvalid,
    InvalidArgument,
    ModelMismatch,
    ModelNotFound,
)
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams, Metric
from lookalike.server.domain import (
    CollectionConfig,
    CollectionState,
    ImageQuery,
    Job,
    JobState,
    NewItem,
    Outcome,
    Retention,
    SearchOptions,
    VectorQuery,
    View,
)
from made_pictures import jpeg

FULL_OF = 300


def fill(house: House, count: int = FULL_OF, dim: int = 16, seed: int = 1) -> np.ndarray:
    print(f"seed {seed}")
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    config = CollectionConfig("v", model="none", dimension=dim)
    house.library.create_collection(config, exist_ok=True)
    house.put([NewItem(f"v-{i}", vector=row) for i, row in enumerate(rows)], "v", bulk=True)
    return rows


def ended(house: House, job: Job) -> Job:
    *_, last = house.jobs.watch(job.id)
    return last


def finds_itself(house: House, rows: np.ndarray) -> bool:
    answers = house.searcher.search_batch(
        [("v", VectorQuery(row), SearchOptions(limit=1)) for row in rows], deadline=None
    )
    ids = [a.matches[0].item.id for a in answers]  # type: ignore[union-attr]
    return ids == [f"v-{i}" for i in range(len(rows))]


def test_collections_are_made_listed_and_deleted(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        for name in ("b", "a", "c"):
            house.library.create_collection(CollectionConfig(name), exist_ok=False)
        listed = house.library.list_collections("a", 1)
        assert [info.record.config.name for info in listed] == ["b"]
        with pytest.raises(CollectionExists):
            house.library.create_collection(CollectionConfig("a"), exist_ok=False)
        assert house.library.delete_collection("b", missing_ok=False) == 0
        with pytest.raises(CollectionNotFound):
            house.library.delete_collection("b", missing_ok=False)
        assert house.library.delete_collection("b", missing_ok=True) == 0
    with open_house(tmp_path) as house:
        listed = house.library.list_collections("", 10)
        assert [info.record.config.name for info in listed] == ["a", "c"]


def test_exist_ok_wants_the_same_settings(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        config = CollectionConfig("a", model="none", dimension=4)
        house.library.create_collection(config, exist_ok=True)
        house.library.create_collection(config, exist_ok=True)
        with pytest.raises(CollectionExists, match="other settings"):
            house.library.create_collection(
                CollectionConfig("a", model="none", dimension=5), exist_ok=True
            )


@pytest.mark.parametrize(
    ("config", "error"),
    [
        (CollectionConfig("x", model="none"), InvalidArgument),
        (CollectionConfig("x", model="bultin"), ModelNotFound),
        (CollectionConfig("x", dimension=3), InvalidArgument),
        (CollectionConfig("x", index=IndexSpec("hnswlib", IvfParams())), IndexSpecInvalid),
        (CollectionConfig("x", index=IndexSpec("faiss", HnswParams(m=3))), IndexSpecInvalid),
    ],
)
def test_settings_that_cannot_be_are_refused_and_leave_nothing(
    config: CollectionConfig, error: type[Exception], tmp_path: Path
) -> None:
    with open_house(tmp_path) as house:
        with pytest.raises(error):
            house.library.create_collection(config, exist_ok=False)
        assert house.library.list_collections("", 10) == []


def test_everything_is_found_after_a_restart(tmp_path: Path) -> None:
    with open_house(tmp_path, delta_limit=64) as house:
        rows = fill(house)
    with open_house(tmp_path, delta_limit=64) as house:
        assert house.library.describe("v").item_count == FULL_OF
        assert finds_itself(house, rows)


def test_a_deleted_collection_leaves_no_files(tmp_path: Path) -> None:
    with open_house(tmp_path, delta_limit=64) as house:
        fill(house)
        assert ended(house, house.jobs.rebuild("v", None, False)).state is JobState.SUCCEEDED
        number = house.library.collection("v").number
        assert (tmp_path / "indexes" / str(number)).exists()
        house.library.delete_collection("v", missing_ok=False)
        assert not (tmp_path / "indexes" / str(number)).exists()


def test_metrics_order_as_they_should(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        short, long = np.array([1, 0], np.float32), np.array([3, 1], np.float32)
        query = VectorQuery(np.array([1, 0], np.float32))
        for metric, first in ((Metric.COSINE, "short"), (Metric.DOT, "long"), (Metric.L2, "short")):
            config = CollectionConfig(metric.value, model="none", dimension=2, metric=metric)
            house.library.create_collection(config, exist_ok=False)
            house.put([NewItem("short", vector=short), NewItem("long", vector=long)], metric.value)
            answer = house.searcher.search(metric.value, query, SearchOptions(), deadline=None)
            assert answer.matches[0].item.id == first
        assert answer.matches[1].score == pytest.approx(-5.0)


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_a_rebuild_changes_the_kind_and_not_the_answers(backend: str, tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = fill(house)
        job = ended(house, house.jobs.rebuild("v", IndexSpec(backend), False))
        assert job.state is JobState.SUCCEEDED
        stats = house.library.describe("v").stats
        assert stats is not None
        assert [segment["backend"] for segment in stats.segments] == [backend]
        assert finds_itself(house, rows)
    with open_house(tmp_path) as house:
        record = house.library.collection("v").record
        assert record.config.index is not None
        assert record.config.index.backend == backend
        assert house.jobs.get(job.id).state is JobState.SUCCEEDED


def test_a_job_that_a_stop_interrupted_says_so_after_the_start(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        running = Job("job-x", "rebuild_index", "v", JobState.RUNNING, create_time=time.time())
        house.store.write(lambda t: t.save_job(running)).result()
    with open_house(tmp_path) as house:
        job = house.jobs.get("job-x")
        assert job.state is JobState.FAILED
        assert "ask for it again" in job.error_message


def test_a_cancelled_job_changes_nothing(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        rows = fill(house)
        first = house.jobs.rebuild("v", IndexSpec("faiss"), False)
        house.jobs.cancel(first.id)
        state = ended(house, first).state
        assert state in (JobState.CANCELLED, JobState.SUCCEEDED)
        assert finds_itself(house, rows)


def test_another_model_of_the_same_size_is_refused_by_name(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem(f"i-{n}", jpeg(n)) for n in range(3)])
        collection = house.library.collection("")
        vector = collection.get("i-0", View.FULL).vector
        assert vector is not None
        house.store.write(lambda t: t.update_collection(1, space="builtin/0+decode/0")).result()
    with open_house(tmp_path) as house:
        with pytest.raises(ModelMismatch, match="builtin/0"):
            house.searcher.search("", ImageQuery(jpeg(1)), SearchOptions(), deadline=None)
        [result] = house.put([NewItem("new", jpeg(9))])
        assert result.outcome is Outcome.FAILED
        assert house.library.describe("").state is CollectionState.MODEL_MISMATCH
        found = house.searcher.search("", VectorQuery(vector), SearchOptions(), deadline=None)
        assert found.matches[0].item.id == "i-0"


def test_reembed_carries_a_collection_over_to_the_model_of_now(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        config = CollectionConfig("o", retention=Retention.ORIGINAL)
        house.library.create_collection(config, exist_ok=False)
        house.put([NewItem(f"i-{n}", jpeg(n)) for n in range(5)], "o")
        number = house.library.collection("o").number
        house.store.write(lambda t: t.update_collection(number, space="old")).result()
    with open_house(tmp_path) as house:
        assert ended(house, house.jobs.rebuild("o", None, True)).state is JobState.SUCCEEDED
        assert house.library.describe("o").state is CollectionState.READY
        for n in range(5):
            found = house.searcher.search("o", ImageQuery(jpeg(n)), SearchOptions(), deadline=None)
            assert found.matches[0].item.id == f"i-{n}"


def test_reembed_needs_originals(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem("a", jpeg(1))])
        with pytest.raises(FailedPrecondition, match="no originals"):
            house.jobs.rebuild("", None, True)


def test_a_query_vector_of_another_size_is_refused(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        fill(house, 10)
        with pytest.raises(DimensionMismatch):
            house.searcher.search(
                "v", VectorQuery(np.ones(3, np.float32)), SearchOptions(), deadline=None
            )


def test_an_empty_collection_answers_with_nothing(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.library.create_collection(CollectionConfig("empty"), exist_ok=False)
        answer = house.searcher.search("empty", ImageQuery(jpeg(1)), SearchOptions(), deadline=None)
        assert answer.matches == []


def test_a_collection_that_cannot_be_deleted_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path) as house:
        house.put([NewItem("a", image=jpeg(1))])
        refused: Future[int] = Future()
        refused.set_exception(DiskFull("full"))
        with monkeypatch.context() as patch:
            patch.setattr(house.store, "write", lambda op: refused)
            with pytest.raises(DiskFull):
                house.library.delete_collection("default", missing_ok=False)
        house.put([NewItem("b", image=jpeg(2))])
        answer = house.searcher.search(
            "", ImageQuery(jpeg(2)), SearchOptions(limit=2), deadline=None
        )
        assert [match.item.id for match in answer.matches] == ["b", "a"]
        assert house.library.delete_collection("default", missing_ok=False) == 2
