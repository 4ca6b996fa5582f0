"""A store and its engines, driven by a seed, with a record of what was promised when."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import numpy as np

from durability.powercut_disk import DiskLog
from durability.powercut_files import RecordedFiles
from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.engine.base import EngineConfig
from lookalike.backends.files import Files
from lookalike.backends.types import Changes, HnswParams, IndexSpec, Metric, normalize
from lookalike.server.domain import (
    CollectionConfig,
    CollectionRecord,
    Job,
    JobState,
    Vector,
    WriteMode,
)
from lookalike.server.library import StoreTruth
from lookalike.server.store import Store, Transaction
from store.making import item, new_digest

DIM = 8
IDS = [f"item-{n:02}" for n in range(24)]
EXACT = IndexSpec("exact")
GRAPH = IndexSpec("faiss", HnswParams(m=16, ef_construction=128, ef_search=256))

State = Mapping[tuple[str, ...], tuple[object, ...]]
"""What is stored: ("item", collection, id) -> vector, metadata, digest of the original;
("collection", name) -> nothing; ("job", id) -> state."""
Op = Callable[[Transaction], object]


class StillEngine(LocalEngine):
    """An engine without a thread of its own, which lets others in between what it does."""

    between: Callable[[], None] = staticmethod(lambda: None)

    def _run(self) -> None:
        """Leave the building to whoever calls `build`."""

    def _background(self, phase: str, done: int, total: int) -> None:
        super()._background(phase, done, total)
        self.between()

    def build(self) -> None:
        """Do what the builder does when it finds work."""
        if self._work_waits():
            self._build_waiting()


def engine_config(
    store: Store, record: CollectionRecord, files: Files | None = None, limit: int = 8
) -> EngineConfig:
    """Return what the library opens an engine with."""
    assert record.config.index is not None
    return EngineConfig(
        owner=f"{store.uuid}/{record.number}/{record.space}",
        directory=store.directory / "indexes" / str(record.number),
        dim=DIM,
        metric=Metric.COSINE,
        index=record.config.index,
        options={"delta_limit": limit},
        files=files or Files(),
    )


class Scene:
    """One life of a server: opens, works, is cut off. The main thread only.

    `state` is what is stored at first, `states` what is after each commit that was
    begun. Marks in the log say "begin N", "ack N" for the state N, and "snapshot
    COLLECTION SEQ" for a snapshot that was reported as durable.
    """

    def __init__(
        self, log: DiskLog, files: RecordedFiles, vfs: str, seed: str, state: State, clock: Clock
    ) -> None:
        self.log = log
        self.states: list[State] = [state]
        self._files = files
        self._vfs = vfs
        self._clock = clock
        self._rng = random.Random(seed)
        self._numpy = np.random.default_rng(self._rng.getrandbits(64))
        self._inside = False
        self._engines: dict[int, StillEngine] = {}
        self._names: dict[int, str] = {}
        self.prepare: Callable[[Store], None] = lambda store: None
        self._store: Store

    # ---------------------------------------------------------------- opening

    def open(self) -> None:
        self._store = Store.open(
            self.log.root / "data", clock=self._clock, vfs=self._vfs, files=self._files
        )
        self.prepare(self._store)
        self._store.listener = self._deliver
        for record in self._store.collections():
            self._open_engine(record)
        self.log.before = self._before

    def close(self) -> None:
        """Close everything as a server does that is asked to stop."""
        self.log.before = lambda what: None
        for engine in self._engines.values():
            if self._rng.random() < 0.5:
                self._snapshot(engine)
            engine.close()
        self._engines.clear()
        self._store.close()

    def _open_engine(self, record: CollectionRecord) -> None:
        limit = self._rng.choice([4, 8, 16])
        engine = StillEngine.open(
            engine_config(self._store, record, self._files, limit),
            StoreTruth(self._store, record.number),
        )
        engine.between = self._between
        self._engines[record.number] = engine
        self._names[record.number] = record.config.name

    def _deliver(self, seq: int, changes: Mapping[int, Changes]) -> None:
        for number, change in changes.items():
            if (engine := self._engines.get(number)) is not None:
                engine.apply(change)

    # ---------------------------------------------------------------- working

    def work(self, steps: int) -> None:
        """Do so many things, the seed says which."""
        kinds = [self._commit] * 12 + [self._build] * 5 + [self._save] * 3
        kinds += [self._rebuild, self._reopen, self._create, self._drop]
        for _ in range(steps):
            self._rng.choice(kinds if self._engines else [self._create])()

    def _before(self, what: str) -> None:
        if threading.current_thread() is threading.main_thread() and self._rng.random() < 0.1:
            self._between()

    def _between(self) -> None:
        """Commit something in the middle of what the main thread does."""
        if self._engines and not self._inside and self._rng.random() < 0.3:
            self._inside = True
            self._commit()
            self._inside = False

    def _build(self) -> None:
        self._rng.choice(list(self._engines.values())).build()

    def _save(self) -> None:
        self._snapshot(self._rng.choice(list(self._engines.values())))

    def _snapshot(self, engine: StillEngine) -> None:
        number = next(n for n, other in self._engines.items() if other is engine)
        self.log.mark(f"snapshot {number} {engine.snapshot()}")

    def _rebuild(self) -> None:
        engine = self._rng.choice(list(self._engines.values()))
        engine.rebuild(engine._spec, lambda phase, done, total: self._between())

    def _reopen(self) -> None:
        self.close()
        self.open()

    def _create(self) -> None:
        name = f"c{self._rng.randrange(10**9)}"
        if len(self._engines) >= 2:
            return
        index = self._rng.choice([EXACT, EXACT, GRAPH])
        config = CollectionConfig(name, dimension=DIM, metric=Metric.COSINE, index=index)
        made: list[CollectionRecord] = []
        state = {**self.states[-1], ("collection", name): ()}
        self._run([lambda t: made.append(t.create_collection(config, "space"))], state)
        self._open_engine(made[0])

    def _drop(self) -> None:
        name, number = self._some_collection()
        state = {k: v for k, v in self.states[-1].items() if k[1] != name or k[0] == "job"}
        self._run([lambda t: t.delete_collection(number)], state)
        engine = self._engines.pop(number)
        engine.close()
        self._files.remove_tree(self.log.root / "data" / "indexes" / str(number))

    def _some_collection(self) -> tuple[str, int]:
        number = self._rng.choice(sorted(self._engines))
        return self._names[number], number

    # ---------------------------------------------------------------- commits

    def _commit(self) -> None:
        """Commit a group of operations as one."""
        state = dict(self.states[-1])
        kinds = [self._put] * 5 + [self._delete, self._change, self._job]
        ops = [self._rng.choice(kinds)(state) for _ in range(self._rng.choice([1, 1, 1, 2, 4]))]
        self._run(ops, state)

    def _put(self, state: dict[tuple[str, ...], tuple[object, ...]]) -> Op:
        name, number = self._some_collection()
        items = []
        for item_id in self._rng.sample(IDS, self._rng.choice([1, 2, 6])):
            metadata: dict[str, object] = {"n": str(self._rng.random())}
            size = self._rng.choice([0, 0, 0, 3000, 30000])
            original = self._rng.randbytes(size) if size else None
            made = item(item_id, self._vector(), metadata, original=original)
            items.append(made)
            state["item", name, item_id] = entry(made.vector, metadata, original)
        return lambda t: t.put(number, items, WriteMode.UPSERT)

    def _delete(self, state: dict[tuple[str, ...], tuple[object, ...]]) -> Op:
        name, number = self._some_collection()
        ids = self._rng.sample(IDS, self._rng.choice([1, 3, 12]))
        for item_id in ids:
            state.pop(("item", name, item_id), None)
        return lambda t: t.delete(number, ids)

    def _change(self, state: dict[tuple[str, ...], tuple[object, ...]]) -> Op:
        name, number = self._some_collection()
        here = sorted(key[2] for key in state if key[:2] == ("item", name))
        if not here:
            return self._put(state)
        item_id = self._rng.choice(here)
        metadata: dict[str, object] = {"changed": str(self._rng.random())}
        vector, _, original = state["item", name, item_id]
        state["item", name, item_id] = (vector, json.dumps(metadata), original)
        return lambda t: t.update_metadata(number, item_id, metadata, new_digest, True)

    def _job(self, state: dict[tuple[str, ...], tuple[object, ...]]) -> Op:
        job = Job(
            f"job-{self._rng.randrange(4)}",
            "test",
            "c",
            self._rng.choice(list(JobState)),
            create_time=self._clock(),
        )
        state["job", job.id] = (job.state.value,)
        return lambda t: t.save_job(job)

    def _vector(self) -> Vector:
        made: Vector = normalize(self._numpy.standard_normal((1, DIM), dtype=np.float32))[0]
        return made

    def _run(self, ops: list[Op], state: State) -> None:
        """Have all operations run in one commit, and wait until nothing more is done."""
        self.states.append(state)
        number = len(self.states) - 1
        self.log.mark(f"begin {number}")
        gate = threading.Event()
        futures: list[Future[object]] = [self._store.write(lambda t: gate.wait(60))]
        futures += [self._store.write(op) for op in ops]

        def acknowledged(future: Future[object]) -> None:  # on the writer's thread
            if future.exception() is None:
                self.log.mark(f"ack {number}")

        futures[0].add_done_callback(acknowledged)
        gate.set()
        for future in futures:
            future.result(60)
        self._store.write(lambda t: None).result(60)  # what follows a commit is over, too


class Clock:
    """A clock that goes on by a second each time it is read."""

    def __init__(self) -> None:
        self._now = 1.7e9
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            self._now += 1.0
            return self._now


def entry(
    vector: Vector, metadata: Mapping[str, object], original: bytes | None
) -> tuple[object, ...]:
    """Return what a state says of an item."""
    digest = hashlib.sha256(original).hexdigest() if original else ""
    return vector.tobytes(), json.dumps(metadata), digest
