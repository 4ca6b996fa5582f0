"""Mixed traffic of several clients until the server is gone. Each has ids of its own."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

from durability.contents import (
    DIM,
    GRAPH,
    KEPT,
    PICTURES,
    VECTORS,
    hash_of,
    new_item,
    vector,
)
from durability.journal import Journal, Key, Op
from durability.violation import Violation
from lookalike.client import Client, NewItem, WriteResult
from lookalike.client.errors import (
    Cancelled,
    CollectionNotFound,
    Internal,
    ItemExists,
    ItemNotFound,
    LookalikeError,
    NotFound,
    Overloaded,
    Unavailable,
)

T = TypeVar("T")
CALL_S = 60.0


class Gone(Exception):
    """The server does not answer any more."""


class Worker:
    """One client with ids of its own. Runs on a thread of its own until the server dies."""

    def __init__(self, traffic: Traffic, name: str, seed: str) -> None:
        self.traffic = traffic
        self.journal = traffic.journal
        self.client = traffic.connect()
        self.rng = random.Random(f"{seed}/{name}")
        self.name = name

    def ids(self, count: int) -> list[str]:
        return [f"{self.name}-{n}" for n in range(count)]

    def ask(self, call: Callable[[], T]) -> T:
        """Make a call; Gone if it fails because the server died, Violation if it lives."""
        try:
            return call()
        except (ItemExists, ItemNotFound, CollectionNotFound, Overloaded):
            raise
        except LookalikeError as error:
            self.traffic.refused(self.name, error)

    def op(self, kind: str, collection: str, content: bool = True) -> Op:
        """Return the next operation of a kind, with a content of its own."""
        number = self.journal.number()
        if not content:
            return Op(number, kind)
        return Op(number, kind, number, hash_of(collection, number))

    def pause(self, longest_s: float) -> None:
        if self.traffic.wait_over(self.rng.uniform(0.0, longest_s)):
            raise Gone

    def run(self) -> None:
        raise NotImplementedError


class Streamer(Worker):
    """Uploads over one stream: pictures or vectors, one version of each id at a time."""

    def __init__(
        self, traffic: Traffic, name: str, seed: str, collection: str, ids: int, pause_s: float
    ) -> None:
        super().__init__(traffic, name, seed)
        self.collection, self.count, self.pause_s = collection, ids, pause_s

    def run(self) -> None:
        while not self.traffic.over:
            self.ask(
                lambda: self.client.upload(
                    self.items(), collection=self.collection, on_result=self.told, patience_s=0.0
                )
            )

    def items(self) -> Iterator[NewItem]:
        """Give new versions until each id has one under way: then the stream ends."""
        while not self.traffic.over:
            keys = [(self.collection, item_id) for item_id in self.ids(self.count)]
            idle = [key for key in keys if not self.journal.under_way(key)]
            if not idle:
                return
            if self.rng.random() < 0.1:
                time.sleep(self.rng.uniform(0.0, self.pause_s))
            key = self.rng.choice(idle)
            op = self.op("upsert", self.collection)
            self.journal.sent({key: op})
            yield new_item(self.collection, key[1], op.content)

    def told(self, result: WriteResult) -> None:
        if result.error is not None:
            self.traffic.refused(f"{self.name} {result.id}", result.error)
            return
        self.journal.told({(self.collection, result.id): result.outcome.value})


class Batches(Worker):
    """Stores a few vectors at a time: replaces, leaves alone, or only if there is none."""

    def run(self) -> None:
        while True:
            kind = self.rng.choice(("upsert", "upsert", "skip", "create"))
            chosen = self.rng.sample(self.ids(80), self.rng.randint(1, 30))
            ops = {(VECTORS, i): self.op(kind, VECTORS) for i in chosen}
            self.journal.sent(ops)
            store(self, VECTORS, ops)
            self.pause(0.1)


class Editor(Worker):
    """Stores, changes metadata, deletes and searches, and believes what it is told."""

    def __init__(self, traffic: Traffic, name: str, seed: str, collection: str, ids: int) -> None:
        super().__init__(traffic, name, seed)
        self.collection, self.count = collection, ids

    def run(self) -> None:
        while True:
            key = (self.collection, self.rng.choice(self.ids(self.count)))
            [step] = self.rng.choices((self.put, self.patch, self.delete), (5, 3, 4))
            step(key)
            if self.collection == VECTORS:
                self.look(key)

    def put(self, key: Key) -> None:
        ops = {key: self.op(self.rng.choice(("upsert", "skip")), self.collection)}
        self.journal.sent(ops)
        store(self, self.collection, ops)

    def patch(self, key: Key) -> None:
        op = self.op("metadata", self.collection, content=False)
        self.journal.sent({key: op})
        patch = {"version": op.number}
        outcome = "updated"
        try:
            self.ask(lambda: self.client.update_metadata(key[1], patch, collection=key[0]))
        except ItemNotFound:
            outcome = "missing"
        self.journal.told({key: outcome})

    def delete(self, key: Key) -> None:
        self.journal.sent({key: Op(self.journal.number(), "delete")})
        count = self.ask(lambda: self.client.delete([key[1]], collection=key[0]))
        self.journal.told({key: "deleted" if count else "missing"})

    def look(self, key: Key) -> None:
        """Search for what was just stored or deleted: it is found, or it is not."""
        [state] = self.journal.possible(key)
        query = vector(state.content if state else self.rng.randrange(10**6))
        hits = self.ask(lambda: self.client.search(vector=query, k=3, collection=VECTORS))
        found = [hit.id for hit in hits]
        if state is not None and found[:1] != [key[1]]:
            raise Violation(
                "what is acknowledged is found", f"{key[1]} was stored; found were {found}"
            )
        if state is None and key[1] in found:
            raise Violation("what is deleted is not found", f"{key[1]} was deleted, and is found")


class Chores(Worker):
    """Makes and deletes collections, and has indexes rebuilt and pictures embedded anew."""

    def __init__(self, traffic: Traffic, name: str, seed: str, focus: str) -> None:
        super().__init__(traffic, name, seed)
        self.focus = focus

    def run(self) -> None:
        self.keep_some()
        while True:
            if self.focus.startswith(("library", "store.delete")):
                self.scratch()
            elif self.focus.startswith(("reembed", "jobs", "collection")):
                self.rebuild(reembed=self.focus.startswith("reembed"))
            elif self.focus.startswith("backup"):
                self.back_up()
            else:
                self.pause(1.0)
                self.rng.choice((self.scratch, self.rebuild))()
            self.pause(0.05)

    def back_up(self) -> None:
        with suppress(Overloaded):  # the last one is still being cleared away
            self.ask(lambda: self.client.backup(io.BytesIO()))

    def keep_some(self) -> None:
        ops = {(KEPT, i): self.op("upsert", KEPT) for i in self.rng.sample(self.ids(12), 4)}
        self.journal.sent(ops)
        store(self, KEPT, ops)

    def scratch(self) -> None:
        name = f"scratch-{self.journal.number()}"
        create(self, name)
        ops = {(name, i): self.op("upsert", VECTORS) for i in self.ids(5)}
        self.journal.sent(ops)
        store(self, name, ops)
        gone = {key: Op(self.journal.number(), "delete") for key in [(name, ""), *ops]}
        self.journal.sent(gone)
        self.ask(lambda: self.client.delete_collection(name))
        self.journal.told(dict.fromkeys(gone, "deleted"))

    def rebuild(self, *, reembed: bool = False) -> None:
        name = KEPT if reembed else self.rng.choice((VECTORS, PICTURES, KEPT))
        job = self.ask(lambda: self.client.rebuild_index(name, reembed=reembed))
        while not job.is_over:
            self.pause(0.02)
            job = self.ask(partial(self.client.job, job.id))
        if job.state != "succeeded" and not self.traffic.wait_over(2.0):
            raise Violation("a server that lives answers", f"rebuilding {name} ended as {job}")


def store(worker: Worker, collection: str, ops: dict[Key, Op]) -> None:
    """Send operations that store, and note the answers."""
    modes = {"upsert": "upsert", "skip": "skip_existing", "create": "create_only"}
    [kind] = {op.kind for op in ops.values()}
    like = collection if collection in (PICTURES, KEPT) else VECTORS
    items = [new_item(like, item_id, op.content) for (_, item_id), op in ops.items()]
    results = worker.ask(
        lambda: worker.client.upsert(items, collection=collection, mode=modes[kind])  # type: ignore[arg-type]
    )
    told: dict[Key, str] = {}
    for key, result in zip(ops, results, strict=True):
        if result.error is None:
            told[key] = result.outcome.value
        elif isinstance(result.error, ItemExists):
            told[key] = "exists"
        else:
            worker.traffic.refused(f"{worker.name} {key}", result.error)
    worker.journal.told(told)


def create(worker: Worker, name: str) -> None:
    """Make a collection for vectors; no matter if it is there."""
    key = (name, "")
    worker.journal.sent({key: Op(worker.journal.number(), "create")})
    make(worker.client, worker.ask, name)
    worker.journal.told({key: "created"})


def make(client: Client, ask: Callable[[Callable[[], object]], object], name: str) -> None:
    """Make one of the collections, by its name, if it is not there."""
    options: dict[str, Any] = {"model": "none", "dimension": DIM, "metric": "l2"}
    match name:
        case "pictures":
            options = {}
        case "kept":
            options = {"image_retention": "original"}
        case "vectors":
            options["index"] = GRAPH
    ask(lambda: client.create_collection(name, exist_ok=True, **options))


def _may_be_the_end(error: LookalikeError) -> bool:
    """Tell errors that a dying server causes from those that it gives as its answer."""
    if isinstance(error, Unavailable | Cancelled) or error.reason == "CLIENT_CLOSED":
        return True
    return isinstance(error, Internal) and error.message.startswith("The call failed at")


class Traffic:
    """All workers of one server's life. The owner starts it, and ends it after the kill."""

    def __init__(self, address: str, journal: Journal, seed: str, focus: str = "") -> None:
        self.journal = journal
        self._address = address
        self._over = threading.Event()
        self._clients: list[Client] = []
        self._violations: list[BaseException] = []
        self._workers: Sequence[Worker] = (
            Streamer(self, "p", seed, PICTURES, 40, 0.05),
            Streamer(self, "s", seed, VECTORS, 120, 0.02),
            Batches(self, "b", seed),
            Editor(self, "e", seed, VECTORS, 30),
            Editor(self, "f", seed, PICTURES, 10),
            Chores(self, "c", seed, focus),
        )
        self._threads = [
            threading.Thread(target=self._run, args=(worker,), name=f"traffic-{worker.name}")
            for worker in self._workers
        ]

    @property
    def over(self) -> bool:
        """Whether the server is gone."""
        return self._over.is_set()

    def connect(self) -> Client:
        client = Client(self._address, timeout_s=CALL_S)
        self._clients.append(client)
        return client

    def wait_over(self, timeout_s: float) -> bool:
        return self._over.wait(timeout_s)

    def refused(self, what: str, error: LookalikeError) -> NoReturn:
        """Raise Gone if that is because the server died, or Violation."""
        if _may_be_the_end(error) and self.wait_over(10.0):
            raise Gone from error
        raise Violation("a server that lives answers", f"{what}: {type(error).__name__}: {error}")

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def failed(self) -> bool:
        """Whether a worker has seen a violation."""
        return bool(self._violations)

    def end(self) -> None:
        """Say that the server is gone; raises the first violation that was seen."""
        self._over.set()
        for client in self._clients:
            client.close()
        for thread in self._threads:
            thread.join()
        if self._violations:
            raise self._violations[0]

    def _run(self, worker: Worker) -> None:
        try:
            worker.run()
        except Gone:
            pass
        except NotFound as error:
            self._violations.append(
                Violation("what is acknowledged is found", f"{worker.name}: {error}")
            )
        except BaseException as error:
            self._violations.append(error)
