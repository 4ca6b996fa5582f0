"""The server's inside without gRPC: real store, real engine, real embedder."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lookalike.backends.files import Files
from lookalike.backends.types import IndexSpec
from lookalike.server.domain import ExifMode, NewItem, WriteMode, WriteResult
from lookalike.server.duplicates import Duplicates
from lookalike.server.embedding import Embedding
from lookalike.server.ingest import Ingest
from lookalike.server.jobs import Jobs
from lookalike.server.judging import Judge
from lookalike.server.known_vectors import KnownVectors
from lookalike.server.library import Library
from lookalike.server.limits import Limits
from lookalike.server.models import ModelConfig, Models
from lookalike.server.pictures import Pictures
from lookalike.server.reembed import Reembed
from lookalike.server.searcher import Searcher
from lookalike.server.store import Store
from lookalike.server.vector_cache import VectorCache


@dataclass
class House:
    """All parts of one server, put together as the application does it."""

    store: Store
    models: Models
    library: Library
    ingest: Ingest
    searcher: Searcher
    judge: Judge
    duplicates: Duplicates
    jobs: Jobs
    vectors: KnownVectors

    def put(
        self,
        items: Sequence[NewItem],
        collection: str = "",
        mode: WriteMode = WriteMode.UPSERT,
        *,
        bulk: bool = False,
        exif: ExifMode = ExifMode.NONE,
    ) -> list[WriteResult]:
        """Store items and wait for all; the results in the order of the items."""
        results: dict[int, WriteResult] = {}
        all_done = threading.Event()

        def done(places: Sequence[int], found: Sequence[WriteResult]) -> None:
            assert not results.keys() & places, "done was called twice"
            results.update(zip(places, found, strict=True))
            if len(results) == len(items):
                all_done.set()

        self.ingest.submit(collection, items, mode, deadline=None, bulk=bulk, done=done, exif=exif)
        assert all_done.wait(60), f"only {len(results)} of {len(items)} are done"
        return [results[i] for i in range(len(items))]


@contextmanager
def open_house(
    data: Path,
    model: str = "builtin",
    delta_limit: int = 8192,
    configs: Mapping[str, ModelConfig] | None = None,
) -> Iterator[House]:
    """Open a data folder; closes everything in the application's order."""
    limits = Limits()
    store = Store.open(data)
    models = Models(
        configs or {"builtin": ModelConfig("builtin"), "other": ModelConfig("builtin")},
        model,
        max_waiting=limits.embed_queue_items,
    )
    library = Library(
        store,
        models,
        data=data,
        default_index=IndexSpec(),
        engine="local",
        engine_options={"delta_limit": delta_limit},
        limits=limits,
    )
    library.start()
    assert library.wait_ready(30)
    pictures = Pictures(limits, threads=2)
    cache = VectorCache(data / "vectors", 2**26, Files())
    vectors = KnownVectors(cache, limits)
    embedding, judge = Embedding(models, pictures, vectors), Judge()
    jobs = Jobs(library, store, Reembed(store, models, pictures))
    try:
        yield House(
            store,
            models,
            library,
            Ingest(library, pictures, vectors),
            Searcher(library, embedding, judge),
            judge,
            Duplicates(library, pictures, judge),
            jobs,
            vectors,
        )
    finally:
        jobs.close()
        pictures.close()
        models.close()
        cache.close()
        library.close()
        store.close()
