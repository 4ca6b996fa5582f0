"""Threads that write, delete, get and search the same ids see one order of things."""

from __future__ import annotations

import itertools
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from house import House, open_house
from lookalike.backends.errors import ItemNotFound
from lookalike.backends.types import Hits
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    CollectionConfig,
    Filter,
    NewItem,
    SearchOptions,
    VectorQuery,
    View,
)
from model.budget import SEED, folder, number
from model.histories import DIM, direction, record
from model.killable import Killable
from model.linear import Kind, Op, is_linearizable
from model.oracle import Vector

W, D, R = Kind.WRITE, Kind.DELETE, Kind.READ


@pytest.fixture(autouse=True)
def busy_threads() -> Iterator[None]:
    """Switch threads ten times as often as usual: more of what can happen does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 10)
    yield
    sys.setswitchinterval(before)


# ------------------------------------------------------------ the checker itself


@pytest.mark.parametrize(
    "history",
    [
        [],
        [Op(R, 0, 1)],
        [Op(W, 0, 1, 1), Op(R, 2, 3, 1), Op(D, 4, 5, was_there=True), Op(R, 6, 7)],
        # a read beside a write may see it or not
        [Op(W, 0, 1, 1), Op(W, 2, 9, 2), Op(R, 3, 4, 1), Op(R, 5, 6, 2)],
        # two writes at once, in either order
        [Op(W, 0, 5, 1), Op(W, 0, 5, 2), Op(R, 6, 7, 1)],
        [Op(W, 0, 5, 1), Op(W, 0, 5, 2), Op(R, 6, 7, 2)],
        # without an answer: happened late, or never
        [Op(W, 0, 1, 1), Op(W, 2, version=2), Op(R, 3, 4, 1), Op(R, 5, 6, 2)],
        [Op(W, 0, 1, 1), Op(D, 2), Op(R, 9, 10, 1)],
        [Op(W, 0, 1, 1), Op(D, 2, 3), Op(R, 9, 10)],
        [Op(D, 0, 5, was_there=True), Op(W, 1, 4, 1), Op(R, 6, 7)],
    ],
)
def test_what_can_have_happened_is_accepted(history: list[Op]) -> None:
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [Op(R, 0, 1, 7)],  # never written
        [Op(W, 0, 1, 1), Op(R, 2, 3)],  # acknowledged and not seen
        [Op(W, 0, 1, 1), Op(D, 2, 3), Op(R, 4, 5, 1)],  # deleted and seen
        [Op(W, 0, 1, 1), Op(W, 2, 3, 2), Op(R, 4, 5, 1)],  # replaced and seen
        [Op(W, 0, 1, 1), Op(W, 2, 9, 2), Op(R, 3, 4, 2), Op(R, 5, 6, 1)],  # seen, then not
        [Op(W, 0, 1, 1), Op(D, 2, 3, was_there=False)],  # was there
        [Op(D, 0, 1, was_there=True)],  # was not
        [Op(W, 0, 5, 1), Op(W, 0, 5, 2), Op(R, 6, 7, 1), Op(R, 8, 9, 2)],  # both orders
        [Op(W, 0, 1, 1), Op(D, 2), Op(R, 3, 4), Op(R, 5, 6, 1)],  # came back
        [Op(W, 2, version=2), Op(R, 0, 1, 2)],  # seen before it was sent
        # one delete found it, and so did the other
        [Op(W, 0, 1, 1), Op(D, 2, 5, was_there=True), Op(D, 3, 4, was_there=True)],
    ],
)
def test_what_cannot_have_happened_is_refused(history: list[Op]) -> None:
    assert not is_linearizable(history)


def test_long_histories_are_judged_and_a_planted_fault_is_found() -> None:
    print(f"PROVE_SEED={SEED}")
    rng = random.Random(SEED)
    clock, state, history = 0.0, None, list[Op]()
    for version in range(1, 400):
        clock += 1
        if rng.random() < 0.5:
            state = version if rng.random() < 0.8 else None
            kind = W if state else D
            history.append(Op(kind, clock - rng.random() * 4, clock + rng.random() * 4, state))
        else:
            history.append(Op(R, clock - rng.random() * 4, clock + rng.random() * 4, state))
    assert is_linearizable(history)
    reads = [op for op in history if op.kind is R and op.version and op.invoked > 100]
    stale = Op(R, clock + 50, clock + 51, reads[0].version)
    assert not is_linearizable([*history, Op(W, clock + 10, clock + 11, 1000), stale])


# ------------------------------------------------------------------- in process


class InHouse:
    """The server's inside as a target."""

    def __init__(self, house: House) -> None:
        self._house = house
        config = CollectionConfig("h", model="none", dimension=DIM)
        house.library.create_collection(config, exist_ok=True)
        self._items = house.library.collection("h")

    def wait(self) -> None:
        """Always there."""

    def write(self, item_id: str, version: int, vector: Vector) -> None:
        item = NewItem(item_id, vector=vector, metadata={"version": float(version)})
        (result,) = self._house.put([item], "h")
        assert result.error is None, result

    def delete(self, item_id: str) -> bool:
        return self._items.delete([item_id], dry_run=False) == 1

    def get(self, item_id: str) -> int | None:
        try:
            return _version(self._items.get(item_id, View.BASIC).metadata)
        except ItemNotFound:
            return None

    def search(self, item_id: str, vector: Vector) -> int | None:
        answer = self._house.searcher.search(
            "h", VectorQuery(vector), SearchOptions(limit=3), deadline=None
        )
        found = {match.item.id: match.item for match in answer.matches}
        return _version(found[item_id].metadata) if item_id in found else None


def _version(metadata: object) -> int:
    assert isinstance(metadata, dict)
    return int(metadata["version"])


def test_an_item_that_changes_all_the_time_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder("changing-")
    with open_house(place) as house:
        target = InHouse(house)
        target.write("id-0", 1, direction("id-0", 1))
        collection, versions = house.library.collection("h"), itertools.count(2)
        search = Collection.search

        def beaten(*args: Any) -> Hits:
            hits = search(*args)
            if threading.current_thread().name != "store-writer":
                version = next(versions)  # before the hits can be fetched
                target.write("id-0", version, direction("id-0", version))
            return hits

        monkeypatch.setattr(Collection, "search", beaten)
        assert target.search("id-0", direction("id-0")) == next(versions) - 1
        assert collection.count(Filter()) == 1
    shutil.rmtree(place)


def in_house(histories: int, ops: int) -> None:
    place = folder("histories-")
    try:
        for i in range(histories):
            seed = SEED * 10_000 + i
            print(f"PROVE_SEED={SEED} history {i}")
            with open_house(place / str(i), delta_limit=50) as house:
                history = record(InHouse(house), ops, seed)
            assert len(history) == ops
            assert not (faults := history.faults()), "\n".join(faults)
            shutil.rmtree(place / str(i))
    finally:
        shutil.rmtree(place)


@pytest.mark.timeout(600)
def test_few_histories_are_linearizable() -> None:
    in_house(number("PROVE_SHORT_HISTORIES", 3), number("PROVE_SHORT_OPS", 800))


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_many_histories_are_linearizable() -> None:
    in_house(number("PROVE_HISTORIES", 500), number("PROVE_OPS", 2000))


# ------------------------------------------------- over gRPC, killed and cancelled


def killed_and_cancelled(histories: int, ops: int, kills: int) -> None:
    place = folder("killed-")
    unanswered = 0
    try:
        for i in range(histories):
            seed = SEED * 10_000 + i
            print(f"PROVE_SEED={SEED} history {i}")
            target = Killable(place / str(i), seed)
            try:
                with target.killed_now_and_then(kills, seed):
                    history = record(target, ops, seed)
            finally:
                target.stop()
            assert not (faults := history.faults()), "\n".join(faults)
            unanswered += history.unanswered
            shutil.rmtree(place / str(i))
    finally:
        shutil.rmtree(place)
    print(f"{histories} histories, {kills} kills each, {unanswered} writes without an answer")
    assert unanswered, "nothing was cut off: neither kills nor cancels did anything"


@pytest.mark.timeout(600)
def test_a_history_with_kills_and_cancels_is_linearizable() -> None:
    killed_and_cancelled(1, number("PROVE_SHORT_KILLED_OPS", 400), 1)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_histories_with_kills_and_cancels_are_linearizable() -> None:
    killed_and_cancelled(number("PROVE_KILLED_HISTORIES", 50), number("PROVE_KILLED_OPS", 2000), 3)
