"""Arguments to requests, answers to values: every call of the API, without doing it.

A `Call` names the method, holds the request and knows how to read the answer. Who
does the calling (`_sync.Client`) adds nothing but the transport, so that a client of
another kind shares all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from lookalike.client import _results as results
from lookalike.client import _wire as wire
from lookalike.client._json import to_struct
from lookalike.client._pictures import Picture, picture_bytes
from lookalike.client._vectors import length_delimited, vector_array, vector_bytes, vector_message
from lookalike.client.errors import (
    InputsEmpty,
    InvalidArgument,
    ModelMismatch,
)
from lookalike.client.filters import Where, compile_filter
from lookalike.v1 import (
    embed_service_pb2,
    index_service_pb2,
    system_service_pb2,
    types_pb2,
)

T = TypeVar("T")
View: TypeAlias = Literal["id", "basic", "full"]
"""How much of each item: its id alone, everything but the vector, everything."""
Mode: TypeAlias = Literal["upsert", "skip_existing", "create_only"]
"""What to do with ids that are there: replace, leave alone, fail."""
Exif: TypeAlias = Literal["none", "basic", "with_position"]
"""What to take over from EXIF data: nothing; time, camera and size; the position too."""
Condition: TypeAlias = Where | str | None
"""`F.price < 100`, "price < 100", or None for everything."""

MAX_BATCH = 256
"""Items, inputs and queries of one unary request."""
MAX_BATCH_BYTES = 16 * 2**20
"""Where we cut batches, well under the 64 MiB that one message may have."""
MAX_DELETE_IDS = 1000


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call: `service` and `method` as in the protos, and how to read the answer."""

    service: str
    method: str
    request: Any
    parse: Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class StoredItem:
    """What a server worked out about an item, as an export has it."""

    image: results.ImageInfo | None = None
    """Of the picture, for an item that comes without it."""
    thumbnail: bytes = b""
    digest: bytes = b""
    """What the very same item is told by; 64 bytes, or empty."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to store. At least one of `image` and `vector` is needed."""

    id: str = ""
    """Empty: the server makes one from the picture's SHA-256."""
    image: Picture | None = None
    vector: ArrayLike | None = None
    """To use instead of the model's own."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    stored: StoredItem | None = None
    """Only with `vector`: to be taken over instead of being worked out anew."""


def view_value(view: str) -> Any:
    """Return the wire's word for how much of each item."""
    return wire.enum_value(types_pb2.ItemView, view, "ITEM_VIEW_", "view")


def mode_value(mode: str) -> Any:
    """Return the wire's word for what to do with ids that are there."""
    return wire.enum_value(index_service_pb2.WriteMode, mode, "WRITE_MODE_", "mode")


def exif_value(exif: str) -> Any:
    """Return the wire's word for what to take over from EXIF data."""
    return wire.enum_value(index_service_pb2.ExifMode, exif, "EXIF_MODE_", "exif")


def cut(messages: Iterator[Any]) -> Iterator[list[Any]]:
    """Cut messages into lists of at most MAX_BATCH and, if several, MAX_BATCH_BYTES."""
    batch: list[Any] = []
    size = 0
    for message in messages:
        more = message.ByteSize()
        if batch and (len(batch) == MAX_BATCH or size + more > MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += more
    if batch:
        yield batch


# ----------------------------------------------------------------- embed


def embed(
    images: Sequence[Picture] | None,
    texts: Sequence[str] | None,
    model: str,
    normalize: bool,
) -> Iterator[Call[embed_service_pb2.EmbedResponse]]:
    """Give the calls for any number of inputs, the pictures first."""
    if isinstance(images, (str, bytes)) or isinstance(texts, str):
        raise TypeError("embed takes lists: images=[...], texts=[...].")
    if not images and not texts:
        raise InputsEmpty("There is nothing to embed; pass images=[...] or texts=[...].")
    for batch in cut(_embed_inputs(images or (), texts or ())):
        request = embed_service_pb2.EmbedRequest(
            model=model, inputs=batch, unnormalized=not normalize
        )
        yield Call("EmbedService", "Embed", request, _same)


def _embed_inputs(
    images: Sequence[Picture], texts: Sequence[str]
) -> Iterator[embed_service_pb2.EmbedInput]:
    for picture in images:
        image = types_pb2.Image(data=picture_bytes(picture))
        yield embed_service_pb2.EmbedInput(image=image)
    for text in texts:
        yield embed_service_pb2.EmbedInput(text=text)


def embeddings(
    answers: Sequence[embed_service_pb2.EmbedResponse], strict: bool
) -> results.Embeddings:
    """Put the answers of one `embed` together.

    Raises:
        LookalikeError: with `strict`, that of the first input that failed.
        ModelMismatch: the server changed its model between the answers.
    """
    if len({answer.model.fingerprint for answer in answers}) > 1:
        raise ModelMismatch("The server changed its model meanwhile; embed all of them again.")
    model = wire.model(answers[0].model)
    all_results = [one for answer in answers for one in answer.results]
    errors = {
        i: wire.error_of(one.error) for i, one in enumerate(all_results) if one.HasField("error")
    }
    if strict and errors:
        raise next(iter(errors.values()))
    vectors = {i: vector_array(r.vector) for i, r in enumerate(all_results) if i not in errors}
    dimension = next(map(len, vectors.values()), model.dimension)
    matrix = np.full((len(all_results), dimension), np.nan, dtype=np.float32)
    for i, vector in vectors.items():
        matrix[i] = vector
    return results.Embeddings(matrix, model, errors, tuple(r.truncated for r in all_results))


def models(page_token: str) -> Call[embed_service_pb2.ListModelsResponse]:
    request = embed_service_pb2.ListModelsRequest(page_token=page_token)
    return Call("EmbedService", "ListModels", request, _same)


# ----------------------------------------------------------------- items


def item_message(item: NewItem) -> index_service_pb2.ItemInput:
    """Make the message of an item, its picture included."""
    message = item_frame(item)
    if item.image is not None:
        message.image.data = picture_bytes(item.image)
    return message


def item_frame(item: NewItem) -> index_service_pb2.ItemInput:
    """Make the message of an item without its picture."""
    message = index_service_pb2.ItemInput(id=item.id)
    if item.vector is not None:
        message.vector.CopyFrom(vector_message(item.vector))
    if item.metadata:
        message.metadata.CopyFrom(to_struct(item.metadata))
    if item.stored is not None:
        message.stored.CopyFrom(_stored_message(item.stored, item.image is None))
    return message


def item_bytes(item: NewItem) -> bytes:
    """Return the message of an item without its picture as it goes over the wire.

    That of a bare vector is put together here: 4 us instead of 12 (512 numbers).
    """
    bare = item.image is None and item.stored is None and isinstance(item.id, str)
    if item.vector is None or not bare:
        return item_frame(item).SerializeToString()
    parts = [
        length_delimited(index_service_pb2.ItemInput.ID_FIELD_NUMBER, item.id.encode()),
        length_delimited(
            index_service_pb2.ItemInput.VECTOR_FIELD_NUMBER, vector_bytes(item.vector)
        ),
    ]
    if item.metadata:
        metadata = to_struct(item.metadata).SerializeToString()
        parts.append(length_delimited(index_service_pb2.ItemInput.METADATA_FIELD_NUMBER, metadata))
    return b"".join(parts)


def _stored_message(stored: StoredItem, alone: bool) -> index_service_pb2.StoredItem:
    """Make the message of what is taken over; the picture itself says more than its like."""
    message = index_service_pb2.StoredItem(digest=stored.digest)
    if alone and (image := stored.image) is not None:
        message.thumbnail = stored.thumbnail
        message.image.CopyFrom(
            types_pb2.ImageInfo(
                width=image.width,
                height=image.height,
                media_type=image.media_type,
                size_bytes=image.size_bytes,
                sha256=image.sha256,
            )
        )
    return message


def upsert(
    items: Sequence[NewItem], collection: str, mode: Mode, exif: Exif
) -> Iterator[Call[tuple[results.WriteResult, ...]]]:
    """Give the calls for any number of items, cut by count and bytes."""
    for batch in cut(map(item_message, items)):
        request = index_service_pb2.UpsertItemsRequest(
            collection=collection,
            items=batch,
            write_mode=mode_value(mode),
            exif=exif_value(exif),
        )
        yield Call(
            "IndexService",
            "UpsertItems",
            request,
            lambda answer: tuple(map(wire.write_result, answer.results)),
        )


def get(item_id: str, view: View, collection: str) -> Call[results.Item]:
    request = index_service_pb2.GetItemRequest(
        collection=collection, id=item_id, view=view_value(view)
    )
    return Call("IndexService", "GetItem", request, lambda answer: wire.item(answer.item))


def list_page(
    where: Condition, view: View, page_size: int, page_token: str, collection: str
) -> Call[index_service_pb2.ListItemsResponse]:
    request = index_service_pb2.ListItemsRequest(
        collection=collection,
        filter=compile_filter(where),
        page_size=page_size,
        page_token=page_token,
        view=view_value(view),
    )
    return Call("IndexService", "ListItems", request, _same)


def count(where: Condition, collection: str) -> Call[int]:
    request = index_service_pb2.CountItemsRequest(
        collection=collection, filter=compile_filter(where)
    )
    return Call("IndexService", "CountItems", request, lambda answer: int(answer.count))


def update_metadata(
    item_id: str, metadata: Mapping[str, Any], replace: bool, collection: str
) -> Call[results.Item]:
    request = index_service_pb2.UpdateItemMetadataRequest(
        collection=collection, id=item_id, metadata=to_struct(metadata), replace=replace
    )
    return Call("IndexService", "UpdateItemMetadata", request, lambda a: wire.item(a.item))


def delete(
    ids: Sequence[str] | None, where: Condition, dry_run: bool, collection: str
) -> Iterator[Call[int]]:
    """Give the calls that delete any number of ids, or what passes a condition.

    Raises:
        InvalidArgument: both or neither of ids and a condition.
    """
    if isinstance(ids, str):
        raise TypeError("delete takes a list of ids.")
    if (ids is None) == (where is None):
        raise InvalidArgument("Say what to delete: either ids or a condition (where).")
    batches: list[Sequence[str]] = [()]
    if ids is not None:
        batches = [ids[i : i + MAX_DELETE_IDS] for i in range(0, len(ids), MAX_DELETE_IDS)]
    for batch in batches:
        request = index_service_pb2.DeleteItemsRequest(
            collection=collection, ids=batch, dry_run=dry_run
        )
        if where is not None:
            request.filter.CopyFrom(compile_filter(where))
        yield Call("IndexService", "DeleteItems", request, lambda a: int(a.deleted_count))


def image(
    item_id: str, original: bool, collection: str
) -> Call[index_service_pb2.GetItemImageResponse]:
    request = index_service_pb2.GetItemImageRequest(
        collection=collection, id=item_id, original=original
    )
    return Call("IndexService", "GetItemImage", request, _same)


def joined_image(
    pieces: Iterator[index_service_pb2.GetItemImageResponse],
) -> results.ItemImage:
    """Put the pieces of a picture together."""
    media_type, data = "", bytearray()
    for piece in pieces:
        media_type = media_type or piece.media_type
        data += piece.data
    return results.ItemImage(bytes(data), media_type)


# ------------------------------------------------------ the server


def info() -> Call[results.ServerInfo]:
    request = system_service_pb2.GetServerInfoRequest()
    return Call("SystemService", "GetServerInfo", request, wire.server_info)


def _same(answer: Any) -> Any:
    return answer
