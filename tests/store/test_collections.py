"""Collections, their settings, a change of space, and jobs."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import numpy as np
import pytest

from lookalike.backends.errors import (
    CollectionExists,
    CollectionNotFound,
)
from lookalike.backends.types import HnswParams, IndexSpec, IvfParams, Metric
from lookalike.server.domain import (
    CollectionConfig,
    Filter,
    Job,
    JobState,
    Retention,
    StoredImage,
    View,
)
from lookalike.server.store import Store
from store.making import create, do, item, put

# -------------------------------------------------------------- collections


def test_a_collection_comes_back_with_all_its_settings(store: Store, clock: Any) -> None:
    configs = [
        CollectionConfig(
            "full",
            "a remark ü",
            "clip",
            Metric.L2,
            IndexSpec("faiss", HnswParams(m=8), {"factory": "HNSW8"}, Metric.L2),
            512,
            Retention.ORIGINAL,
        ),
        CollectionConfig("ivf", index=IndexSpec(algorithm=IvfParams(nlist=3))),
        CollectionConfig("plain"),
    ]
    made = [do(store, methodcaller("create_collection", c, "s")) for c in configs]
    assert store.collections() == made
    assert [record.config for record in made] == configs
    assert made[0].create_time == clock.now


def test_a_name_is_taken_once_and_a_number_never_again(store: Store) -> None:
    first = create(store, "a")
    with pytest.raises(CollectionExists):
        create(store, "a")
    do(store, lambda t: t.delete_collection(first.number))
    assert create(store, "a").number > first.number


def test_update_collection_changes_what_is_given(store: Store) -> None:
    record = create(store)
    spec = IndexSpec("exact")
    after = do(store, lambda t: t.update_collection(record.number, index=spec))
    assert (after.config.index, after.space) == (spec, "space")
    after = do(store, lambda t: t.update_collection(record.number, space="other"))
    assert (after.config.index, after.space) == (spec, "other")
    after = do(store, lambda t: t.update_collection(record.number, index=None))
    assert after.config.index is None
    assert store.collections() == [after]


def test_writing_to_a_collection_that_is_gone_is_not_found(store: Store) -> None:
    with pytest.raises(CollectionNotFound):
        put(store, 5, [item("a")])
    with pytest.raises(CollectionNotFound):
        do(store, lambda t: t.delete_collection(5))


def test_replace_vectors_moves_all_items_to_another_space(store: Store) -> None:
    number = create(store).number
    put(store, number, [item(f"i{n}", float(n), original=b"o%d" % n) for n in range(5)])
    put(store, number, [item("i3", 33.0, original=b"o3")])  # keys and ids in another order
    before = store.list(number, Filter(), "", 10, View.BASIC)
    keys = np.array([f.key for f in before] + [999], np.int64)[::-1]
    vectors = np.arange(6 * 8, dtype=np.float32).reshape(6, 8)
    by_id = {f.id: vectors[keys.tolist().index(f.key)] for f in before}

    partial = do(store, lambda t: t.replace_vectors(number, keys[:-1], vectors[:-1], "new"))
    assert partial is None
    record = do(store, lambda t: t.replace_vectors(number, keys, vectors, "new"))
    assert record is not None
    assert (record.space, record.config.dimension) == ("new", 8)
    assert store.collections() == [record]
    after = store.list(number, Filter(), "", 10, View.FULL)
    assert not {f.key for f in after} & set(keys.tolist())
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new.vector, by_id[new.id])
        assert (old.id, old.image, old.create_time) == (new.id, new.image, new.create_time)
        assert store.image(new.key, True) == StoredImage("image/png", b"o" + new.id[1:].encode())
    np.testing.assert_array_equal(
        store.vectors(number, store.keys(number)).sum(), sum(v.sum() for v in by_id.values())
    )


# --------------------------------------------------------------------- jobs


def test_jobs_come_newest_first_and_can_be_forgotten(store: Store) -> None:
    old = Job("j1", "rebuild_index", "default", JobState.QUEUED, create_time=1.5)
    new = Job("j2", "rebuild_index", "default", JobState.QUEUED, create_time=2.5)
    for job in (old, new):
        do(store, methodcaller("save_job", job))
    assert store.jobs() == [new, old]
    done = Job(
        "j1", "rebuild_index", "default", JobState.FAILED, 3, 9, "adding", "X", "y", 1.5, 1.75, 4.0
    )
    seq = store.seq()
    do(store, lambda t: t.save_job(done))
    assert store.jobs() == [new, done]
    assert store.seq() == seq
    assert do(store, lambda t: t.delete_jobs(4.0)) == 0
    assert do(store, lambda t: t.delete_jobs(5.0)) == 1
    assert store.jobs() == [new]
