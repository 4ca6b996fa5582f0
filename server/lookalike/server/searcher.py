"""The way of a query: become a vector, meet the index, come back as matches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from lookalike.backends.errors import FailedPrecondition, InvalidArgument, LookalikeError
from lookalike.backends.types import RgbImage
from lookalike.server.collection import Collection
from lookalike.server.deadlines import is_over, over
from lookalike.server.domain import (
    Answer,
    Judgement,
    Match,
    Query,
    SearchOptions,
    Vector,
    VectorQuery,
)
from lookalike.server.embedding import Embedding, gather
from lookalike.server.finding import Wanted, find
from lookalike.server.folding import Calibration
from lookalike.server.gathering import Gathering
from lookalike.server.library import Library
from lookalike.server.plain import answer_plain, is_plain
from lookalike.server.queries import Queries, Ready, Span, Work, is_one_thing, shares_of


class Judge(Protocol):
    """Says what matches are worth. Any thread."""

    def calibration(self, collection: Collection) -> Calibration | None:
        """Return what scores mean; None where there are too few items to tell."""

    def judge(
        self, collection: Collection, picture: RgbImage | None, matches: Sequence[Match]
    ) -> list[Judgement]:
        """Judge each match; `picture` is the query's, if it has one."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A query that is a vector now, and all that its answer depends on."""

    collection: Collection
    query: Query
    options: SearchOptions
    ready: Ready
    min_score: float
    calibration: Calibration | None

    @property
    def wanted(self) -> Wanted:
        ready = self.ready
        return Wanted(ready.vector, self.options, self.min_score, ready.left_out, self.calibration)

    @property
    def kind(self) -> object:
        """Equal for those that meet the index as one matrix."""
        o, wanted = self.options, self.wanted
        pool = wanted.pool if wanted.is_ranked else 0  # plain ones take the best of one matrix
        return (self.collection.number, o.filter, o.view, o.params, pool)


class Searcher:
    """Answers queries of every kind. Any thread.

    Plain searches that are alike meet the index together when half as many as there are
    `cores` are under way already; gRPC and Python need the other half. Server CPU for each,
    20,000 x 512, 2 busy cores, one by one, with one lane and with two: by HNSW with 8
    callers 915, 960 and 997 us (another time 934, 841 and 886), with 32 callers 914, 766 and
    959; compared exactly with 8 callers 2909, 2329 and 2674 (321, 397 and 341 answers/s).
    """

    def __init__(
        self, library: Library, embedding: Embedding, judge: Judge | None = None, *, cores: int = 2
    ) -> None:
        self._library = library
        self._queries = Queries(embedding)
        self._judge = judge
        self._gathering = Gathering(_answer_together, max(1, cores // 2))

    def search(
        self, collection: str, query: Query, options: SearchOptions, *, deadline: float | None
    ) -> Answer:
        """Answer one query.

        Raises CollectionNotFound, CollectionLoading, ItemNotFound, ImageNotRetained,
        ModelMismatch, ModelLacksModality, DimensionMismatch, VectorNotFinite, VectorZero,
        InvalidArgument (regions, parts, rates of texts), FailedPrecondition (no
        calibration yet), the errors of images, Overloaded, DeadlineExceeded.
        """
        answer: Answer | LookalikeError
        if isinstance(query, VectorQuery) and is_plain(options):
            found = self._library.collection(collection)
            one = _Plain(found, options, query.vector, time.monotonic())
            # Alike are those whose options are one object, as the wire layer gives them.
            answer = self._gathering.call((found.number, id(options)), one, deadline)
        else:
            [answer] = self.search_batch([(collection, query, options)], deadline=deadline)
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
        started = time.monotonic()
        if is_over(deadline):
            raise over(deadline, "before the search began")
        if (vectors := _plain(requests)) is not None:
            name, _, options = requests[0]
            try:
                collection = self._library.collection(name)
            except LookalikeError as error:
                return [error for _ in requests]
            return answer_plain(collection, vectors, options, [started] * len(vectors))
        asked = gather([self._begin(*request, deadline) for request in requests])
        ready_at = time.monotonic()
        if is_over(deadline):
            raise over(deadline, "before the index was asked")
        groups: dict[object, list[int]] = {}
        for i, one in enumerate(asked):
            if isinstance(one, _Asked):
                groups.setdefault(one.kind, []).append(i)
        done: dict[int, tuple[Answer | LookalikeError, float]] = {}
        for rows in groups.values():
            group = [one for i in rows if isinstance(one := asked[i], _Asked)]
            done.update(zip(rows, self._answer(group), strict=True))
        ended = time.monotonic()
        answers: list[Answer | LookalikeError] = []
        for i, one in enumerate(asked):
            if isinstance(one, LookalikeError):
                answers.append(one)
                continue
            answer, busy_s = done[i]
            if isinstance(answer, Answer):
                waited_s = (ended - ready_at) - busy_s
                answer = _timed(answer, one, ready_at - started, waited_s, ended - started)
            answers.append(answer)
        return answers

    def _begin(
        self, name: str, query: Query, options: SearchOptions, deadline: float | None
    ) -> Callable[[], _Asked]:
        """Begin to make a vector of the query; the returned call waits for it."""
        try:
            collection = self._library.collection(name)
            keep = options.judge and self._judge is not None and is_one_thing(query)
            wait = self._queries.begin(collection, query, keep=keep, deadline=deadline)
            began = time.monotonic()
            calibration = self._calibration(collection, options)
            min_score = _min_score(collection, query, options, calibration)
            ranked = Span(Work.RANK, began, time.monotonic())
        except LookalikeError as error:
            return _raiser(error)

        def asked() -> _Asked:
            ready = wait()
            ready = replace(ready, spans=(*ready.spans, ranked))
            return _Asked(collection, query, options, ready, min_score, calibration)

        return asked

    def _calibration(self, collection: Collection, options: SearchOptions) -> Calibration | None:
        """Return what scores mean, if the options depend on it and it is known."""
        if self._judge is None or not (options.max_false_match_rate or options.fold_duplicates):
            return None
        return self._judge.calibration(collection)

    def _answer(self, group: list[_Asked]) -> list[tuple[Answer | LookalikeError, float]]:
        """Answer queries that are alike; with each the seconds of work on it."""
        began = time.monotonic()
        try:
            found = find(group[0].collection, [asked.wanted for asked in group])
        except LookalikeError as error:
            return [(error, 0.0) for _ in group]
        busy_s = time.monotonic() - began
        results: list[tuple[Answer | LookalikeError, float]] = []
        for asked, answer in zip(group, found, strict=True):
            began = time.monotonic()
            result = self._judged(asked, answer)
            results.append((result, busy_s + time.monotonic() - began))
        return results

    def _judged(self, asked: _Asked, answer: Answer) -> Answer | LookalikeError:
        """Add what each match is worth, where that was asked for and can be told."""
        if not (asked.options.judge and self._judge and is_one_thing(asked.query)):
            return answer
        began = time.monotonic()
        try:
            found = self._judge.judge(asked.collection, asked.ready.picture, answer.matches)
        except LookalikeError as error:
            return error
        matches = [
            match._replace(judgement=judgement)
            for match, judgement in zip(answer.matches, found, strict=True)
        ]
        spent_ms = (time.monotonic() - began) * 1e3
        return replace(answer, matches=matches, rank_ms=answer.rank_ms + spent_ms)


class _Plain(NamedTuple):
    """A plain query by a vector, which came at `began`."""

    collection: Collection
    options: SearchOptions
    vector: Vector
    began: float


def _answer_together(asked: Sequence[_Plain]) -> list[Answer | LookalikeError]:
    first = asked[0]
    vectors, began = [one.vector for one in asked], [one.began for one in asked]
    return answer_plain(first.collection, vectors, first.options, began)


def _plain(requests: Sequence[tuple[str, Query, SearchOptions]]) -> list[Vector] | None:
    """Return the vectors of queries that are plain and alike but for them."""
    vectors: list[Vector] = []
    first_name, _, first = requests[0] if requests else ("", None, None)
    for name, query, options in requests:
        alike = name == first_name and (options is first or options == first)
        if not (alike and isinstance(query, VectorQuery)):
            return None
        vectors.append(query.vector)
    return vectors if first is not None and is_plain(first) else None


def _min_score(
    collection: Collection, query: Query, options: SearchOptions, calibration: Calibration | None
) -> float:
    """Return the score from which on matches are shown."""
    if not options.max_false_match_rate:
        return -np.inf if options.min_score is None else options.min_score
    if not is_one_thing(query):
        raise InvalidArgument(
            "A false-match rate is known for one picture, item or vector, not for a text or "
            "several parts, whose scores are of another scale. Set min_score instead.",
            field="max_false_match_rate",
        )
    if calibration is None:
        raise FailedPrecondition(
            f"The collection {collection.name!r} has too few items to tell what unrelated "
            "pictures score. Add items, or set min_score instead.",
            field="max_false_match_rate",
            collection=collection.name,
        )
    return calibration.score(options.max_false_match_rate)


def _timed(
    answer: Answer, asked: _Asked, vector_s: float, waited_s: float, total_s: float
) -> Answer:
    """Add the time until there were vectors, and the time for which others had their turn."""
    shares = shares_of(asked.ready.spans)
    return replace(
        answer,
        truncated=asked.ready.truncated,
        decode_ms=shares[Work.DECODE],
        queue_ms=max(0.0, vector_s * 1e3 - sum(shares.values())) + waited_s * 1e3,
        embed_ms=shares[Work.EMBED],
        fetch_ms=answer.fetch_ms + shares[Work.FETCH],
        rank_ms=answer.rank_ms + shares[Work.RANK],
        total_ms=total_s * 1e3,
    )


def _raiser(error: LookalikeError) -> Callable[[], _Asked]:
    def give() -> _Asked:
        raise error

    return give
