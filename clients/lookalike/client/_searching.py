"""The client's questions: searches, reasons, duplicates, facets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from numpy.typing import ArrayLike

from lookalike.client import _answer_calls as calls
from lookalike.client import _answers as answers
from lookalike.client import _recall as recalls
from lookalike.client._answer_calls import Kind, Part, Query, RegionLike
from lookalike.client._answer_wire import batch_result, duplicate_group
from lookalike.client._calls import Condition, View
from lookalike.client._pictures import Picture
from lookalike.client._transport import Transport
from lookalike.client.errors import LookalikeError


class Searching(Transport):
    """What `Client` asks SearchService. Any thread."""

    def search(
        self,
        *,
        image: Picture | None = None,
        text: str | None = None,
        like: str | None = None,
        vector: ArrayLike | None = None,
        parts: Sequence[Part] = (),
        region: RegionLike | None = None,
        where: Condition = None,
        k: int = 10,
        min_score: float | None = None,
        max_false_match_rate: float | None = None,
        judge: bool = False,
        diversity: float = 0.0,
        group_by: str = "",
        group_limit: int = 0,
        fold_duplicates: bool = False,
        view: View = "basic",
        exact: bool = False,
        ef_search: int = 0,
        nprobe: int = 0,
        collection: str = "",
    ) -> answers.SearchResult:
        """Find the `k` items most like a picture, a text, an item (`like`) or a vector.

        `parts`: several of these at once, with weights. `region`: only that part of the
        query's picture. `max_false_match_rate`: only hits that at most this share of
        unrelated pictures would match as well, 0.01 for one in a hundred. `judge`: say of
        each hit what it is worth (`tier`, `false_match_rate`). `diversity`: 0 to 1, variety
        against likeness. `group_by`: at most `group_limit` (0: one) hits with the same value
        of this metadata field. `fold_duplicates`: near-duplicates of a hit join it.
        """
        query = Query(
            image=image,
            text=text,
            like=like,
            vector=vector,
            parts=parts,
            region=region,
            where=where,
            k=k,
            min_score=min_score,
            max_false_match_rate=max_false_match_rate,
            judge=judge,
            diversity=diversity,
            group_by=group_by,
            group_limit=group_limit,
            fold_duplicates=fold_duplicates,
            view=view,
            exact=exact,
            ef_search=ef_search,
            nprobe=nprobe,
            collection=collection,
        )
        return self._call(calls.search(query))

    def search_batch(
        self, queries: Iterable[Query], *, collection: str = ""
    ) -> tuple[answers.SearchResult | LookalikeError, ...]:
        """Answer many queries; one that fails has its error in its place."""
        found = map(self._call, calls.search_batch(tuple(queries), collection))
        return tuple(one for answer in found for one in answer)

    def search_stream(
        self, queries: Iterable[Query], *, collection: str = ""
    ) -> Iterator[answers.SearchResult | LookalikeError]:
        """Answer queries as they come, in their order; one that fails has its error.

        Cheaper than `search` for one query after the other: the call is made once.
        `queries` is read ahead, on another thread.
        """
        for answer in self._stream(calls.search_stream(queries, collection), None):
            yield batch_result(answer.result)

    def explain(
        self,
        item_id: str,
        *,
        image: Picture | None = None,
        like: str | None = None,
        text: str | None = None,
        region: RegionLike | None = None,
        collection: str = "",
    ) -> answers.Explanation:
        """Say which regions of an item's picture agree with those of a picture or an item.

        Or where in it a text is: the model must be a CLIP, and all is relative to the
        place that fits best.
        """
        return self._call(calls.explain(item_id, image, like, text, region, collection))

    def find_duplicates(
        self,
        *,
        kind: Kind = "same_picture",
        where: Condition = None,
        progress: Callable[[answers.DuplicateProgress], None] | None = None,
        collection: str = "",
    ) -> Iterator[answers.DuplicateGroup]:
        """Iterate over the groups of items that show the same, over a whole collection.

        `kind`: "exact" (the same file), "same_picture" (cropped, resized, re-encoded or
        written on) or "near" (by their vectors alone); each includes those before it.
        `progress` is called on the thread that iterates. Nothing is changed.
        """
        call = calls.find_duplicates(kind, where, collection)
        for answer in self._stream(call, None):
            if progress is not None and answer.total_count:
                progress(answers.DuplicateProgress(answer.done_count, answer.total_count))
            if answer.HasField("group"):
                yield duplicate_group(answer.group)

    def count_values(
        self,
        fields: Sequence[str] = (),
        *,
        where: Condition = None,
        limit: int = 0,
        collection: str = "",
    ) -> tuple[answers.FieldCounts, ...]:
        """Count the values of metadata fields, the most frequent first.

        Without `fields` it is those that have few different values. At most `limit` values
        of each; 0 means 20.
        """
        return self._call(calls.count_values(fields, where, limit, collection))

    def measure_recall(
        self,
        collection: str = "",
        *,
        query_count: int = 256,
        k: int = 10,
        queries: recalls.Source = "both",
        ef_search: int = 0,
        nprobe: int = 0,
        seed: int = 0,
        timeout_s: float | None = None,
    ) -> recalls.RecallReport:
        """Measure how much of the truth searches find, by comparing with every item.

        `queries`: "stored" asks vectors of stored items, drawn by `seed`, "recent" those that
        were searched for lately, "both" half of each. `ef_search` and `nprobe` are tried out
        where they are given. `timeout_s`: more than for other calls, if need be.
        """
        call = recalls.measure(
            collection, query_count, k, queries, ef_search=ef_search, nprobe=nprobe, seed=seed
        )
        return self._call(call, timeout_s)
