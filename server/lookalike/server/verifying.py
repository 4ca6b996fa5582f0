"""What is stored compared with its checksums, and indexes with what is stored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from lookalike.backends.engine.base import NO_SNAPSHOT, Holding
from lookalike.backends.errors import CollectionLoading, LookalikeError, Overloaded
from lookalike.backends.types import Keys, Metric, Vectors
from lookalike.server.collection import Collection
from lookalike.server.domain import View
from lookalike.server.library import Library
from lookalike.server.store import Store

BEST: Final = 10
"""An item that is searched for by its own vector has to be among so many."""
REACHED: Final = 0.999
"""This share of them has to be; graphs are not exact."""
_ITEMS: Final = 64
"""Items read at a time, with their pictures."""
_VECTORS_BYTES: Final = 4 * 2**20
_QUERIES: Final = 32
_TOLD_S: Final = 1.0
_REST_S: Final = 0.05
"""After each step, as long as it took but at most so long is left to others."""
_SHOWN: Final = 5
_RESTORE: Final = "Stop the server, check the disk and restore a backup: lookalike restore"


class Severity(IntEnum):
    """How bad a finding is."""

    REPAIRABLE = 1
    """Nothing is lost: it can be built anew."""
    LOST = 2
    """Something that was acknowledged cannot be read."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is."""

    collection: str
    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, with what to do next."""

    severity: Severity
    check: str
    collection: str
    item_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a check."""

    seq: int
    collections: int
    items: int
    probed: int
    reached: int
    findings: int


Event = Progress | Finding | Summary


class Verifier:
    """Checks a store and the indexes derived from it, while both are in use. Any thread."""

    def __init__(self, library: Library, store: Store, *, alone: bool = False) -> None:
        """Make one; `alone` if the library was opened for the check and serves nobody."""
        self._library = library
        self._store = store
        self._alone = alone
        self._running = threading.Lock()

    def verify(
        self, collection: str, probe_count: int, check: Callable[[], None] = lambda: None
    ) -> Generator[Event, None, None]:
        """Yield progress, findings and a summary; `collection` "" means all.

        `probe_count` items of each collection are searched for by their own vectors, -1
        all. `check` is called after each piece of work, and ends it by what it raises.
        Raises CollectionNotFound, CollectionLoading, Overloaded (one at a time).
        """
        if not self._running.acquire(blocking=False):
            raise Overloaded("A check is running already; one at a time.", retry_after_s=30.0)
        run = _Check(self._library, self._store, self._alone, check)
        try:
            if not self._library.ready:
                raise CollectionLoading(
                    "The collections are being opened; try again.", retry_after_s=1.0
                )
            yield from run.run(collection, probe_count)
        finally:
            self._running.release()
        yield run.summary()  # when another one may begin


class _Check:
    """One run of a verification. One thread."""

    def __init__(
        self, library: Library, store: Store, alone: bool, check: Callable[[], None]
    ) -> None:
        self._check = check
        self._library = library
        self._store = store
        self._alone = alone
        self._seq = self._collections = 0
        self._items = self._probed = self._reached = self._findings = 0
        self._told = 0.0
        self._began = time.monotonic()

    def run(self, name: str, probe_count: int) -> Iterator[Event]:
        self._seq = self._store.seq()
        if name:
            collections = [self._library.collection(name)]
        else:
            infos = self._library.list_collections("", 1 << 30)
            collections = [self._library.collection(i.record.config.name) for i in infos]
        self._collections = len(collections)
        for event in self._all(collections, probe_count):
            self._findings += isinstance(event, Finding)
            yield event

    def summary(self) -> Summary:
        return Summary(
            self._seq,
            self._collections,
            self._items,
            self._probed,
            self._reached,
            self._findings,
        )

    def _all(self, collections: Sequence[Collection], probe_count: int) -> Iterator[Event]:
        yield from self._database()
        for collection in collections:
            yield from self._of_items(collection)
            yield from self._index(collection, probe_count)

    def _step(self, collection: str, phase: str, done: int, total: int) -> Iterator[Progress]:
        """Leave the machine to others for a moment; tell how far it is now and then."""
        self._check()
        now = time.monotonic()
        if not self._alone:
            time.sleep(min(now - self._began, _REST_S))
        if now - self._told >= _TOLD_S:
            self._told = now
            yield Progress(collection, phase, done, total)
        self._began = time.monotonic()

    # ------------------------------------------------------------- the store

    def _database(self) -> Iterator[Event]:
        steps = 0
        for fault in self._store.check_database():
            if fault is None:
                steps += 1
                yield from self._step("", "database", steps, 0)
            else:
                yield Finding(Severity.LOST, "database", "", "", f"{fault}. {_RESTORE}")

    def _of_items(self, collection: Collection) -> Iterator[Event]:
        number, name = collection.number, collection.name
        total = len(self._store.keys(number))
        named = self._store.damaged.named(number)
        seen: set[int] = set()
        after = -1
        while keys := self._store.rows(number, after, _ITEMS):
            after = keys[-1]
            self._items += len(keys)
            for fault in self._store.check_items(number, keys):
                seen.add(fault.key)
                for item_id in sorted(named.get(fault.key, {fault.item_id})):
                    yield _lost(fault.what, name, item_id, fault.message)
            yield from self._step(name, "items", self._items, total)
        for key in sorted(named.keys() - seen):
            for item_id in sorted(named[key]):
                if self._still_lost(collection, item_id):
                    yield _lost("item", name, item_id, "its row is gone or damaged")

    def _still_lost(self, collection: Collection, item_id: str) -> bool:
        return bool(self._store.damaged.keys_named(collection.number, (item_id,)))

    # ------------------------------------------------------------- the index

    def _index(self, collection: Collection, probe_count: int) -> Iterator[Event]:
        name = collection.name
        try:
            engine = collection.engine
        except LookalikeError:
            yield Finding(
                Severity.REPAIRABLE,
                "index_keys",
                name,
                "",
                "The collection could not be opened; the server's log says why.",
            )
            return
        recovered = engine.stats().recovered
        if self._alone and recovered and recovered != NO_SNAPSHOT:
            text = f"The index could not be used ({recovered}). It is built anew; nothing to do."
            yield Finding(Severity.REPAIRABLE, "index_files", name, "", text)
        if (holding := engine.holding()) is not None:
            yield from self._files(collection, holding)
            yield from self._keys(collection)
            yield from self._vectors(collection, holding)
        yield from self._probe(collection, probe_count)

    def _files(self, collection: Collection, holding: Holding) -> Iterator[Event]:
        for fault in holding.faults():
            yield _rotten("index_files", collection, f"Of the index: {fault}.")
        yield from self._step(collection.name, "index files", 0, 0)

    def _keys(self, collection: Collection) -> Iterator[Event]:
        """Compare sets of keys; what commits changed meanwhile is looked at again."""
        number = collection.number
        stored = self._store.keys(number)
        self._settle()
        held = self._held(collection)
        missing = np.intersect1d(np.setdiff1d(stored, held), self._store.keys(number))
        extra = np.setdiff1d(held, self._store.keys(number))
        if len(extra):
            self._settle()
            extra = np.intersect1d(extra, self._held(collection))
        for key in extra.tolist()[:_SHOWN]:
            yield _rotten(
                "index_keys", collection, f"The index holds the key {key}, which no item has."
            )
        for item in self._store.fetch(missing.tolist(), View.ID, number).values():
            yield _rotten("index_keys", collection, "The index does not hold it.", item.id)

    def _settle(self) -> None:
        """Wait until what was committed so far has reached the engines."""
        with suppress(LookalikeError):  # a store that takes no more writes has settled
            self._store.write(lambda _: None).result()

    def _held(self, collection: Collection) -> Keys:
        holding = collection.engine.holding()
        return holding.keys() if holding is not None else self._store.keys(collection.number)

    def _vectors(self, collection: Collection, holding: Holding) -> Iterator[Event]:
        rows = max(1, _VECTORS_BYTES // (4 * max(1, collection.record.config.dimension)))
        done, total = 0, len(holding.keys())
        for keys, vectors in holding.blocks(rows):
            done += len(keys)
            there, stored = self._stored(collection, keys)
            mine = vectors[np.isin(keys, there)]
            differ = (
                np.ones(len(there), np.bool_)
                if mine.shape != stored.shape
                else (mine != stored).any(axis=1)
            )
            wrong = self._store.fetch(there[differ].tolist(), View.ID, collection.number)
            for item in wrong.values():
                text = "The index holds another vector than the store."
                yield _rotten("index_vectors", collection, text, item.id)
            yield from self._step(collection.name, "index", done, total)

    def _stored(self, collection: Collection, keys: Keys) -> tuple[Keys, Vectors]:
        """Return the vectors of those keys that are there and whose vectors are sound."""
        order = np.sort(keys)
        try:
            return keys, self._store.vectors(collection.number, keys)
        except (KeyError, LookalikeError):
            pass
        there, found = [], []
        for key in order[np.isin(order, self._store.keys(collection.number))].tolist():
            try:
                found.append(self._store.vectors(collection.number, np.array([key]))[0])
                there.append(key)
            except (KeyError, LookalikeError):
                continue  # gone meanwhile, or told of already
        dim = collection.record.config.dimension
        kept = np.isin(keys, there)
        by_key = dict(zip(there, found, strict=True))
        rows = [by_key[key] for key in keys[kept].tolist()]
        return keys[kept], np.array(rows, np.float32).reshape(len(rows), -1 if rows else dim)

    # ---------------------------------------------------------- reachability

    def _probe(self, collection: Collection, count: int) -> Iterator[Event]:
        keys = self._store.keys(collection.number)
        if 0 <= count < len(keys):
            keys = keys[np.linspace(0, len(keys) - 1, count).astype(np.int64)]
        probed, missed = 0, list[int]()
        for start in range(0, len(keys), _QUERIES):
            there, vectors = self._stored(collection, keys[start : start + _QUERIES])
            if len(there):
                hits = collection.engine.search(vectors, BEST)
                own = _own_scores(vectors, collection.record.config.metric)
                for row, key in enumerate(there.tolist()):
                    ids, scores = hits.ids[row], hits.scores[row]
                    # Others that are just as like it may take all places.
                    margin = 1e-5 * max(1.0, abs(float(own[row])))
                    full = len(ids) == BEST and bool((scores >= own[row] - margin).all())
                    if key not in ids.tolist() and not full:
                        missed.append(key)
            probed += len(there)
            yield from self._step(collection.name, "searching for items", probed, len(keys))
        left = self._store.fetch(missed, View.ID, collection.number)  # without what went meanwhile
        self._probed += probed
        self._reached += probed - len(left)
        if len(left) > (1 - REACHED) * probed:
            shown = ", ".join(repr(item.id) for item in list(left.values())[:_SHOWN])
            yield Finding(
                Severity.REPAIRABLE,
                "reachability",
                collection.name,
                "",
                f"{len(left)} of {probed} items are not among their own {BEST} best hits, such as "
                f"{shown}. Build the index anew: lookalike rebuild {collection.name}",
            )


def _own_scores(vectors: Vectors, metric: Metric) -> Vectors:
    """Return what each vector scores with itself."""
    if metric is Metric.DOT:
        return np.asarray(np.vecdot(vectors, vectors), np.float32)
    return np.full(len(vectors), 1.0 if metric is Metric.COSINE else 0.0, np.float32)


def _lost(check: str, collection: str, item_id: str, what: str) -> Finding:
    cure = "Store it again, or delete it."
    if not item_id:
        cure = _RESTORE
    text = f"Of the item, {what}. {cure}"
    return Finding(Severity.LOST, check, collection, item_id, text)


def _rotten(check: str, collection: Collection, what: str, item_id: str = "") -> Finding:
    text = (
        f"{what} Stop the server, remove indexes/{collection.number} from the data folder and "
        "start it again: the index is built anew from the store."
    )
    return Finding(Severity.REPAIRABLE, check, collection.name, item_id, text)
