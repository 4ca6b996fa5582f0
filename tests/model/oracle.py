"""What a server should answer: dicts, and comparing with everything in float64.

Nothing here is shared with the product but the words of its domain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import Metric
from lookalike.server.domain import Filter, Item
from store.oracle import passes

Vector: TypeAlias = NDArray[np.float32]
Metadata: TypeAlias = dict[str, Any]

TOLERANCE = 1e-5
RECALL = 0.95


@dataclass(frozen=True)
class Put:
    """An item as a test sends it; `picture` is a number in the test's album."""

    id: str
    vector: Vector | None = None
    picture: int | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """An item as it should be stored."""

    vector: Vector
    metadata: Metadata
    picture: int | None
    content: tuple[int | None, bytes | None]
    """Picture and brought vector: equal content and metadata make the very same item."""
    age: int
    """Rises with each call that changes the vector; decides which of equals are shown."""
    sent: Vector | None
    """The vector as it was brought, before it was made to have length 1."""


@dataclass
class Model:
    """One collection as it should be."""

    metric: Metric
    dim: int
    model: bool
    """True if pictures become vectors."""
    exact: bool = True
    """False while its index may leave something out."""
    items: dict[str, Stored] = field(default_factory=dict)
    calls: int = 0

    def put(self, put: Put, mode: str, embedded: Mapping[int, Vector]) -> str:
        """Store one item; return its outcome, or the reason why it cannot be."""
        if put.vector is not None and len(put.vector) != self.dim:
            return "DIMENSION_MISMATCH"
        if put.vector is not None and self.metric is Metric.COSINE and not put.vector.any():
            return "VECTOR_ZERO"
        vector = None if put.vector is None else self.unit(put.vector)
        old = self.items.get(put.id)
        content = (put.picture, None if vector is None else vector.tobytes())
        if old is not None and mode == "skip_existing":
            return "skipped"
        if old is not None and (old.content, _text(old.metadata)) == (content, _text(put.metadata)):
            return "unchanged"
        if old is not None and mode == "create_only":
            return "ITEM_EXISTS"
        if vector is None:
            if not self.model:
                return "FAILED_PRECONDITION"
            assert put.picture is not None
            vector = self.unit(embedded[put.picture])
        same = old is not None and np.array_equal(old.vector, vector)
        age = old.age if old is not None and same else self.calls
        self.items[put.id] = Stored(vector, put.metadata, put.picture, content, age, put.vector)
        return "created" if old is None else "updated"

    def update(self, item_id: str, metadata: Metadata, replaced: bool) -> Metadata | None:
        """Change an item's metadata; return what it is then, None if there is no item."""
        if (old := self.items.get(item_id)) is None:
            return None
        new = metadata if replaced else merged(old.metadata, metadata)
        self.items[item_id] = replace(old, metadata=new)
        return new

    def selected(self, where: Filter) -> list[str]:
        """Return the ids of the items that pass, in byte order."""
        found = [
            i for i, s in self.items.items() if not where or passes(Item(0, i, s.metadata), where)
        ]
        return sorted(found, key=str.encode)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete items; return how many were there."""
        return sum(self.items.pop(i, None) is not None for i in set(ids))

    def unit(self, vector: Vector) -> Vector:
        """Return a vector as the collection keeps it."""
        if self.metric is not Metric.COSINE:
            return np.asarray(vector, np.float32)
        wide = vector.astype(np.float64)
        unit: Vector = (wide / np.linalg.norm(wide)).astype(np.float32)
        return unit

    def among(self, where: Filter) -> Among:
        """Return the items that pass, to compare answers with."""
        ids = self.selected(where)
        rows = [self.items[i].vector for i in ids]
        return Among(self, ids, np.stack(rows).astype(np.float64) if rows else None)


@dataclass
class Among:
    """The items that one filter lets through."""

    model: Model
    ids: list[str]
    rows: NDArray[np.float64] | None

    def scores(self, query: Vector) -> dict[str, float]:
        """Return what each of the items scores, in float64."""
        if self.rows is None:
            return {}
        wide, metric = query.astype(np.float64), self.model.metric
        values = self.rows @ wide
        if metric is Metric.L2:
            values = -((self.rows - wide) ** 2).sum(axis=1)
        elif metric is Metric.COSINE:
            values /= np.linalg.norm(wide)
        return dict(zip(self.ids, values.tolist(), strict=True))

    def check(
        self,
        answer: Sequence[tuple[str, float]],
        query: Vector,
        k: int,
        *,
        left_out: str = "",
        min_score: float | None = None,
        exact: bool = True,
    ) -> tuple[int, int]:
        """Compare an answer with the right one; return (hits found, hits there are).

        Whatever the index: no id twice, none that is gone or fails the filter, the
        scores right, best first and equal ones by id, as many as there can be. With
        `exact` the best ones, and of equals at the end those that came first.
        """
        right = self.scores(query)
        right.pop(left_out, None)
        ids = [i for i, _ in answer]
        strange = [i for i in ids if i not in right]
        assert not strange, f"shown, but gone, filtered out or never there: {strange}"
        assert len(set(ids)) == len(ids), f"an id twice: {ids}"
        for item_id, score in answer:
            assert _near(score, right[item_id]), f"{item_id}: score {score}, not {right[item_id]}"
        order = [(-score, i.encode()) for i, score in answer]
        assert order == sorted(order), f"not best first, equals by id: {answer}"
        if min_score is not None:
            assert all(score >= min_score for _, score in answer), answer
            right = {i: s for i, s in right.items() if s >= min_score + _slack(min_score)}
        width = min(k, len(right))
        if min_score is None:
            assert len(answer) == width, f"{len(answer)} hits, not {width}"
        last = sorted(right.values(), reverse=True)[width - 1] if width else 0.0
        slack = _slack(last)
        if exact:
            missed = [i for i, s in right.items() if s > last + slack and i not in ids]
            assert not missed, f"not shown: {missed} of {answer}"
            self._check_equals(ids, right)
        good = sum(right.get(i, -np.inf) >= last - slack for i in ids)
        return min(good, width), width

    def _check_equals(self, ids: Sequence[str], right: Mapping[str, float]) -> None:
        """Of items with the same vector, those that came later are left away first."""
        shown: dict[bytes, int] = {}
        for item_id in ids:
            item = self.model.items[item_id]
            key = item.vector.tobytes()
            shown[key] = max(shown.get(key, 0), item.age)
        for item_id in right:
            item = self.model.items[item_id]
            if item_id not in ids and item.age < shown.get(item.vector.tobytes(), 0):
                raise AssertionError(f"{item_id} is older than its equals that are shown")


def merged(target: Metadata, patch: Metadata) -> Metadata:
    """Return RFC 7396's merge patch of one level of objects inside another."""
    new = dict(target)
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        elif isinstance(value, dict):
            inner = new.get(name)
            new[name] = merged(inner if isinstance(inner, dict) else {}, value)
        else:
            new[name] = value
    return new


def _text(metadata: Metadata) -> str:
    return json.dumps(metadata, sort_keys=True)


def _slack(score: float) -> float:
    return TOLERANCE * max(1.0, abs(score))


def _near(score: float, right: float) -> bool:
    return abs(score - right) <= _slack(right)
