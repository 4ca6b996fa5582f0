"""Opens harmed folders, asks for everything in them, and says what became of it.

Run as a program, with a sound folder as its argument, it reads which folder to open, a
line of JSON each, and answers with another: so a crash is seen as one, and a hang.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from durability.damage import COLLECTIONS
from house import House, open_house
from lookalike.backends.engine.base import NO_SNAPSHOT
from lookalike.backends.errors import DataLoss, FailedPrecondition
from lookalike.backends.types import Metric, SearchParams
from lookalike.server.domain import (
    Condition,
    Filter,
    Item,
    ItemQuery,
    SearchOptions,
    Test,
    VectorQuery,
    View,
)

CURES = re.compile(r"[Rr]estore|remove|[Dd]elete|choose another|--data")
"""A refusal says what to do next."""
QUERIES = 3
K = 10
SCORE = 1e-4
RECALL = 0.9


class Wrong(Exception):
    """An answer that is neither right nor refused."""


@dataclass
class Known:
    """What a sound collection holds."""

    items: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    groups: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    record: object = None
    metric: Metric = Metric.COSINE


Golden = dict[str, Known]


def told(item: Item) -> tuple[Any, ...]:
    assert item.vector is not None
    return (item.metadata, item.image, item.create_time, item.update_time, item.vector.tobytes())


def pictures_of(house: House, name: str, item_id: str) -> list[str]:
    found = []
    for original in (False, True):
        image = house.library.collection(name).image(item_id, original)
        found.append(image.media_type + hashlib.sha256(image.data).hexdigest())
    return found


def learn(folder: Path) -> Golden:
    """Read all that is in a sound folder."""
    golden: Golden = {}
    with open_house(folder, delta_limit=100_000) as house:
        for name in COLLECTIONS:
            collection = house.library.collection(name)
            known = golden[name] = Known(record=collection.record)
            known.metric = collection.record.config.metric
            for item in collection.list(Filter(), "", 10_000, View.FULL):
                known.items[item.id] = told(item)
                assert item.vector is not None
                known.vectors[item.id] = item.vector
                known.keys[item.key] = item.id
                known.groups[item.id] = float(str(item.metadata["group"]))
                if name == "pictures":
                    known.pictures[item.id] = pictures_of(house, name, item.id)
    return golden


def judge(folder: Path, golden: Golden, collections: set[str]) -> dict[str, Any]:
    """Open a harmed folder and compare it; some collections wholly; raises Wrong."""
    try:
        with open_house(folder, delta_limit=100_000) as house:
            return _compare(house, golden, collections)
    except (DataLoss, FailedPrecondition) as error:
        return {"outcome": "refused", "message": _refusal(error)}


def _refusal(error: DataLoss | FailedPrecondition) -> str:
    if not CURES.search(error.message):
        raise Wrong(f"a refusal without a cure: {error.message}")
    return error.message


def _compare(house: House, golden: Golden, wholly: set[str]) -> dict[str, Any]:
    house.store.jobs()
    names = [info.record.config.name for info in house.library.list_collections("", 100)]
    if names != sorted(golden):
        raise Wrong(f"the collections are {names}")
    lost = images = 0
    rebuilt: list[str] = []
    refused: list[str] = []
    for name, known in golden.items():
        try:
            engine = house.library.collection(name).engine
            collection = _Collection(house, name, known, wholly=name in wholly)
        except DataLoss as error:
            refused.append(_refusal(error))
            continue
        lost += len(collection.lost)
        images += collection.lost_images
        if (why := engine.stats().recovered) and why != NO_SNAPSHOT:
            rebuilt.append(f"{name}: {why}")
    if len(refused) == len(golden):
        return {"outcome": "refused", "message": refused[0]}
    outcome = "part" if lost or images or refused else "rebuilt" if rebuilt else "same"
    return {
        "outcome": outcome,
        "lost": lost,
        "images": images,
        "collections": len(refused),
        "why": rebuilt,
    }


class _Collection:
    """Everything that can be asked of one collection, compared with what it held."""

    def __init__(self, house: House, name: str, known: Known, *, wholly: bool) -> None:
        self.house = house
        self.name = name
        self.known = known
        self.collection = house.library.collection(name)
        self.lost: set[str] = set()
        self.lost_images = 0
        if self.collection.record != known.record:
            raise Wrong(f"the settings of {name} have changed")
        self._items()
        if not wholly:
            return
        self._lists()
        self._index()
        self._pictures()
        self._searches()
        # Reading may have found more of what is lost: then all of it once more.
        before = set(self.lost)
        self._items()
        if self.lost != before:
            self._lists()
            self._searches()

    def _items(self) -> None:
        listed = {item.id: item for item in self.collection.list(Filter(), "", 10_000, View.FULL)}
        for item_id, item in listed.items():
            if item_id not in self.known.items or told(item) != self.known.items[item_id]:
                raise Wrong(f"{item_id} is another item now")
        for item_id in sorted(self.known.items.keys() - listed.keys()):
            try:
                self.collection.get(item_id, View.FULL)
            except DataLoss as error:
                if item_id not in error.message:
                    raise Wrong(f"{item_id} is refused without its name: {error}") from None
                _refusal(error)
                self.lost.add(item_id)
            else:
                raise Wrong(f"{item_id} is there, but not in the list")

    def _lists(self) -> None:
        left = self.known.items.keys() - self.lost
        for view in View:
            listed = [item.id for item in self.collection.list(Filter(), "", 10_000, view)]
            if listed != sorted(left):
                raise Wrong(f"{self.name} lists {len(listed)} of {len(left)} items")
        info = self.collection.info()
        if info.item_count != len(left):
            raise Wrong(f"{self.name} counts {info.item_count} of {len(left)} items")
        if bool(info.damaged_count) != bool(self.lost):
            raise Wrong(f"{self.name} has lost {self.lost} and tells of {info.damaged_count}")
        groups = [self.known.groups[item_id] for item_id in left]
        for group in range(5):
            if self.collection.count(_group(group)) != groups.count(group):
                raise Wrong(f"{self.name} filters wrongly")
        values, count = self.collection.count_values(Filter(), "group", 10)
        if dict(values) != {g: groups.count(g) for g in set(groups)} or count != len(left):
            raise Wrong(f"{self.name} counts values wrongly: {values}")

    def _index(self) -> None:
        """Compare what is searched to the last bit: few bits change what a query finds."""
        holding = self.collection.engine.holding()
        assert holding is not None
        held = {self.known.keys.get(key, "") for key in holding.keys().tolist()}
        if not self.known.items.keys() - self.lost <= held <= self.known.items.keys():
            raise Wrong(f"the index of {self.name} holds other items")
        for keys, vectors in holding.blocks(1000):
            for key, vector in zip(keys.tolist(), vectors, strict=True):
                if vector.tobytes() != self.known.vectors[self.known.keys[key]].tobytes():
                    raise Wrong(f"the index holds another vector of {self.known.keys[key]}")

    def _pictures(self) -> None:
        for item_id, expected in self.known.pictures.items():
            if item_id in self.lost:
                continue
            try:
                found = pictures_of(self.house, self.name, item_id)
            except DataLoss as error:
                _refusal(error)
                self.lost_images += 1
                continue
            if found != expected:
                raise Wrong(f"{item_id} has another picture now")

    def _searches(self) -> None:
        left = sorted(self.known.items.keys() - self.lost)
        matrix = np.stack([self.known.vectors[item_id] for item_id in left])
        rng = np.random.default_rng(5)
        chosen = rng.choice(len(left), min(QUERIES, len(left)), replace=False)
        # The vectors that were lost are asked for, too.
        asked = [self.known.vectors[item_id] for item_id in sorted(self.lost)[:QUERIES]]
        asked += [matrix[i] for i in chosen]
        for where, rows in ((Filter(), None), (_group(2), 2)):
            keep = [i for i, x in enumerate(left) if rows is None or self.known.groups[x] == rows]
            for vector in asked:
                self._search(VectorQuery(vector), vector, [left[i] for i in keep], where)
        for i in chosen[:1]:
            others = [item_id for item_id in left if item_id != left[i]]
            self._search(ItemQuery(left[i]), matrix[i], others, Filter())

    def _search(self, query: Any, vector: np.ndarray, ids: list[str], where: Filter) -> None:
        scores = _scores(np.stack([self.known.vectors[x] for x in ids]), vector, self.known.metric)
        best = sorted(scores, reverse=True)[:K]
        by_id = dict(zip(ids, scores.tolist(), strict=True))
        for exact in (True, False):
            params = SearchParams(exact=exact)
            options = SearchOptions(limit=K, filter=where, params=params)
            answer = self.house.searcher.search(self.name, query, options, deadline=None)
            found = [(match.item.id, match.score) for match in answer.matches]
            if len(found) != len(best) or len({x for x, _ in found}) != len(found):
                raise Wrong(f"{self.name} finds {len(found)} of {len(best)}")
            for item_id, score in found:
                if item_id not in by_id or abs(by_id[item_id] - score) > SCORE:
                    raise Wrong(f"{self.name} finds {item_id} with {score}")
            right = sum(by_id[x] >= best[-1] - SCORE for x, _ in found)
            if right < (len(best) if exact else RECALL * len(best)):
                raise Wrong(f"{self.name} finds {right} of the {len(best)} nearest, {exact=}")


def _group(number: int) -> Filter:
    return Filter(all=(Condition("group", Test.EQ, float(number)),))


def _scores(matrix: np.ndarray, vector: np.ndarray, metric: Metric) -> np.ndarray:
    wide, query = matrix.astype(np.float64), vector.astype(np.float64)
    if metric is Metric.L2:
        return np.asarray(-((wide - query) ** 2).sum(axis=1))
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(query)
    return np.asarray(wide @ query / norms)


def guarded(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Make an answer of everything that may happen but a crash."""
    try:
        return run()
    except Wrong as wrong:
        return {"outcome": "wrong", "message": str(wrong)}
    except BaseException as error:
        return {"outcome": "error", "message": f"{type(error).__name__}: {error}"}


def main() -> None:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "golden"
        shutil.copytree(sys.argv[1], sound)
        golden = learn(sound)
    print(json.dumps({"items": sum(len(known.items) for known in golden.values())}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        look = partial(judge, Path(asked["folder"]), golden, set(asked["collections"]))
        first = guarded(look)
        if asked["again"] and first["outcome"] in ("same", "rebuilt", "part"):
            # What was built anew has to be there at the next start, and right.
            second = guarded(look)
            if second["outcome"] in ("wrong", "error", "refused"):
                first = {**second, "message": f"at the second start: {second['message']}"}
        print(json.dumps(first), flush=True)


if __name__ == "__main__":
    main()
