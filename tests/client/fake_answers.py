"""What the fake server answers to the questions of SearchService but Search itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import struct_pb2

from lookalike.v1 import search_service_pb2 as pb
from lookalike.v1 import types_pb2

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
