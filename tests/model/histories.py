"""Records what threads do to a few ids at the same time, and checks it id by id."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from model.linear import Kind, Op, is_linearizable
from model.oracle import Vector

IDS = [f"id-{i}" for i in range(20)]
DIM = len(IDS) + 4


class Unanswered(Exception):
    """No answer came: what was asked for may have happened or not."""


class Target(Protocol):
    """What is tried; raises Unanswered. Any thread."""

    def wait(self) -> None: ...
    def write(self, item_id: str, version: int, vector: Vector) -> None: ...
    def delete(self, item_id: str) -> bool | None: ...
    def get(self, item_id: str) -> int | None: ...
    def search(self, item_id: str, vector: Vector) -> int | None: ...


def direction(item_id: str, version: int = 0) -> Vector:
    """Return a vector nearest to which lie all versions of this id; no two are equal."""
    vector = np.zeros(DIM, np.float32)
    vector[IDS.index(item_id)] = 1.0
    if version:
        vector[len(IDS) :] = np.random.default_rng(version).uniform(-0.1, 0.1, 4)
    return vector


@dataclass
class History:
    """Gets and searches are kept apart: each must agree with the writes."""

    writes: dict[str, list[Op]] = field(default_factory=lambda: defaultdict(list))
    gets: dict[str, list[Op]] = field(default_factory=lambda: defaultdict(list))
    searches: dict[str, list[Op]] = field(default_factory=lambda: defaultdict(list))

    def __len__(self) -> int:
        kinds = (self.writes, self.gets, self.searches)
        return sum(len(ops) for kind in kinds for ops in kind.values())

    @property
    def unanswered(self) -> int:
        return sum(not op.is_known for ops in self.writes.values() for op in ops)

    def faults(self) -> list[str]:
        """Return what cannot have happened one after the other."""
        found = []
        for name, reads in (("gets", self.gets), ("searches", self.searches)):
            for item_id in IDS:
                ops = [*self.writes[item_id], *reads[item_id]]
                if not is_linearizable(ops):
                    lines = "\n".join(map(str, sorted(ops, key=lambda op: op.invoked)))
                    found.append(f"{item_id}, writes and {name}:\n{lines}")
        return found


def record(target: Target, count: int, seed: int, threads: int = 8) -> History:
    """Have threads do `count` operations at random."""
    history, lock = History(), threading.Lock()
    versions, turns = itertools.count(1), iter(range(count))
    errors: list[BaseException] = []

    def one(rng: random.Random) -> None:
        item_id = rng.choice(IDS)
        what = rng.random()
        if what < 0.35:
            version = next(versions)
            vector = direction(item_id, version)
            _timed(lock, history.writes[item_id], Kind.WRITE, version,
                   lambda: target.write(item_id, version, vector))  # fmt: skip
        elif what < 0.5:
            _timed(lock, history.writes[item_id], Kind.DELETE, None,
                   lambda: target.delete(item_id))  # fmt: skip
        elif what < 0.7:
            _timed(lock, history.gets[item_id], Kind.READ, None,
                   lambda: target.get(item_id))  # fmt: skip
        else:
            near = direction(item_id)
            _timed(lock, history.searches[item_id], Kind.READ, None,
                   lambda: target.search(item_id, near))  # fmt: skip

    def work(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        try:
            while True:
                with lock:
                    if next(turns, None) is None or errors:
                        return
                target.wait()
                one(rng)
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return history


def _timed(
    lock: threading.Lock,
    ops: list[Op],
    kind: Kind,
    version: int | None,
    call: Callable[[], int | bool | None],
) -> None:
    began = time.perf_counter()
    try:
        said = call()
    except Unanswered:
        if kind is not Kind.READ:
            with lock:
                ops.append(Op(kind, began, version=version))
        return
    ended = time.perf_counter()
    match kind:
        case Kind.WRITE:
            op = Op(kind, began, ended, version)
        case Kind.DELETE:
            op = Op(kind, began, ended, was_there=None if said is None else bool(said))
        case Kind.READ:
            op = Op(kind, began, ended, said)
    with lock:
        ops.append(op)
