"""Searches by vector where only the score decides: the shortest way to the index and back.

Nearly all searches of programs are of this kind. They meet the index as one matrix, and
each object that is made for a hit costs as much as a tenth of finding it: 256 queries of
10 hits took 145 us each beyond the index on the way of all others, 35 to 40 here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

import numpy as np

from lookalike.backends.errors import LookalikeError
from lookalike.backends.types import Vectors
from lookalike.server.collection import Collection
from lookalike.server.domain import Answer, Item, Match, SearchOptions, Vector
from lookalike.server.finding import Wanted, find
from lookalike.server.vectors import all_as_kept


def is_plain(o: SearchOptions) -> bool:
    """Return whether only the score, a filter and `min_score` decide what is shown."""
    more = o.fold_duplicates or o.group_by or o.diversity or o.judge or o.max_false_match_rate
    return not more


def answer_plain(
    collection: Collection,
    vectors: Sequence[Vector],
    options: SearchOptions,
    began: Sequence[float],
) -> list[Answer | LookalikeError]:
    """Answer queries by (dim,) vectors as one matrix; each `began` at a `time.monotonic()`.

    One that cannot be answered has its error in its place: CollectionLoading,
    DimensionMismatch, VectorNotFinite, VectorZero, FilterInvalid.
    """
    try:
        if len(vectors) == 1:
            matrix = collection.accept(vectors[0])[np.newaxis]
            return list(_answer(collection, matrix, options, began))
        kept = all_as_kept(vectors, collection.record.config)
        good = [i for i, one in enumerate(kept) if not isinstance(one, LookalikeError)]
        if good:
            matrix = np.array([kept[i] for i in good], np.float32)
            found = _answer(collection, matrix, options, [began[i] for i in good])
    except LookalikeError as error:
        return [error for _ in vectors]
    answers = cast("list[Answer | LookalikeError]", kept)
    for i, answer in zip(good, found if good else (), strict=True):
        answers[i] = answer
    return answers


def _answer(
    collection: Collection, matrix: Vectors, options: SearchOptions, began: Sequence[float]
) -> list[Answer]:
    ready = time.monotonic()
    allowed = collection.select(options.filter) if options.filter else None
    hits = collection.search(matrix, options.limit, allowed, options.params)
    found = time.monotonic()
    keys, scores = hits.ids.tolist(), hits.scores.tolist()
    least = -np.inf if options.min_score is None else options.min_score
    for row, values in zip(keys, scores, strict=True):
        if row and (row[-1] < 0 or values[-1] < least):
            size = sum(key >= 0 and s >= least for key, s in zip(row, values, strict=True))
            del row[size:], values[size:]
    wanted = keys[0] if len(keys) == 1 else sorted(set(chain.from_iterable(keys)))
    items = collection.fetch(wanted, options.view)
    if len(items) < len(wanted):  # some went while this ran
        again = find(collection, [Wanted(vector, options, least) for vector in matrix])
        ended = time.monotonic()
        return [
            replace(answer, total_ms=(ended - start) * 1e3)
            for answer, start in zip(again, began, strict=True)
        ]
    fetched = time.monotonic()
    matches = [_matches(row, s, items) for row, s in zip(keys, scores, strict=True)]
    ended = time.monotonic()
    return [
        Answer(
            row,
            hits.exact,
            None if allowed is None else len(allowed),
            queue_ms=(ready - start) * 1e3,
            index_ms=(found - ready) * 1e3,
            fetch_ms=(fetched - found) * 1e3,
            rank_ms=(ended - fetched) * 1e3,
            total_ms=(ended - start) * 1e3,
        )
        for row, start in zip(matches, began, strict=True)
    ]


def _matches(keys: list[int], scores: list[float], items: dict[int, Item]) -> list[Match]:
    """Return matches, best first, equal scores by id."""
    matches = [Match(items[key], score) for key, score in zip(keys, scores, strict=True)]
    if len(set(scores)) < len(scores):
        matches.sort(key=lambda match: (-match.score, match.item.id.encode()))
    return matches
