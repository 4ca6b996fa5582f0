"""Bugs that the checks must find: few lines each, put into a server process by `launch`.

Each is one that a real system had or nearly had. A check that never saw the bug that it
is for proves nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np

from lookalike.backends.engine import _local, _part, _recover, _snapshot
from lookalike.backends.engine._part import Part
from lookalike.backends.engine._view import Delta, View
from lookalike.backends.errors import LookalikeError
from lookalike.backends.types import Hits
from lookalike.server import library
from lookalike.server.embed_queue import EmbedQueue
from lookalike.server.images import _decode
from lookalike.server.store import _put, _transaction, _writer
from lookalike.server.work_pool import WorkPool


@dataclass(frozen=True)
class Plant:
    """A bug, and how it is found."""

    what: str
    plant: Callable[[], None]
    found_by: Sequence[str]
    """The checks of which one sees it: which of them is first is a matter of luck."""
    crash: str = ""
    """The crash point that helps; "" for random moments."""


def acknowledge_before_commit() -> None:
    run_one, resolve = _writer.Writer._run_one, _writer._Operation.resolve

    def run_and_answer(self: Any, operation: Any, transaction: Any) -> None:
        run_one(self, operation, transaction)
        resolve(operation)

    def resolve_once(self: Any) -> None:
        if not self.future.done():
            resolve(self)

    _writer.Writer._run_one = run_and_answer  # type: ignore[method-assign]
    _writer._Operation.resolve = resolve_once  # type: ignore[method-assign]


def mark_before_commit() -> None:
    take = _writer.Writer._take

    def take_and_mark(self: Any, transaction: Any) -> Any:
        yield from take(self, transaction)
        self._mark.write(self.seq + 1)

    _writer.Writer._take = take_and_mark  # type: ignore[method-assign]


def answer_before_engines() -> None:
    apply = library.Library._apply
    waiting: SimpleQueue[tuple[Any, ...]] = SimpleQueue()

    def work() -> None:
        while True:
            threading.Event().wait(0.05)
            apply(*waiting.get())

    def apply_later(self: Any, seq: Any, changes: Any) -> None:
        waiting.put((self, seq, changes))

    threading.Thread(target=work, daemon=True).start()
    library.Library._apply = apply_later  # type: ignore[method-assign]


def lose_deletes() -> None:
    erase = _put.erase

    def forget_some(db: Any, keys: Any) -> None:
        if some := [key for key in keys if key % 3]:
            erase(db, some)

    _transaction.erase = forget_some  # type: ignore[attr-defined]


def apply_twice() -> None:
    run = _writer._Operation.run

    def run_twice(self: Any, transaction: Any) -> None:
        run(self, transaction)
        with suppress(LookalikeError):
            run(self, transaction)

    _writer._Operation.run = run_twice  # type: ignore[method-assign]


def lose_metadata() -> None:
    update = _transaction.Transaction.update_metadata

    def update_and_undo(self: Any, *args: Any) -> Any:
        item = update(self, *args)
        self._db.execute("ROLLBACK TO operation")
        return item

    cls: Any = _transaction.Transaction
    cls.update_metadata = update_and_undo


def keep_old_vectors() -> None:
    standing = _put.Plan._standing

    def keep(self: Any, old: Any, digest: bytes, vector: bytes) -> Any:
        return standing(self, old, digest, old.vector if old and old.vector else vector)

    _put.Plan._standing = keep  # type: ignore[method-assign]


def trust_the_snapshot() -> None:
    def level(segments: Any, truth: Any, seq: int, dim: int, limit: int) -> View:
        delta = Delta.empty(dim, limit)
        if not segments:
            keys = truth.keys()
            delta = Delta.empty(dim, max(len(keys), limit)).append(keys, truth.vectors(keys))
        return View.of([Part(segment, None) for segment in segments], delta, seq, limit)

    _local.reconcile = level  # type: ignore[attr-defined]


def swap_ids() -> None:
    read_rows = _snapshot.Disk.read_rows

    def swapped(self: Any, record: Any, dim: int) -> Any:
        keys, vectors = read_rows(self, record, dim)
        return keys, vectors[::-1]

    _snapshot.Disk.read_rows = swapped  # type: ignore[method-assign]


def accept_any_seq() -> None:
    check = _recover._check

    def lenient(manifest: Any, config: Any, seq: int) -> None:
        check(manifest, config, max(seq, manifest.seq))

    _recover._check = lenient


def pad_instead_of_clamp() -> None:
    search = Part.search

    def padded(self: Any, queries: Any, k: int, metric: Any, allowed: Any, params: Any) -> Any:
        index = self.segment.index
        if index is None or allowed is not None or not self.count:
            return search(self, queries, k, metric, allowed, params)
        hits = index.search(queries, k, live=self.live, params=params)
        return Hits(self.segment.keys[hits.ids], hits.scores, hits.exact), k

    _part.Part.search = padded  # type: ignore[method-assign]


def check_nothing() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("lookalike.server.store"):
            for checksum in ("vector_crc", "row_crc"):
                if hasattr(module, checksum):
                    setattr(module, checksum, lambda *_: 0)


def ignore_orientation() -> None:
    _decode._turned = lambda pixels, orientation: np.ascontiguousarray(pixels)


def take_everything() -> None:
    put, submit = EmbedQueue._put, WorkPool.submit

    def unbounded(self: Any, lane: Any, waiting: Any, *, bounded: bool) -> None:
        put(self, lane, waiting, bounded=False)

    def submit_as_bulk(
        self: Any, call: Any, *, deadline: Any = None, bulk: bool = False, size: int = 0
    ) -> Any:
        return submit(self, call, deadline=deadline, bulk=True, size=size)

    EmbedQueue._put = unbounded  # type: ignore[method-assign]
    WorkPool.submit = submit_as_bulk  # type: ignore[method-assign]


LOST = (
    "what was acknowledged is kept",
    "the last acknowledged version is there, or a later one",
    "answers fit the history",
)
NOT_LEVEL = ("the index holds what the store holds", "every item finds itself")
UNFOUND = ("what is acknowledged is found", "what is deleted is not found")

PLANTS: dict[str, Plant] = {
    "acknowledge-before-commit": Plant(
        "the answer goes out before the commit",
        acknowledge_before_commit,
        (*LOST, *UNFOUND, "collections are as was told", "what was deleted stays deleted"),
        "store.commit.before",
    ),
    "mark-before-commit": Plant(
        "the mark names a commit that is not durable",
        mark_before_commit,
        ("a server starts again",),
        "store.commit.before",
    ),
    "answer-before-engines": Plant(
        "the answer goes out before searches see the write", answer_before_engines, UNFOUND
    ),
    "lost-delete": Plant(
        "some deletes are answered and not done",
        lose_deletes,
        ("what was deleted stays deleted", "answers fit the history", "nothing is invented"),
    ),
    "applied-twice": Plant(
        "an operation is run twice",
        apply_twice,
        ("answers fit the history",),
    ),
    "lost-metadata": Plant(
        "a change of metadata is answered and not done",
        lose_metadata,
        ("the last acknowledged version is there, or a later one",),
    ),
    "torn-upsert": Plant(
        "an item gets new metadata and keeps its old vector",
        keep_old_vectors,
        (
            "an item is one whole version",
            "what is acknowledged is found",
            "a picture's vector is that of the upright picture",
        ),
    ),
    "stale-snapshot": Plant(
        "a snapshot is taken for the present, what came after it is not looked for",
        trust_the_snapshot,
        NOT_LEVEL,
        "engine.sweep.removed",
    ),
    "swapped-ids": Plant(
        "a segment is read with its vectors in another order than its ids",
        swap_ids,
        ("every item finds itself",),
        "engine.sweep.removed",
    ),
    "unclamped-k": Plant(
        "a search for more than there is names items again",
        pad_instead_of_clamp,
        ("a search names each item once", "the index holds what the store holds"),
    ),
    "ignored-orientation": Plant(
        "a picture that lies on its side is embedded as it lies",
        ignore_orientation,
        ("a picture's vector is that of the upright picture",),
    ),
    "unchecked-rows": Plant(
        "what is read is not compared with its checksum",
        check_nothing,
        ("damage is never answered",),
    ),
    "snapshot-of-any-seq": Plant(
        "a snapshot that is ahead of the store is used",
        accept_any_seq,
        ("a newer index beside an older store is not used",),
    ),
    "unbounded-queue": Plant(
        "the queues before the model take whatever comes",
        take_everything,
        ("what waits for the model is bounded",),
    ),
}
"""The bugs that a process shows; those that only a power cut shows are in `powercut`."""
