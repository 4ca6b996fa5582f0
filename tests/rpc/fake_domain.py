"""A domain that fits in one file: dictionaries behind the interfaces that the calls need."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from lookalike.backends.engine.base import EngineStats
from lookalike.backends.errors import (
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    ImageNotRetained,
    ImageUndecodable,
    ItemExists,
    ItemNotFound,
    JobNotFound,
    LookalikeError,
    ModelNotFound,
)
from lookalike.backends.recall import Estimate, Recall
from lookalike.backends.types import IndexSpec
from lookalike.server.agreement import Agreement, RegionMatch
from lookalike.server.calibration import Calibration
from lookalike.server.domain import (
    Answer,
    CollectionConfig,
    CollectionInfo,
    CollectionRecord,
    CollectionState,
    Embedded,
    ExifMode,
    Filter,
    ImageQuery,
    ImageRecord,
    Item,
    ItemQuery,
    Job,
    JobState,
    Json,
    Match,
    ModelInfo,
    NewItem,
    Outcome,
    Query,
    Region,
    SearchOptions,
    StoredImage,
    TextQuery,
    Tier,
    View,
    WriteMode,
    WriteResult,
)
from lookalike.server.duplicates import Found, Kind, Member
from lookalike.server.explain import Explanation
from lookalike.server.export import Export
from lookalike.server.facets import FieldCounts
from lookalike.server.recall import Measurement, RecallOptions, Times

DIM = 8
BAD_PICTURE = b"not a picture"


class FakeCollection:
    def __init__(self, record: CollectionRecord) -> None:
        self.record = record
        self.items: dict[str, tuple[Item, NewItem]] = {}
        self.filters: list[Filter] = []

    def get(self, item_id: str, view: View) -> Item:
        if item_id not in self.items:
            raise ItemNotFound(f"There is no item {item_id!r}.", field="id", id=item_id)
        return self.items[item_id][0]

    def list(self, where: Filter, after_id: str, count: int, view: View) -> list[Item]:
        self.filters.append(where)
        ids = sorted(i for i in self.items if i > after_id)[:count]
        return [self.items[i][0] for i in ids]

    def count(self, where: Filter) -> int:
        self.filters.append(where)
        return len(self.items)

    def update_metadata(self, item_id: str, metadata: Json, replace_all: bool) -> Item:
        item = self.get(item_id, View.FULL)
        merged = metadata if replace_all else {**item.metadata, **metadata}
        item = replace(item, metadata=merged)
        self.items[item_id] = (item, self.items[item_id][1])
        return item

    def delete(self, ids: Sequence[str], *, dry_run: bool) -> int:
        there = {i for i in ids if i in self.items}
        if not dry_run:
            for item_id in there:
                del self.items[item_id]
        return len(there)

    def delete_where(self, where: Filter, *, dry_run: bool) -> int:
        self.filters.append(where)
        return len(self.items)

    def image(self, item_id: str, original: bool) -> StoredImage:
        data = self.items[item_id][1].image if item_id in self.items else None
        if data is None:
            raise ImageNotRetained("No such file is kept.", id=item_id)
        return StoredImage("image/jpeg", data)


class FakeLibrary:
    def __init__(self) -> None:
        self.ready = True
        self.collections: dict[str, FakeCollection] = {}

    def create_collection(self, config: CollectionConfig, exist_ok: bool) -> CollectionInfo:
        if config.name in self.collections and not exist_ok:
            raise CollectionExists(f"There is {config.name!r} already.", collection=config.name)
        config = replace(
            config,
            model=config.model or "fake",
            dimension=config.dimension or DIM,
            index=config.index or IndexSpec(),
        )
        number = len(self.collections) + 1
        record = CollectionRecord(number, config, "fake/1", 1_700_000_000.25)
        self.collections.setdefault(config.name, FakeCollection(record))
        return self.describe(config.name)

    def describe(self, name: str) -> CollectionInfo:
        collection = self.collection(name)
        segment: dict[str, object] = {
            "backend": "exact",
            "algorithm": "flat",
            "count": 3,
            "live": 2,
            "settings": {"m": 16},
        }
        stats = EngineStats(count=2, indexed=2, segments=[segment], building=True, memory_bytes=64)
        return CollectionInfo(
            collection.record, CollectionState.READY, len(collection.items), stats
        )

    def list_collections(self, after: str, count: int) -> list[CollectionInfo]:
        return [self.describe(n) for n in sorted(self.collections) if n > after][:count]

    def delete_collection(self, name: str, missing_ok: bool) -> int:
        if name not in self.collections:
            if missing_ok:
                return 0
            raise CollectionNotFound("There is none.", collection=name)
        return len(self.collections.pop(name).items)

    def collection(self, name: str, *, create: bool = False) -> FakeCollection:
        if name not in self.collections and create and name == "default":
            self.create_collection(CollectionConfig("default"), True)
        if name not in self.collections:
            raise CollectionNotFound(f"There is no collection {name!r}.", collection=name)
        return self.collections[name]


class FakeIngest:
    """Stores at once, on threads of its own; `gate` holds everything back while it is closed."""

    def __init__(self, library: FakeLibrary) -> None:
        self.library = library
        self.gate = threading.Event()
        self.gate.set()
        self.submitted: list[NewItem] = []
        self.groups: list[int] = []
        self.lock = threading.Lock()
        self.under_way = 0
        self.most_under_way = 0

    def submit(
        self,
        collection: str,
        items: Sequence[NewItem],
        mode: WriteMode,
        *,
        deadline: float | None,
        bulk: bool,
        done: Callable[[Sequence[int], Sequence[WriteResult]], None],
        exif: ExifMode = ExifMode.NONE,
    ) -> None:
        self.exif = exif
        target = self.library.collection(collection, create=True)
        with self.lock:
            self.submitted.extend(items)
            self.groups.append(len(items))
            self.under_way += len(items)
            self.most_under_way = max(self.most_under_way, self.under_way)

        def work() -> None:
            self.gate.wait()
            for i in reversed(range(len(items))):  # not in order, as promised
                result = self._store(target, items[i], mode)
                with self.lock:
                    self.under_way -= 1
                done([i], [result])

        threading.Thread(target=work, name="fake-ingest", daemon=True).start()

    def _store(self, target: FakeCollection, new: NewItem, mode: WriteMode) -> WriteResult:
        sha256 = hashlib.sha256(new.image or b"").hexdigest()
        item_id = new.id or f"sha256:{sha256}"
        try:
            if new.image == BAD_PICTURE:
                raise ImageUndecodable("This is no picture.")
            if new.vector is not None and len(new.vector) != DIM:
                raise DimensionMismatch("Wrong.", field="vector", actual=len(new.vector))
            old = target.items.get(item_id)
            if old is not None and mode is WriteMode.CREATE_ONLY:
                raise ItemExists(f"There is {item_id!r} already.", id=item_id)
        except LookalikeError as error:
            return WriteResult(item_id, Outcome.FAILED, error)
        if old is not None and mode is WriteMode.SKIP_EXISTING:
            return WriteResult(item_id, Outcome.SKIPPED)
        vector = np.ones(DIM, np.float32) if new.vector is None else new.vector
        record = None
        if new.image is not None:
            record = ImageRecord(4, 3, "image/jpeg", len(new.image), sha256, True, False)
        now = time.time()
        item = Item(1, item_id, new.metadata, record, vector, now, now)
        target.items[item_id] = (item, new)
        return WriteResult(item_id, Outcome.CREATED if old is None else Outcome.UPDATED)


class FakeSearcher:
    def __init__(self, library: FakeLibrary) -> None:
        self.library = library
        self.asked: list[tuple[str, Query, SearchOptions]] = []

    def search(
        self, collection: str, query: Query, options: SearchOptions, *, deadline: float | None
    ) -> Answer:
        answer = self.search_batch([(collection, query, options)], deadline=deadline)[0]
        if isinstance(answer, LookalikeError):
            raise answer
        return answer

    def search_batch(
        self, requests: Sequence[tuple[str, Query, SearchOptions]], *, deadline: float | None
    ) -> list[Answer | LookalikeError]:
        self.asked.extend(requests)
        return [self._answer(*request) for request in requests]

    def _answer(
        self, collection: str, query: Query, options: SearchOptions
    ) -> Answer | LookalikeError:
        try:
            target = self.library.collection(collection)
            if isinstance(query, ItemQuery):
                target.get(query.id, View.ID)
        except LookalikeError as error:
            return error
        items = [target.items[i][0] for i in sorted(target.items)][: options.limit]
        matches = [Match(item, 1.0 - i / 10) for i, item in enumerate(items)]
        return Answer(matches, exact=True, matched_count=len(items), truncated=True, total_ms=1.5)


class FakeExplainer:
    def explain(
        self,
        collection: str,
        query: ImageQuery | ItemQuery | TextQuery,
        item_id: str,
        *,
        deadline: float | None,
    ) -> Explanation:
        if isinstance(query, ItemQuery) and query.id == "nobody":
            raise ItemNotFound("There is none.", field="id", id=query.id)
        if item_id == "nobody":
            raise ItemNotFound("There is none.", field="id", id=item_id)
        part = getattr(query, "region", None) or Region(0.0, 0.0, 1.0, 1.0)
        heat = np.array([[0.0, 0.25, 0.5], [0.75, 1.0, 0.0]], np.float32)
        match = RegionMatch(part, Region(0.25, 0.5, 0.25, 0.5), 0.75)
        return Explanation(0.5, Tier.SIMILAR, Agreement((match,), heat, heat.T))


class FakeFacets:
    def count_values(
        self, collection: str, fields: Sequence[str], where: Filter, count: int
    ) -> list[FieldCounts]:
        return [FieldCounts(name, [("red", 2), (True, 1), (1.5, 1)], 3) for name in fields]


class FakeRecalls:
    """Finds nearly all; with `endless`, checks without end whether it may go on."""

    def __init__(self, library: FakeLibrary) -> None:
        self.library = library
        self.asked: list[tuple[str, RecallOptions]] = []
        self.endless = False
        self.stopped: list[str] = []

    def measure(
        self, collection: str, options: RecallOptions, check: Callable[[], None]
    ) -> Measurement:
        self.asked.append((collection, options))
        self.library.collection(collection)
        try:
            check()
            while self.endless:
                time.sleep(0.01)
                check()
        except LookalikeError as error:
            self.stopped.append(error.reason)
            raise
        return Measurement(
            recall=Recall(Estimate(0.97, 0.96, 0.98, 300), 10, 1_700_000_000.5),
            self_match=Estimate(1.0, 0.99, 1.0, 200),
            exact=False,
            target=0.99,
            stored=200,
            recent=100,
            index_times=Times(0.25, 0.75, 300),
            exact_times=None,
            params=options.params,
            segments=[{"backend": "faiss", "algorithm": "hnsw", "count": 3, "live": 2}],
            item_count=2,
        )


class FakeDuplicates:
    """Tells of progress without end once it has given its groups, if `endless`."""

    def __init__(self, library: FakeLibrary) -> None:
        self.library = library
        self.asked: list[tuple[str, Kind, Filter]] = []
        self.endless = False
        self.closed = threading.Event()

    def find(self, collection: str, kind: Kind, where: Filter) -> Iterator[Found]:
        self.asked.append((collection, kind, where))
        stored = self.library.collection(collection).items
        items = [stored[i][0] for i in sorted(stored)]
        first, *others = items
        kinds = [Kind.EXACT, Kind.SAME_PICTURE, Kind.NEAR]
        members = [Member(item, k, 0.5) for item, k in zip(others, kinds, strict=False)]
        try:
            yield Found(0, len(items))
            yield Found(len(items), len(items), (Member(first), *members))
            while self.endless:
                time.sleep(0.01)
                yield Found(len(items), len(items))
        finally:
            self.closed.set()


class FakeExporter:
    def __init__(self, library: FakeLibrary) -> None:
        self.library = library

    @contextmanager
    def export(self, name: str, where: Filter, *, images: bool) -> Iterator[Export]:
        record = self.library.describe(name).record
        yield Export(1, "store", "1.2.3", record, 0, iter(()))


class FakeCalibrations:
    def of(self, collection: str) -> Calibration | None:
        return Calibration(6, (1.0, 0.5, 0.25), (0.125, 0.5, 0.75))


class FakeModels:
    default = "fake"

    def list(self) -> list[ModelInfo]:
        return [
            ModelInfo("fake", DIM, ("image", "text"), "fake/1", True, True, "cpu"),
            *(ModelInfo(f"m{i}", 0, (), "", False, False, "") for i in range(5)),
        ]

    def get(self, name: str) -> object:
        if name not in {model.name for model in self.list()}:
            raise ModelNotFound(f"There is no model {name!r}.", model=name)
        return object()


class FakeEmbedding:
    def __init__(self, models: FakeModels) -> None:
        self.models = models
        self.deadlines: list[float | None] = []

    def embed(
        self, model: str, inputs: Sequence[str | bytes], *, deadline: float | None
    ) -> tuple[ModelInfo, list[Embedded | LookalikeError]]:
        self.models.get(model or self.models.default)
        self.deadlines.append(deadline)
        results: list[Embedded | LookalikeError] = []
        for item in inputs:
            if item == BAD_PICTURE:
                results.append(ImageUndecodable("This is no picture."))
            elif item == "crash":
                raise RuntimeError("secret /path/of/the/server")
            elif item == "slow":
                time.sleep(0.5)
                results.append(Embedded(np.full(DIM, 3.0, np.float32)))
            else:
                results.append(Embedded(np.full(DIM, 3.0, np.float32), item == "long"))
        return self.models.list()[0], results


class FakeJobs:
    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.specs: list[IndexSpec | None] = []

    def rebuild(self, collection: str, spec: IndexSpec | None, reembed: bool) -> Job:
        self.specs.append(spec)
        job = Job(f"job-{len(self.jobs)}", "rebuild_index", collection, JobState.QUEUED)
        self.jobs[job.id] = job
        return job

    def get(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise JobNotFound("There is no such job.", id=job_id)
        return self.jobs[job_id]

    def list(self, collection: str, after: str, count: int) -> list[Job]:
        ids = sorted(self.jobs, reverse=True)
        return [self.jobs[i] for i in ids if not after or i < after][:count]

    def watch(self, job_id: str) -> Iterator[Job]:
        while True:
            job = self.get(job_id)
            yield job
            if job.state.is_over:
                return
            time.sleep(0.05)

    def cancel(self, job_id: str) -> Job:
        self.jobs[job_id] = replace(self.get(job_id), state=JobState.CANCELLED)
        return self.jobs[job_id]
