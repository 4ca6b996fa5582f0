"""The way from a query to a vector: parts begun together, regions cut, all added up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from lookalike.backends.errors import (
    ImageNotRetained,
    InvalidArgument,
    LookalikeError,
    ModelLacksModality,
    NotFound,
    VectorZero,
)
from lookalike.backends.types import Metric, RgbImage
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    Embedded,
    ImageQuery,
    Input,
    ItemQuery,
    MixedQuery,
    Part,
    Query,
    TextQuery,
    Vector,
    VectorQuery,
    View,
)
from lookalike.server.embedding import Embedding, Seen

_NOTHING_LEFT: Final = 5e-3
"""Shorter than this, for a heaviest part of 1, a sum is noise: a picture's vector may be
0.0045 off (cosine 0.99999), depending on what else is in its batch."""
_FIELDS: Final = {
    TextQuery: "text",
    ImageQuery: "image",
    ItemQuery: "item_id",
    VectorQuery: "vector",
}


class Work(IntEnum):
    """What is done for a query; where two things go on at once, the greater counts."""

    FETCH = 0
    RANK = 1
    DECODE = 2
    EMBED = 3


class Span(NamedTuple):
    """Some work, in `time.monotonic()` seconds."""

    work: Work
    began: float
    ended: float


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A query that is a vector now."""

    vector: Vector
    left_out: frozenset[int] = frozenset()
    """Keys of the items that it was made of."""
    truncated: bool = False
    picture: RgbImage | None = None
    """Its picture, if there is one and it was to be kept."""
    spans: tuple[Span, ...] = ()


class Queries:
    """Makes vectors of queries. Any thread."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding

    def begin(
        self, collection: Collection, query: Query, *, keep: bool, deadline: float | None
    ) -> Callable[[], Ready]:
        """Begin all that a query needs; the returned call waits for it and gives or raises.

        With `keep`, the picture of a query of one picture is given too. Raises, now or
        when waited for: ItemNotFound, ImageNotRetained, ModelMismatch, DimensionMismatch,
        VectorNotFinite, VectorZero, ModelLacksModality, InvalidArgument (regions, parts
        that cancel each other out), the errors of images, Overloaded, DeadlineExceeded.
        """
        if not isinstance(query, MixedQuery):
            return self._begin(collection, query, keep, deadline)
        parts, keep = query.parts, keep and is_one_thing(query)
        begun: list[Callable[[], Ready]] = []
        for i, part in enumerate(parts):
            with _blaming(i, part):
                begun.append(self._begin(collection, part.input, keep, deadline))
        metric = collection.record.config.metric

        def wait() -> Ready:
            ready: list[Ready] = []
            for i, call in enumerate(begun):
                with _blaming(i, parts[i]):
                    ready.append(call())
            return _mixed(ready, [part.weight for part in parts], metric)

        return wait

    def _begin(
        self, collection: Collection, query: Input, keep: bool, deadline: float | None
    ) -> Callable[[], Ready]:
        match query:
            case VectorQuery(vector):
                ready = Ready(collection.accept(vector))
                return lambda: ready
            case TextQuery(text):
                wait = self._embedding.start(collection.model(), text, deadline)
                return lambda: _embedded(wait())
            case ImageQuery(data, region):
                see = self._embedding.start_picture(
                    collection.model(), lambda: data, deadline, region=region, keep=keep
                )
                return lambda: _seen(*see())
            case ItemQuery():
                return self._begin_item(collection, query, keep, deadline)

    def _begin_item(
        self, collection: Collection, query: ItemQuery, keep: bool, deadline: float | None
    ) -> Callable[[], Ready]:
        began = time.monotonic()
        item = collection.get(query.id, View.FULL)
        assert item.vector is not None
        fetched = Span(Work.FETCH, began, time.monotonic())
        ready = Ready(item.vector, frozenset([item.key]), spans=(fetched,))
        image = item.image
        if image is None or not (image.has_original or image.has_thumbnail):
            if query.region is None:
                return lambda: ready
            raise ImageNotRetained(
                f"No picture of {item.id!r} is kept to cut a region from; send the picture.",
                field="item_id",
                id=item.id,
            )

        def load() -> bytes:
            return collection.image(item.id, image.has_original).data

        if query.region is not None:
            cut = self._embedding.start_picture(
                collection.model(), load, deadline, region=query.region, keep=keep
            )
            return lambda: _of_item(_seen(*cut()), ready)
        if not keep:
            return lambda: ready
        look = self._embedding.start_reading(load, deadline)
        return lambda: _of_item(_looked(look(), ready.vector), ready)


def is_one_thing(query: Query) -> bool:
    """Return whether scores are those of one picture, so that judgements of them hold.

    The scores of texts, sums and opposites are of another scale.
    """
    if isinstance(query, MixedQuery):
        only, *more = query.parts
        return not more and only.weight > 0 and is_one_thing(only.input)
    return not isinstance(query, TextQuery)


def mix(vectors: Sequence[Vector], weights: Sequence[float], metric: Metric) -> Vector:
    """Return the weighted sum of (dim,) vectors that were each brought to length 1.

    Under cosine it has length 1; else the mean length of the vectors, by the size of
    their weights, so that a single one stays as it is. Raises VectorZero with the part
    to blame, InvalidArgument if nothing but rounding is left.
    """
    rows = np.stack(vectors).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        zero = int(np.argmin(lengths))
        raise VectorZero(
            "The vector is all zero, which has no direction to add.", field=f"parts[{zero}].vector"
        )
    shares = np.asarray(weights, np.float64) / np.abs(weights).max()
    total = shares @ (rows / lengths[:, np.newaxis])
    length = np.linalg.norm(total)
    if length < _NOTHING_LEFT:
        raise InvalidArgument(
            "The parts cancel each other out: added with their weights, nothing is left to "
            "look for. Change a weight, or leave a part out.",
            field="parts",
        )
    aim = 1.0 if metric is Metric.COSINE else np.average(lengths, weights=np.abs(shares))
    return np.ascontiguousarray(total * (aim / length), np.float32)


def shares_of(spans: Iterable[Span]) -> dict[Work, float]:
    """Return the time of each kind of work in milliseconds, no moment counted twice."""
    spans = list(spans)
    shares: dict[Work, float] = {}
    before = 0.0
    for work in sorted(Work, reverse=True):
        covered = _covered((s.began, s.ended) for s in spans if s.work >= work)
        shares[work] = (covered - before) * 1e3
        before = covered
    return shares


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, end = 0.0, -np.inf
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def _mixed(ready: Sequence[Ready], weights: Sequence[float], metric: Metric) -> Ready:
    return Ready(
        mix([one.vector for one in ready], weights, metric),
        left_out=frozenset().union(*(one.left_out for one in ready)),
        truncated=any(one.truncated for one in ready),
        picture=ready[0].picture,
        spans=tuple(span for one in ready for span in one.spans),
    )


def _embedded(made: Embedded) -> Ready:
    spans = (Span(Work.EMBED, made.began, made.ended),)
    return Ready(made.vector, truncated=made.truncated, spans=spans)


def _seen(seen: Seen, made: Embedded) -> Ready:
    embedded, looked = _embedded(made), _looked(seen, made.vector)
    return replace(embedded, picture=seen.picture, spans=looked.spans + embedded.spans)


def _looked(seen: Seen, vector: Vector) -> Ready:
    return Ready(vector, picture=seen.picture, spans=(Span(Work.DECODE, seen.began, seen.ended),))


def _of_item(ready: Ready, item: Ready) -> Ready:
    return replace(ready, left_out=item.left_out, spans=item.spans + ready.spans)


@contextmanager
def _blaming(i: int, part: Part) -> Iterator[None]:
    """Let errors that the request is to blame for name the part, and which field of it."""
    try:
        yield
    except LookalikeError as error:
        if error.field or isinstance(error, InvalidArgument | NotFound | ModelLacksModality):
            name = "region" if error.field == "region" else _FIELDS[type(part.input)]
            error.field = f"parts[{i}].{name}"
        raise
