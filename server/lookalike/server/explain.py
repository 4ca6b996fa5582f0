"""Why an item matches a query: its score, what it is worth, and the regions that agree.

Regions are those that the collection's model sees in patches, if it has any, for they
are what it judged by; else those whose gradients agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from lookalike.backends.errors import (
    FailedPrecondition,
    ImageNotRetained,
    ItemNotFound,
    LookalikeError,
)
from lookalike.backends.types import RgbImage, SearchParams
from lookalike.server.agreement import Agreement, Heat, agree, heat_shape
from lookalike.server.collection import Collection
from lookalike.server.domain import (
    ImageQuery,
    Item,
    ItemQuery,
    Judgement,
    Match,
    Region,
    TextQuery,
    Tier,
    Vector,
    View,
)
from lookalike.server.embed_queue import PatchGrid
from lookalike.server.embedding import Embedding
from lookalike.server.library import Library
from lookalike.server.models import LoadedModel
from lookalike.server.patch_agreement import Patches, agree_in_patches, place_text
from lookalike.server.pictures import Pictures
from lookalike.server.queries import Queries


class Judging(Protocol):
    def judge(
        self, collection: Collection, picture: RgbImage | None, matches: Sequence[Match]
    ) -> list[Judgement]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Why an item matches; regions are in fractions of the whole pictures."""

    score: float
    tier: Tier | None
    agreement: Agreement


class Explainer:
    """Explains matches. Any thread."""

    def __init__(
        self, library: Library, embedding: Embedding, pictures: Pictures, judge: Judging
    ) -> None:
        self._library = library
        self._embedding = embedding
        self._queries = Queries(embedding)
        self._pictures = pictures
        self._judge = judge

    def explain(
        self,
        collection: str,
        query: ImageQuery | ItemQuery | TextQuery,
        item_id: str,
        *,
        deadline: float | None,
    ) -> Explanation:
        """Compare the pictures of a query and of an item, as the collection's model sees them.

        A text is looked for in the item's picture; all of it is the query's region.
        Raises CollectionNotFound, ItemNotFound, ImageNotRetained (either of the two
        has neither original nor thumbnail), ModelMismatch, ModelLacksModality and
        FailedPrecondition (a model that cannot place texts), the errors of images and
        regions, Overloaded, DeadlineExceeded.
        """
        target = self._library.collection(collection)
        item = target.get(item_id, View.FULL)
        load = _picture_of(target, item, "item_id")
        if isinstance(query, TextQuery):
            return self._explain_text(target, query, item, load, deadline)
        model, again = _model_with_patches(target), None
        if isinstance(query, ItemQuery):
            load_query = _picture_of(target, target.get(query.id, View.BASIC), "query_item_id")
            if model is not None and query.region is None:
                # A query's vector is known: its picture is read too small for some models.
                again = self._embedding.start_reading(load_query, deadline, model)
        asked = self._queries.begin(target, query, keep=True, deadline=deadline)
        look = self._embedding.start_reading(load, deadline, model)
        ready, seen = asked(), look()
        assert ready.picture is not None
        shown = ready.picture if again is None else again().picture
        assert shown is not None
        assert seen.picture is not None
        comparing = self._start_comparing(model, shown, seen.picture, deadline)
        score = _score(target, ready.vector, item)
        [judgement] = self._judge.judge(target, ready.picture, [Match(item, score)])
        agreement = comparing()
        if query.region is not None:
            agreement = in_whole(agreement, query.region, ready.picture.shape[:2])
        return Explanation(score, judgement.tier, agreement)

    def _explain_text(
        self,
        target: Collection,
        query: TextQuery,
        item: Item,
        load: Callable[[], bytes],
        deadline: float | None,
    ) -> Explanation:
        model = target.model()
        asked = self._queries.begin(target, query, keep=False, deadline=deadline)
        if "text" in model.modalities and not model.patches_know_texts:
            raise FailedPrecondition(
                f"The model {model.name!r} cannot tell where in a picture a text is. Ask with a "
                "picture, or use a CLIP.",
                field="text",
            )
        vector = asked().vector  # first, for it may be refused
        picture = self._embedding.start_reading(load, deadline, model)().picture
        assert picture is not None
        agreement = place_text(vector, self._start_seeing(model, picture, deadline)())
        return Explanation(_score(target, vector, item), None, agreement)

    def _start_comparing(
        self, model: LoadedModel | None, query: RgbImage, item: RgbImage, deadline: float | None
    ) -> Callable[[], Agreement]:
        """Begin to compare two pictures; the returned call waits and gives or raises."""
        if model is None:
            compare = partial(agree, query, item)
            return self._pictures.submit(compare, deadline=deadline).result
        seeing = [self._start_seeing(model, picture, deadline) for picture in (query, item)]

        def wait() -> Agreement:
            compare = partial(agree_in_patches, *(see() for see in seeing))
            return self._pictures.submit(compare, deadline=deadline).result()

        return wait

    def _start_seeing(
        self, model: LoadedModel, picture: RgbImage, deadline: float | None
    ) -> Callable[[], Patches]:
        height, width = picture.shape[:2]

        def prepare() -> Future[PatchGrid]:
            return model.submit_patches(model.prepare(picture), deadline=deadline)

        preparing = self._pictures.submit(prepare, deadline=deadline)
        window = model.patch_window(height, width)
        return lambda: Patches(preparing.result().result(), window, (height, width))


def in_whole(agreement: Agreement, region: Region, shape: Sequence[int]) -> Agreement:
    """Return the agreement of a part, (height, width) px, as one of the whole query picture."""

    def whole(part: Region) -> Region:
        return Region(
            region.left + part.left * region.width,
            region.top + part.top * region.height,
            part.width * region.width,
            part.height * region.height,
        )

    matches = tuple(
        replace(match, query_region=whole(match.query_region)) for match in agreement.matches
    )
    rows, columns = heat_shape(shape[0] / region.height, shape[1] / region.width)
    heat: Heat = np.zeros((rows, columns), np.float32)
    down = ((np.arange(rows) + 0.5) / rows - region.top) / region.height
    right = ((np.arange(columns) + 0.5) / columns - region.left) / region.width
    inner = agreement.query_map
    in_rows, in_columns = (down >= 0) & (down < 1), (right >= 0) & (right < 1)
    from_rows = (down[in_rows] * inner.shape[0]).astype(int)
    from_columns = (right[in_columns] * inner.shape[1]).astype(int)
    heat[np.ix_(in_rows, in_columns)] = inner[np.ix_(from_rows, from_columns)]
    return Agreement(matches, heat, agreement.item_map)


def _model_with_patches(collection: Collection) -> LoadedModel | None:
    """Return the collection's model if it has patches to tell."""
    try:
        model = collection.model()
    except LookalikeError:  # brought vectors, or no such model any more: pixels can be compared
        return None
    return model if model.knows_patches else None


def _picture_of(collection: Collection, item: Item, field: str) -> Callable[[], bytes]:
    """Return what reads the best picture that is kept. Raises ImageNotRetained."""
    image = item.image
    if image is None or not (image.has_original or image.has_thumbnail):
        raise ImageNotRetained(
            f"No picture of {item.id!r} is kept, so none can be compared. Keep thumbnails or "
            "originals in the collection.",
            field=field,
            id=item.id,
        )
    return lambda: collection.image(item.id, image.has_original).data


def _score(collection: Collection, vector: Vector, item: Item) -> float:
    """Return what a search says of the item."""
    only = np.array([item.key], np.int64)
    exactly = SearchParams(exact=True)
    hits = collection.engine.search(vector[np.newaxis], 1, allowed=only, params=exactly)
    if not hits.ids.size or hits.ids[0, 0] != item.key:
        raise ItemNotFound(
            f"The item {item.id!r} was changed or deleted meanwhile; ask again.", id=item.id
        )
    return float(hits.scores[0, 0])
