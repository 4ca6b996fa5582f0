"""What the gRPC layer asks of the domain: the only methods that it calls.

Structural types, so that the layer can be read and tested without the rest.
`deadline` is an absolute `time.monotonic()` or None; every method may be called
on any thread and raises the errors of `lookalike.backends.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lookalike.backends.errors import LookalikeError
from lookalike.backends.types import IndexSpec
from lookalike.server.backup import Manifest
from lookalike.server.calibration import Calibration
from lookalike.server.domain import (
    Answer,
    CollectionConfig,
    CollectionInfo,
    Embedded,
    ExifMode,
    Filter,
    ImageQuery,
    Item,
    ItemQuery,
    Job,
    Json,
    ModelInfo,
    NewItem,
    Query,
    SearchOptions,
    StoredImage,
    TextQuery,
    View,
    WriteMode,
    WriteResult,
)
from lookalike.server.duplicates import Found, Kind
from lookalike.server.explain import Explanation
from lookalike.server.export import Export
from lookalike.server.facets import FieldCounts
from lookalike.server.recall import Measurement, RecallOptions
from lookalike.server.verifying import Event


class Collection(Protocol):
    def get(self, item_id: str, view: View) -> Item: ...

    def list(self, where: Filter, after_id: str, count: int, view: View) -> list[Item]: ...

    def count(self, where: Filter) -> int: ...

    def update_metadata(self, item_id: str, metadata: Json, replace: bool) -> Item: ...

    def delete(self, ids: Sequence[str], *, dry_run: bool) -> int: ...

    def delete_where(self, where: Filter, *, dry_run: bool) -> int: ...

    def image(self, item_id: str, original: bool) -> StoredImage: ...


class Library(Protocol):
    @property
    def ready(self) -> bool: ...

    def create_collection(self, config: CollectionConfig, exist_ok: bool) -> CollectionInfo: ...

    def describe(self, name: str) -> CollectionInfo: ...

    def list_collections(self, after: str, count: int) -> list[CollectionInfo]: ...

    def delete_collection(self, name: str, missing_ok: bool) -> int: ...

    def collection(self, name: str, *, create: bool = False) -> Collection: ...


class Ingest(Protocol):
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
    ) -> None: ...


class Searcher(Protocol):
    def search(
        self, collection: str, query: Query, options: SearchOptions, *, deadline: float | None
    ) -> Answer: ...

    def search_batch(
        self,
        requests: Sequence[tuple[str, Query, SearchOptions]],
        *,
        deadline: float | None,
    ) -> list[Answer | LookalikeError]: ...


class Facets(Protocol):
    def count_values(
        self, collection: str, fields: Sequence[str], where: Filter, count: int
    ) -> list[FieldCounts]: ...


class Explainer(Protocol):
    def explain(
        self,
        collection: str,
        query: ImageQuery | ItemQuery | TextQuery,
        item_id: str,
        *,
        deadline: float | None,
    ) -> Explanation: ...


class Duplicates(Protocol):
    def find(self, collection: str, kind: Kind, where: Filter) -> Iterator[Found]: ...


class Recalls(Protocol):
    def measure(
        self, collection: str, options: RecallOptions, check: Callable[[], None]
    ) -> Measurement: ...


class Verifier(Protocol):
    def verify(
        self, collection: str, probe_count: int, check: Callable[[], None]
    ) -> Iterator[Event]: ...


class Backups(Protocol):
    def make(
        self, check: Callable[[], None]
    ) -> AbstractContextManager[tuple[Manifest, Iterator[bytes]]]: ...


class Exporter(Protocol):
    def export(
        self, name: str, where: Filter, *, images: bool
    ) -> AbstractContextManager[Export]: ...


class Calibrations(Protocol):
    def of(self, collection: str) -> Calibration | None: ...


class Embedding(Protocol):
    def embed(
        self, model: str, inputs: Sequence[str | bytes], *, deadline: float | None
    ) -> tuple[ModelInfo, list[Embedded | LookalikeError]]: ...


class Models(Protocol):
    @property
    def default(self) -> str: ...

    def list(self) -> list[ModelInfo]: ...

    def get(self, name: str) -> object: ...


class Jobs(Protocol):
    def rebuild(self, collection: str, spec: IndexSpec | None, reembed: bool) -> Job: ...

    def get(self, job_id: str) -> Job: ...

    def list(self, collection: str, after: str, count: int) -> list[Job]: ...

    def watch(self, job_id: str) -> Iterator[Job]: ...

    def cancel(self, job_id: str) -> Job: ...
