"""FindDuplicates: progress and groups as they come."""

from __future__ import annotations

from collections.abc import Iterator

import grpc

from lookalike.backends.errors import InvalidArgument
from lookalike.server.domain import View
from lookalike.server.duplicates import Found, Kind, Member
from lookalike.server.limits import Limits
from lookalike.server.rpc.ports import Duplicates
from lookalike.server.rpc.wire import read_name
from lookalike.server.rpc.wire_filters import read_filter
from lookalike.server.rpc.wire_items import write_item
from lookalike.v1 import search_service_pb2 as pb

_KINDS = {
    pb.DUPLICATE_KIND_UNSPECIFIED: Kind.SAME_PICTURE,
    pb.DUPLICATE_KIND_EXACT: Kind.EXACT,
    pb.DUPLICATE_KIND_SAME_PICTURE: Kind.SAME_PICTURE,
    pb.DUPLICATE_KIND_NEAR: Kind.NEAR,
}
_WIRE_KINDS = {
    None: pb.DUPLICATE_KIND_UNSPECIFIED,
    Kind.EXACT: pb.DUPLICATE_KIND_EXACT,
    Kind.SAME_PICTURE: pb.DUPLICATE_KIND_SAME_PICTURE,
    Kind.NEAR: pb.DUPLICATE_KIND_NEAR,
}


def find_duplicates(
    duplicates: Duplicates,
    request: pb.FindDuplicatesRequest,
    limits: Limits,
    context: grpc.ServicerContext,
) -> Iterator[pb.FindDuplicatesResponse]:
    """Send what is found until all is, or the caller is gone.

    Raises InvalidArgument, FilterInvalid, CollectionNotFound, CollectionLoading.
    """
    name = read_name(request.collection, "collection")
    if (kind := _KINDS.get(request.kind)) is None:
        raise InvalidArgument(f"{request.kind} is no kind of duplicates.", field="kind")
    for found in duplicates.find(name, kind, read_filter(request.filter, limits)):
        if not context.is_active():
            return
        yield _write(found)


def _write(found: Found) -> pb.FindDuplicatesResponse:
    response = pb.FindDuplicatesResponse(done_count=found.done, total_count=found.total)
    if found.members:
        response.group.members.extend(_write_member(member) for member in found.members)
    return response


def _write_member(member: Member) -> pb.DuplicateMember:
    item = write_item(member.item, View.BASIC)
    return pb.DuplicateMember(
        id=item.id,
        kind=_WIRE_KINDS[member.kind],
        score=member.score,
        image=item.image if item.HasField("image") else None,
    )
