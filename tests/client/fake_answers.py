"""What the fake server answers to the questions of SearchService but Search itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import struct_pb2

from lookalike.v1 import index_service_pb2, types_pb2
from lookalike.v1 import search_service_pb2 as pb

TIERS = (
    pb.MATCH_TIER_SAME_PICTURE,
    pb.MATCH_TIER_SAME_SCENE,
    pb.MATCH_TIER_SIMILAR,
    pb.MATCH_TIER_WEAK,
    99,
)


class FakeAnswers:
    """Canned answers; `groups` are what FindDuplicates sends, as (id, kind) of members."""

    groups: list[list[tuple[str, int]]]
    breaks_after_groups = -1

    def _maybe_fail(self, request: Any, context: Any) -> None:
        raise NotImplementedError

    def judge(self, request: Any, hits: list[Any]) -> None:
        """Judge the hits by their rank, from the same picture to a tier of the future."""
        for rank, hit in enumerate(hits):
            if request.judge and not request.parts and request.WhichOneof("query") != "text":
                hit.tier = TIERS[min(rank, 4)]
                hit.false_match_rate = 10.0 ** (rank - 4)
            if request.fold_duplicates and rank == 0:
                hit.duplicate_count = 2
                hit.duplicate_ids.extend(["copy-1", "copy-2"])

    def Explain(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        box = types_pb2.Region(left=0.5, top=0.25, width=0.5, height=0.5)
        match = pb.RegionMatch(query_region=box, strength=0.75)
        return pb.ExplainResponse(
            score=0.5,
            tier=pb.MATCH_TIER_SAME_SCENE,
            matches=[match] if request.item_id != "plain" else [],
            query_map=pb.HeatMap(columns=3, rows=2, values=[0, 0.25, 0.5, 0.75, 1, 0]),
            item_map=pb.HeatMap(columns=1, rows=1, values=[1]),
        )

    def FindDuplicates(self, request: Any, context: Any) -> Iterator[Any]:
        self._maybe_fail(request, context)
        total = max(1, len(self.groups))
        for done, members in enumerate(self.groups):
            if done == self.breaks_after_groups:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            yield pb.FindDuplicatesResponse(done_count=done, total_count=total)
            image = types_pb2.ImageInfo(width=40, height=30, size_bytes=2048)
            group = pb.DuplicateGroup(
                members=[
                    pb.DuplicateMember(id=i, kind=kind, score=0.9, image=image)  # type: ignore[arg-type]
                    for i, kind in members
                ]
            )
            yield pb.FindDuplicatesResponse(group=group)
        yield pb.FindDuplicatesResponse(done_count=total, total_count=total)

    def MeasureRecall(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        settings = struct_pb2.Struct()
        settings.update({"kind": "HNSW", "ef_search": 16})
        found = pb.MeasureRecallResponse(
            target_recall=0.99,
            params=request.params,
            segments=[index_service_pb2.IndexSegment(backend="faiss", settings=settings, count=9)],
            item_count=9 if request.collection != "empty" else 0,
        )
        if request.collection == "empty":
            return found
        recall = 0.95 if request.params.ef_search < 64 else 0.995
        found.estimate.CopyFrom(
            types_pb2.RecallEstimate(
                recall=recall, low=recall - 0.004, high=recall + 0.003, limit=10, query_count=256
            )
        )
        found.estimate.measure_time.FromSeconds(1_700_000_000)
        found.self_match.CopyFrom(pb.SelfMatch(rate=1, low=0.97, high=1, query_count=128))
        found.stored_query_count = found.recent_query_count = 128
        found.index_times.CopyFrom(pb.SearchTimes(mean_ms=0.25, p99_ms=0.5, count=256))
        found.exact_times.CopyFrom(pb.SearchTimes(mean_ms=9, p99_ms=11, count=20))
        return found

    def CountValues(self, request: Any, context: Any) -> Any:
        self._maybe_fail(request, context)
        return pb.CountValuesResponse(
            fields=[
                pb.FieldCounts(
                    field=name,
                    item_count=3,
                    values=[
                        pb.ValueCount(value=struct_pb2.Value(string_value="red"), count=2),
                        pb.ValueCount(value=struct_pb2.Value(number_value=7), count=1),
                        pb.ValueCount(value=struct_pb2.Value(bool_value=True), count=1),
                    ],
                )
                for name in request.fields or (["colour"] if not request.HasField("filter") else [])
            ]
        )
