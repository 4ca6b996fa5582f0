"""The way of a query: become a vector, meet the index, come back as items."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lookalike.backends.errors import LookalikeError
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    Answer,
    Embedded,
    ImageQuery,
    ItemQuery,
    Query,
    SearchOptions,
    TextQuery,
    Vector,
    VectorQuery,
    View,
)
from lookalike.server.embedding import Embedding, gather
from lookalike.server.library import Library

_NONE = -1


@dataclass(frozen=True, slots=True)
class _Ready:
    """A query that is a vector now; `left_out` is the key of the item it came from."""

    collection: Collection
    vector: Vector
    options: SearchOptions
    left_out: int
    truncated: bool
    embed_ms: float


class Searcher:
    """Answers queries of every kind. Any thread."""

    def __init__(self, library: Library, embedding: Embedding) -> None:
        self._library = library
        self._embedding = embedding

    def search(
        self, collection: str, query: Query, options: SearchOptions, *, deadline: float | None
    ) -> Answer:
        """Answer one query.

        Raises CollectionNotFound, CollectionLoading, ItemNotFound, ModelMismatch,
        ModelLacksModality, DimensionMismatch, VectorNotFinite, VectorZero, the errors
        of images, Overloaded, DeadlineExceeded.
        """
        answer = self.search_batch([(collection, query, options)], deadline=deadline)[0]
        if isinstance(answer, LookalikeError):
            raise answer
        return answer

    def search_batch(
        self,
        requests: Sequence[tuple[str, Query, SearchOptions]],
        *,
        deadline: float | None,
    ) -> list[Answer | LookalikeError]:
        """Answer queries together; those alike but for the vector meet the index as one matrix."""
        started = time.perf_counter()
        begun = [self._begin(*request, deadline) for request in requests]
        queries = gather(begun)
        answers: list[Answer | LookalikeError | None] = [
            query if isinstance(query, LookalikeError) else None for query in queries
        ]
        groups: dict[object, list[int]] = {}
        for i, query in enumerate(queries):
            if isinstance(query, _Ready):
                o = query.options
                groups.setdefault((query.collection.number, o.filter, o.view, o.params), []).append(
                    i
                )
        for rows in groups.values():
            members = [query for i in rows if isinstance(query := queries[i], _Ready)]
            for i, found in zip(rows, _answer(members), strict=True):
                answers[i] = found
        total_ms = (time.perf_counter() - started) * 1e3
        return [
            replace(a, total_ms=total_ms) if isinstance(a, Answer) else a
            for a in answers
            if a is not None
        ]

    def _begin(
        self, name: str, query: Query, options: SearchOptions, deadline: float | None
    ) -> Callable[[], _Ready]:
        """Begin to make a vector of the query; the returned call waits for it."""
        started = time.perf_counter()
        try:
            collection = self._library.collection(name)
            match query:
                case VectorQuery(vector):
                    vector = collection.accept(vector)
                    return lambda: _Ready(collection, vector, options, _NONE, False, 0.0)
                case ItemQuery(item_id):
                    item = collection.get(item_id, View.FULL)
                    assert item.vector is not None
                    vector = item.vector
                    return lambda: _Ready(collection, vector, options, item.key, False, 0.0)
                case ImageQuery(data):
                    wait = self._embedding.start(collection.model(), data, deadline)
                case TextQuery(text):
                    wait = self._embedding.start(collection.model(), text, deadline)
        except LookalikeError as error:
            return _raiser(error)

        def embedded() -> _Ready:
            made: Embedded = wait()
            ms = (time.perf_counter() - started) * 1e3
            return _Ready(collection, made.vector, options, _NONE, made.truncated, ms)

        return embedded


def _answer(queries: list[_Ready]) -> list[Answer | LookalikeError]:
    """Answer queries of one collection that share filter, view and parameters."""
    try:
        found = queries[0].collection.search(
            np.stack([q.vector for q in queries]),
            [q.options for q in queries],
            [q.left_out for q in queries],
        )
    except LookalikeError as error:
        return [error for _ in queries]
    return [
        replace(answer, truncated=query.truncated, embed_ms=query.embed_ms)
        for query, answer in zip(queries, found, strict=True)
    ]


def _raiser(error: LookalikeError) -> Callable[[], _Ready]:
    def give() -> _Ready:
        raise error

    return give
