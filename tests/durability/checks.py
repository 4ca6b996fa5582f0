"""What must hold once a server is back, each promise under the name of its check."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from durability.contents import KEPT, PICTURES, metadata, seen
from durability.journal import THERE, History, Journal, Key, State, sorted_states
from durability.violation import Violation
from lookalike.client import Client, Item, Query, SearchResult
from lookalike.client.errors import LookalikeError
from made_pictures import encoded

EVERYTHING = 1000
"""The most hits of one search: more than any collection here holds."""
_SAME = 0.999
_ALIKE = 0.99
"""Cosine of a stored vector to that of its file's pixels as PNG, upright: at least 0.999 is
measured; 0.94 at most if it lies on its side or stands on its head."""
_LOOKED_AT = 6
"""Pictures of a collection that are embedded anew at each check."""
T = TypeVar("T")


def compare(client: Client, journal: Journal, rng: random.Random) -> int:
    """Compare what is there with what may be; return how many items there are.

    Raises Violation. What is there is noted in the journal: from now on it is the truth.
    """
    seen: dict[Key, State | None] = {}
    existing = {info.name for info in asked(client.collections)}
    for name in sorted(journal.collections() | existing):
        histories = journal.items(name)
        own = histories.pop("", History())
        there = name in existing
        if (THERE if there else None) not in {s and THERE for s in own.allowed()}:
            word = "exists" if there else "is gone"
            raise Violation("collections are as was told", f"{name} {word}: {own}")
        seen[name, ""] = THERE if there else None
        items = _stored(client, name) if there else {}
        states = {i: _state(name, item, histories.get(i)) for i, item in items.items()}
        _compare(name, histories, states)
        seen.update({(name, i): states.get(i) for i in histories})
        if items:
            _compare_index(client, name, items)
        if name in (PICTURES, KEPT):
            _compare_pictures(client, name, items, rng)
    journal.settle(seen)
    return sum(state is not None for key, state in seen.items() if key[1])


def asked(call: Callable[[], T]) -> T:
    """Make a call that must work."""
    try:
        return call()
    except LookalikeError as error:
        text = f"after a start: {type(error).__name__}: {error}"
        raise Violation("a server that lives answers", text) from error


# ------------------------------------------------------------------ the store


def _stored(client: Client, name: str) -> dict[str, Item]:
    items = asked(lambda: list(client.list(collection=name, view="full")))
    found = {item.id: item for item in items}
    if len(found) < len(items) or len(items) != asked(lambda: client.count(collection=name)):
        raise Violation("every id is there once", f"{name}: {len(items)} items, {len(found)} ids")
    return found


def _state(name: str, item: Item, history: History | None) -> State:
    """Return which version an item is; it is one of those that were sent, and whole."""
    if history is None:
        raise Violation("nothing is invented", f"{name}: {item.id} was never sent")
    try:
        state = State(int(item.metadata["content"]), int(item.metadata["version"]))
    except (KeyError, ValueError) as error:
        raise Violation("an item is one whole version", f"{name}: {item}") from error
    assert item.vector is not None
    sha256 = item.image.sha256 if item.image else hashlib.sha256(item.vector.tobytes()).hexdigest()
    if item.metadata != metadata(*state) or history.hashes.get(state.content) != sha256:
        raise Violation(
            "an item is one whole version",
            f"{name}: {item.id} says {item.metadata}, but its content is another",
        )
    return state


def _compare(
    name: str, histories: Mapping[str, History], states: Mapping[str, State | None]
) -> None:
    for item_id, history in histories.items():
        state, allowed = states.get(item_id), history.allowed()
        if state in allowed:
            continue
        if state is None:
            check = "what was acknowledged is kept"
        elif allowed == {None}:
            check = "what was deleted stays deleted"
        else:
            check = "the last acknowledged version is there, or a later one"
        raise Violation(check, f"{name}: {item_id} is {state}; may be {sorted_states(allowed)}")


# ------------------------------------------------------------------ the index


def _compare_index(client: Client, name: str, items: Mapping[str, Item]) -> None:
    """Let every item find itself, and one search find everything."""
    assert len(items) < EVERYTHING
    ids = list(items)
    queries = [Query(vector=items[i].vector, k=3, view="id") for i in ids]
    queries.append(Query(vector=items[ids[0]].vector, k=EVERYTHING, view="id"))
    *answers, everything = asked(lambda: client.search_batch(queries, collection=name))
    found = [hit.id for hit in _result(name, everything)]
    if len(set(found)) < len(found):
        raise Violation("a search names each item once", f"{name}: {_twice(found)}")
    if set(found) != set(ids):
        raise Violation(
            "the index holds what the store holds",
            f"{name}: lacks {sorted(set(ids) - set(found))[:5]}, "
            f"has {sorted(set(found) - set(ids))[:5]} too many",
        )
    for item_id, answer in zip(ids, answers, strict=True):
        hits = _result(name, answer)
        if hits[0].id != item_id or hits[0].score < _least(name):
            shown = [(hit.id, hit.score) for hit in hits]
            raise Violation("every item finds itself", f"{name}: {item_id} finds {shown}")


def _result(name: str, answer: SearchResult | LookalikeError) -> SearchResult:
    if isinstance(answer, LookalikeError):
        raise Violation("a server that lives answers", f"searching {name}: {answer}")
    return answer


def _least(name: str) -> float:
    return _SAME if name in (PICTURES, KEPT) else -1e-3  # cosine, or minus a distance


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})[:5]


# ----------------------------------------------------------------- the pictures


def _compare_pictures(
    client: Client, name: str, items: Mapping[str, Item], rng: random.Random
) -> None:
    """Embed some pictures anew, as people see them, and look at what is kept of them."""
    some = rng.sample(sorted(items), min(_LOOKED_AT, len(items)))
    if not some:
        return
    contents = [int(items[i].metadata["content"]) for i in some]
    files = [encoded(seen(content), "PNG") for content in contents]
    vectors = asked(lambda: client.embed(images=files)).vectors
    for item_id, content, expected in zip(some, contents, vectors, strict=True):
        vector = items[item_id].vector
        if (likeness := float(np.dot(vector, expected))) < _ALIKE:  # type: ignore[arg-type]
            raise Violation(
                "a picture's vector is that of the upright picture",
                f"{name}: {item_id}, content {content}: {likeness:.3f}",
            )
        kept = asked(partial(client.image, item_id, original=name == KEPT, collection=name))
        info = items[item_id].image
        if not kept.data or (
            name == KEPT and info and hashlib.sha256(kept.data).hexdigest() != info.sha256
        ):
            raise Violation("an item is one whole version", f"{name}: the picture of {item_id}")
