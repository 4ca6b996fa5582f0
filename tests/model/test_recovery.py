"""A server answers rightly from its first moment on, whatever became of its indexes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from house import House, open_house
from lookalike.backends.index._faiss import FaissIndex
from lookalike.backends.types import HnswParams, IndexSpec, Metric
from lookalike.server.domain import (
    CollectionConfig,
    CollectionState,
    NewItem,
    SearchOptions,
    VectorQuery,
    View,
)
from model.drivers import copied, wait_until
from model.oracle import Vector

COUNT, DIM = 3000, 16


@pytest.fixture(scope="module")
def rows() -> Vector:
    print("seed 5")
    return np.random.default_rng(5).standard_normal((COUNT, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def stored(rows: Vector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with an index, left as a killed server leaves it."""
    data, left = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("left") / "data"
    with open_house(data, delta_limit=500) as house:
        spec = IndexSpec("faiss", HnswParams())
        config = CollectionConfig("v", model="none", dimension=DIM, metric=Metric.L2, index=spec)
        house.library.create_collection(config, exist_ok=False)
        items = [NewItem(f"v-{i}", vector=row) for i, row in enumerate(rows)]
        house.put(items, "v")
        wait_until(lambda: not stats(house).building)
        house.library.collection("v").engine.snapshot()
        copied(data, left)
    return left


def stats(house: House) -> Any:
    return house.library.collection("v").engine.stats()


def finds(house: House, rows: Vector) -> bool:
    """Search for every tenth vector; return whether the answers say that they are exact."""
    exact = []
    for i in range(0, len(rows), 10):
        answer = house.searcher.search(
            "v", VectorQuery(rows[i]), SearchOptions(limit=5, view=View.ID), deadline=None
        )
        assert answer.matches[0].item.id == f"v-{i}"
        right = -np.sort(((rows.astype(np.float64) - rows[i]) ** 2).sum(axis=1))[:5]
        if answer.exact:
            assert np.allclose([m.score for m in answer.matches], right, atol=1e-4)
        exact.append(answer.exact)
    return all(exact)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold up every build of an index until the event is set."""
    go_on = threading.Event()
    build = FaissIndex.build

    def waits(*args: Any, progress: Any = None, **kwargs: Any) -> FaissIndex:
        while not go_on.wait(0.01):
            if progress:
                progress("waiting", 0, 1)
        return build(*args, progress=progress, **kwargs)

    monkeypatch.setattr(FaissIndex, "build", waits)
    yield go_on
    go_on.set()


def test_after_a_kill_the_index_is_used_at_once(
    stored: Path, rows: Vector, tmp_path: Path, held: threading.Event
) -> None:
    copied(stored, tmp_path / "data")
    with open_house(tmp_path / "data", delta_limit=500) as house:
        assert house.library.collection("v").state() is CollectionState.READY
        assert stats(house).indexed == COUNT
        assert stats(house).recovered == ""
        finds(house, rows)


def test_without_indexes_all_is_compared_until_there_is_one_again(
    stored: Path, rows: Vector, tmp_path: Path, held: threading.Event
) -> None:
    copied(stored, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "indexes")
    with open_house(tmp_path / "data", delta_limit=500) as house:
        collection = house.library.collection("v")
        info = collection.info()
        assert info.state is CollectionState.RECOVERING
        assert info.stats is not None
        assert (info.item_count, info.stats.indexed, info.stats.building) == (COUNT, 0, True)
        assert finds(house, rows), "what has no index is compared one by one"
        more = rows[:1] + 100
        house.put([NewItem("late", vector=more[0])], "v")
        held.set()
        wait_until(lambda: collection.state() is CollectionState.READY)
        assert stats(house).indexed >= COUNT
        finds(house, rows)
    with open_house(tmp_path / "data", delta_limit=500) as house:
        assert stats(house).recovered == "", "the new index was not kept"


def test_a_damaged_index_is_built_anew_beside_the_searches(
    stored: Path, rows: Vector, tmp_path: Path, held: threading.Event
) -> None:
    copied(stored, tmp_path / "data")
    (index, *_) = sorted((tmp_path / "data" / "indexes").rglob("index.bin"))
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 4
    index.write_bytes(data)
    with open_house(tmp_path / "data", delta_limit=500) as house:
        collection = house.library.collection("v")
        assert collection.state() is CollectionState.RECOVERING
        assert "damaged" in stats(house).recovered
        finds(house, rows)
        held.set()
        wait_until(lambda: collection.state() is CollectionState.READY)
        finds(house, rows)
