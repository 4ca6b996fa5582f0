"""Random walks of a server beside the oracle: the rules, whatever the server is behind."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lookalike.backends.types import Metric
from model.drawing import (
    CROWDS,
    DIM,
    PICTURES,
    lists,
    metadata,
    modes,
    names,
    patches,
    point,
    somebody,
    specs,
)
from model.drivers import DAMAGE, EXACT, FILTERS, Asked, Driver, Refused
from model.oracle import RECALL, Metadata, Model, Put, Vector


class Walk(RuleBasedStateMachine):
    """Subclasses say what `driver` is. Prints its steps when it fails."""

    seen: ClassVar[Counter[str]] = Counter()
    """How often each step was taken, over all walks: a rule that never runs proves nothing."""
    most_starts: ClassVar[int] = 6
    """Restarts and crashes of one walk."""

    def __init__(self) -> None:
        super().__init__()
        self.driver: Driver
        self.models: dict[str, Model] = {}
        self.embedded: dict[int, Vector] = {}
        self.crowds = 0
        self.starts = 0

    def open_driver(self) -> Driver:
        raise NotImplementedError

    def close_driver(self) -> None:
        self.driver.close()

    @initialize(
        metric=st.sampled_from(list(Metric)), spec=specs, some=lists, salt=st.integers(0, 99),
        count=st.sampled_from([0, 30, 90, 300]), built=st.booleans(),
    )  # fmt: skip
    def begin(
        self, metric: Metric, spec: str, some: list[Any], salt: int, count: int, built: bool
    ) -> None:
        """Make a collection that is not empty, half of them with an index."""
        self.driver = self.open_driver()
        self.driver.create("a", metric, DIM, spec)
        self.models["a"] = Model(metric, DIM, model=False, exact=spec in EXACT)
        self.put("a", "upsert", some)
        if count:
            self.many("a", count, salt)
        if built:
            self.driver.rebuild("a", spec)

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        try:
            for name in self.models:
                self.everything(name)
        finally:
            self.close_driver()

    # ------------------------------------------------------------ collections

    @rule(name=st.sampled_from(["a", "b"]), metric=st.sampled_from(list(Metric)), spec=specs)
    def create(self, name: str, metric: Metric, spec: str) -> None:
        self.seen["create"] += 1
        if name in self.models:
            self.refused("COLLECTION_EXISTS", self.driver.create, name, metric, DIM, spec)
            return
        self.driver.create(name, metric, DIM, spec)
        self.models[name] = Model(metric, DIM, model=False, exact=spec in EXACT)

    @rule(name=names, sure=st.integers(0, 3))
    def drop(self, name: str, sure: int) -> None:
        if name not in self.models:
            self.refused("COLLECTION_NOT_FOUND", self.driver.drop, name)
        elif sure == 0:
            self.seen["drop"] += 1
            assert self.driver.drop(name) == len(self.models.pop(name).items)

    # ------------------------------------------------------------------ writes

    @rule(name=names, mode=modes, wanted=lists)
    def put(self, name: str, mode: str, wanted: list[tuple[Any, ...]]) -> None:
        self.seen["put"] += 1
        puts = [Put(i, self.fitting(name, v), p, m) for i, v, p, m in wanted]
        puts = [p for p in puts if p.vector is not None or p.picture is not None]
        if not puts:
            return
        if name not in self.models:
            if name:
                self.refused("COLLECTION_NOT_FOUND", self.driver.put, name, puts, mode)
                return
            self.models[""] = Model(Metric.COSINE, len(self.vector_of(0)), model=True)
        model = self.models[name]
        for p in puts:
            if p.vector is None and p.picture is not None and model.model:
                self.vector_of(p.picture)
        outcomes = self.driver.put(name, puts, mode)
        model.calls += 1
        right = [model.put(p, mode, self.embedded) for p in puts]
        assert outcomes == right, f"{outcomes} should be {right}"
        there = [model.items[p.id].vector for p in puts if p.id in model.items]
        self.compare(name, [Asked(4, vector=vector) for vector in there[:3]])

    # Rules are chosen with equal chances: what matters most is there more than once.

    @rule(name=names, mode=modes, wanted=lists)
    def put_more(self, name: str, mode: str, wanted: list[tuple[Any, ...]]) -> None:
        self.put(name, mode, wanted)

    @rule(name=names, wanted=lists)
    def put_anew(self, name: str, wanted: list[tuple[Any, ...]]) -> None:
        self.put(name, "upsert", wanted)

    @rule(name=names, who=somebody, mode=modes, other=st.one_of(st.none(), metadata))
    def put_again(self, name: str, who: int | str, mode: str, other: Metadata | None) -> None:
        """Send an item that is there once more, half of the time with other metadata."""
        model = self.models.get(name)
        item_id = self.named(name, who)
        if model is None or (old := model.items.get(item_id)) is None:
            return
        self.seen["put_again"] += 1
        meta = old.metadata if other is None else other
        again = Put(item_id, old.sent, old.picture, meta)
        right = model.put(again, mode, self.embedded)
        outcomes = self.driver.put(name, [again], mode)
        assert outcomes == [right], f"{outcomes} should be {right}"
        self.compare(name, [Asked(5, vector=old.vector)])

    @rule(name=st.sampled_from(["a", "b"]), count=st.sampled_from(CROWDS), salt=st.integers(0, 99))
    @precondition(lambda self: self.crowds < 3)
    def crowd(self, name: str, count: int, salt: int) -> None:
        if name not in self.models:
            return
        self.seen["crowd"] += 1
        self.many(name, count, salt)

    def many(self, name: str, count: int, salt: int) -> None:
        self.crowds += 1
        rng = np.random.default_rng(salt)
        rows = rng.standard_normal((count, DIM)).astype(np.float32)
        puts = [
            Put(f"crowd-{self.crowds}-{i}", row, None, {"n": float(i % 5)})
            for i, row in enumerate(rows)
        ]
        model = self.models[name]
        for start in range(0, count, 250):
            part = puts[start : start + 250]
            model.calls += 1
            right = [model.put(p, "upsert", {}) for p in part]
            assert self.driver.put(name, part, "upsert") == right

    @rule(name=names, who=somebody, new=metadata, patch=patches, replaced=st.booleans())
    def update(
        self, name: str, who: int | str, new: Metadata, patch: Metadata, replaced: bool
    ) -> None:
        self.seen["update"] += 1
        item_id = self.named(name, who)
        change = new if replaced else patch
        if name not in self.models:
            self.refused(
                "COLLECTION_NOT_FOUND", self.driver.update, name, item_id, change, replaced
            )
            return
        found = self.driver.update(name, item_id, change, replaced)
        assert found == self.models[name].update(item_id, change, replaced)

    @rule(name=names, whom=st.lists(somebody, min_size=1, max_size=5), sure=st.integers(0, 3))
    def delete(self, name: str, whom: list[int | str], sure: int) -> None:
        self.seen["delete"] += 1
        dry_run = sure == 0
        some = [self.named(name, who) for who in whom]
        if name not in self.models:
            self.refused("COLLECTION_NOT_FOUND", self.driver.delete, name, some, dry_run)
            return
        model = self.models[name]
        there = len({i for i in some if i in model.items})
        assert self.driver.delete(name, some, dry_run) == there
        if not dry_run:
            gone = [model.items[i].vector for i in some if i in model.items]
            model.delete(some)
            self.compare(name, [Asked(3, vector=vector) for vector in gone])

    @rule(name=names, where=st.integers(1, len(FILTERS) - 1), sure=st.integers(0, 2))
    def delete_where(self, name: str, where: int, sure: int) -> None:
        if name not in self.models:
            return
        self.seen["delete_where"] += 1
        model = self.models[name]
        gone = model.selected(FILTERS[where][0])
        assert self.driver.delete_where(name, where, sure > 0) == len(gone)
        if sure == 0:
            model.delete(gone)

    # ------------------------------------------------------------------- reads

    @rule(name=names, who=somebody)
    def get(self, name: str, who: int | str) -> None:
        self.seen["get"] += 1
        item_id = self.named(name, who)
        if name not in self.models:
            self.refused("COLLECTION_NOT_FOUND", self.driver.get, name, item_id)
            return
        got, right = self.driver.get(name, item_id), self.models[name].items.get(item_id)
        assert (got is None) == (right is None), f"{got} should be {right}"
        if got is not None and right is not None:
            assert (got.metadata, got.has_picture) == (right.metadata, right.picture is not None)
            assert got.vector is not None
            assert np.allclose(got.vector, right.vector, atol=1e-6)

    @rule(name=names, where=st.integers(0, len(FILTERS) - 1))
    def listed(self, name: str, where: int) -> None:
        if name not in self.models:
            return
        self.seen["listed"] += 1
        right = self.models[name].selected(FILTERS[where][0])
        assert [got.id for got in self.driver.listed(name, where)] == right
        assert self.driver.count(name, where) == len(right)

    @rule(
        name=names,
        number=st.integers(0, 60),
        who=st.one_of(st.none(), somebody),
        k=st.sampled_from([1, 3, 10, 40, 1000]),
        where=st.integers(0, len(FILTERS) - 1),
        exact=st.booleans(),
        least=st.one_of(st.none(), st.none(), st.sampled_from([-1.0, 0.3, 0.9])),
    )
    def search(
        self,
        name: str,
        number: int,
        who: int | str | None,
        k: int,
        where: int,
        exact: bool,
        least: float | None,
    ) -> None:
        self.seen["search"] += 1
        if name not in self.models:
            asked = Asked(k, vector=point(number))
            self.refused("COLLECTION_NOT_FOUND", self.driver.search, name, [asked])
            return
        if who is not None:
            asked = Asked(k, like=self.named(name, who), where=where, exact=exact, min_score=least)
        elif self.models[name].model and number % 2:
            asked = Asked(k, picture=number % (PICTURES + 2), where=where, exact=exact)
        else:
            vector = self.fitting(name, point(number))
            asked = Asked(k, vector=vector, where=where, exact=exact, min_score=least)
        self.compare(name, [asked])

    @rule(name=names, number=st.integers(0, 60), k=st.sampled_from([1, 5, 1000]))
    def search_more(self, name: str, number: int, k: int) -> None:
        self.search(name, number, None, k, 0, False, None)

    @rule(name=names, salt=st.integers(0, 99), where=st.integers(0, len(FILTERS) - 1))
    def search_many(self, name: str, salt: int, where: int) -> None:
        if name in self.models:
            self.seen["search_many"] += 1
            vectors = [self.fitting(name, point(100 + 20 * salt + i)) for i in range(20)]
            self.compare(name, [Asked(10, vector=v, where=where) for v in vectors])

    # ------------------------------------------------------- what goes on below

    @rule(name=names, spec=specs)
    def rebuild(self, name: str, spec: str) -> None:
        if name not in self.models:
            self.refused("COLLECTION_NOT_FOUND", self.driver.rebuild, name, spec)
            return
        self.seen[f"rebuild {spec}"] += 1
        self.driver.rebuild(name, spec)
        self.models[name].exact = spec in EXACT

    @rule(name=names, sure=st.integers(0, 2))
    def settle(self, name: str, sure: int) -> None:
        if name in self.models and sure == 0:
            self.seen["settle"] += 1
            self.driver.settle(name)

    @rule(name=names)
    def snapshot(self, name: str) -> None:
        if name in self.models:
            self.seen["snapshot"] += 1
            self.driver.snapshot(name)

    @rule()
    @precondition(lambda self: self.starts < self.most_starts)
    def restart(self) -> None:
        self.starts += 1
        self.seen["restart"] += 1
        self.driver.restart()

    @rule(kind=st.sampled_from(DAMAGE), salt=st.integers(0, 10**6))
    @precondition(lambda self: self.starts < self.most_starts)
    def crash(self, kind: str, salt: int) -> None:
        self.starts += 1
        self.seen[f"crash, {kind}"] += 1
        self.driver.crash(kind, salt)

    @invariant()
    def counts_agree(self) -> None:
        for name, model in self.models.items():
            assert self.driver.count(name, 0) == len(model.items), name

    # ------------------------------------------------------------------ insides

    def refused(self, reason: str, call: Any, *args: Any) -> None:
        with pytest.raises(Refused, match=f"^{reason}$"):
            call(*args)

    def named(self, name: str, who: int | str) -> str:
        if isinstance(who, str):
            return who
        there = list(self.models[name].items) if name in self.models else []
        return there[who % len(there)] if there else "nobody"

    def vector_of(self, picture: int) -> Vector:
        if picture not in self.embedded:
            self.embedded[picture] = self.driver.embed(picture)
        return self.embedded[picture]

    def fitting(self, name: str, vector: Vector | None) -> Vector | None:
        """Return a vector as long as those of the collection, if it was of the usual length."""
        if name or vector is None or len(vector) != DIM:
            return vector
        dim = len(self.vector_of(0))
        return np.resize(vector, dim).astype(np.float32)

    def compare(self, name: str, asked: list[Asked]) -> None:
        """Search, and compare each answer with the oracle's."""
        model = self.models[name]
        found = there = 0
        among = {a.where: model.among(FILTERS[a.where][0]) for a in asked}
        for a, shown in zip(asked, self.driver.search(name, asked), strict=True):
            query = a.vector
            if a.like:
                assert (shown is None) == (a.like not in model.items)
                if shown is None:
                    continue
                query = model.items[a.like].vector
            elif a.picture is not None:
                query = self.vector_of(a.picture)
            assert shown is not None
            assert query is not None
            answer, is_exact = shown
            must = is_exact or model.exact or a.exact
            assert is_exact or not must, "an answer that must be exact says that it is not"
            more = among[a.where].check(
                answer, query, a.k, left_out=a.like, min_score=a.min_score, exact=must
            )
            found, there = found + more[0], there + more[1]
        if there:
            self.seen["hits"] += there
            self.seen["hits missed"] += there - found
            note(f"{found} of {there}")
        assert found >= RECALL * there - 1, f"{found} of {there} hits"

    def everything(self, name: str) -> None:
        """Compare all that is stored, and let every item find itself."""
        model = self.models[name]
        stored = {got.id: got for got in self.driver.listed(name, 0)}
        assert list(stored) == model.selected(FILTERS[0][0])
        for item_id, right in model.items.items():
            assert stored[item_id].metadata == right.metadata
        self.driver.settle(name)
        rows = list(model.items.values())[:60]
        self.compare(name, [Asked(3, vector=right.vector) for right in rows])
