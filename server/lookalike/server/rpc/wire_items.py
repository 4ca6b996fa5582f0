"""Items between the wire and the domain: what owners give, what is stored, what became of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lookalike.backends.errors import (
    IdMissing,
    ImageTooLarge,
    ImageUndecodable,
    InvalidArgument,
    LookalikeError,
)
from lookalike.server.domain import (
    ImageRecord,
    Item,
    NewItem,
    StoredParts,
    Vector,
    View,
    WriteResult,
)
from lookalike.server.limits import Limits, check_id, check_image_bytes, is_plain_id
from lookalike.server.rpc.status import in_band
from lookalike.server.rpc.wire import fill_json, fill_time, read_metadata
from lookalike.server.rpc.wire_vectors import read_vector, read_vectors, write_vector
from lookalike.v1 import index_service_pb2, types_pb2

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]{1,32}")
_DIGEST_BYTES = 64
_MOST_THUMBNAIL_BYTES = 256 * 2**10
"""Several times what a JPEG of 256 x 256 pixels ever has."""
OUTCOMES = {
    "created": index_service_pb2.WRITE_OUTCOME_CREATED,
    "updated": index_service_pb2.WRITE_OUTCOME_UPDATED,
    "unchanged": index_service_pb2.WRITE_OUTCOME_UNCHANGED,
    "skipped": index_service_pb2.WRITE_OUTCOME_SKIPPED,
    "failed": index_service_pb2.WRITE_OUTCOME_FAILED,
}
"""By value: to hash a member of an enum takes 0.5 us."""


def read_item(
    message: index_service_pb2.ItemInput, limits: Limits, at: str, *, chunked: bool = False
) -> NewItem:
    """Return an item whose every part was checked; `chunked`: its image comes later.

    Raises IdMissing, IdInvalid, ImageUndecodable, ImageTooLarge, DimensionMismatch,
    VectorNotFinite, MetadataTooLarge, InvalidArgument, with the field's path.
    """
    has_image = message.HasField("image")
    if chunked and has_image:
        raise InvalidArgument(
            "A chunked item's image comes in chunks; leave `image` out.", field=f"{at}.image"
        )
    if message.id:
        check_id(message.id, limits, f"{at}.id")
    elif not (has_image or chunked):
        raise IdMissing("An item without an image needs an id.", field=f"{at}.id")
    has_vector = message.HasField("vector")
    if not (has_image or has_vector or chunked):
        raise InvalidArgument("An item needs an image, a vector, or both.", field=at)
    has_stored = message.HasField("stored")
    if has_stored and not has_vector:
        raise InvalidArgument("`stored` needs the vector, too.", field=f"{at}.stored")
    return NewItem(
        id=message.id,
        image=read_image(message.image, limits, f"{at}.image") if has_image else None,
        vector=read_vector(message.vector, limits, f"{at}.vector") if has_vector else None,
        metadata=read_metadata(message.metadata, limits, f"{at}.metadata"),
        stored=_read_stored(message.stored, f"{at}.stored") if has_stored else None,
    )


def read_items(
    messages: Sequence[index_service_pb2.ItemInput], limits: Limits, at: Callable[[int], str]
) -> list[NewItem | LookalikeError]:
    """Return what `read_item` does for each, or what is wrong; `at(i)` is the path of one."""
    bare = [i for i, message in enumerate(messages) if _is_bare(message)]
    vectors = iter(
        read_vectors([messages[i].vector for i in bare], limits, lambda j: f"{at(bare[j])}.vector")
    )
    found: list[NewItem | LookalikeError] = []
    expected = iter([*bare, -1])
    following = next(expected)
    for i, message in enumerate(messages):
        try:
            if i != following:
                found.append(read_item(message, limits, at(i)))
                continue
            following = next(expected)
            vector = next(vectors)
            found.append(_read_bare(message, vector, limits, at, i))
        except LookalikeError as error:
            found.append(error)
    return found


def _is_bare(message: index_service_pb2.ItemInput) -> bool:
    return (
        message.HasField("vector")
        and not message.HasField("image")
        and not message.HasField("stored")
    )


def _read_bare(
    message: index_service_pb2.ItemInput,
    vector: Vector | LookalikeError,
    limits: Limits,
    at: Callable[[int], str],
    i: int,
) -> NewItem:
    item_id = message.id
    if not is_plain_id(item_id, limits):
        check_id(item_id, limits, f"{at(i)}.id")
    if isinstance(vector, LookalikeError):
        raise vector
    if not message.HasField("metadata"):
        return NewItem(item_id, None, vector, {})
    return NewItem(
        item_id, None, vector, read_metadata(message.metadata, limits, f"{at(i)}.metadata")
    )


def _read_stored(message: index_service_pb2.StoredItem, at: str) -> StoredParts:
    digest, thumbnail = message.digest, message.thumbnail
    if digest and len(digest) != _DIGEST_BYTES:
        raise InvalidArgument(f"A digest has {_DIGEST_BYTES} bytes.", field=f"{at}.digest")
    if len(thumbnail) > _MOST_THUMBNAIL_BYTES:
        raise ImageTooLarge(
            f"The thumbnail has {len(thumbnail)} bytes; {_MOST_THUMBNAIL_BYTES} is the most.",
            field=f"{at}.thumbnail",
        )
    image = None
    if message.HasField("image"):
        image = _read_image_info(message.image, f"{at}.image")
    elif thumbnail:
        raise InvalidArgument("A thumbnail needs `image` beside it.", field=f"{at}.image")
    return StoredParts(image, thumbnail or None, digest)


def _read_image_info(message: types_pb2.ImageInfo, at: str) -> ImageRecord:
    sha256 = read_sha256(message.sha256, f"{at}.sha256")
    if not sha256 or not _MEDIA_TYPE.fullmatch(message.media_type):
        raise InvalidArgument("What is known about the picture is not complete.", field=at)
    if min(message.width, message.height, message.size_bytes) <= 0:
        raise InvalidArgument("A picture's sizes are above 0.", field=at)
    return ImageRecord(
        width=message.width,
        height=message.height,
        media_type=message.media_type,
        size_bytes=message.size_bytes,
        sha256=sha256,
        has_thumbnail=False,
        has_original=False,
    )


def read_image(message: types_pb2.Image, limits: Limits, at: str) -> bytes:
    """Return an image file's bytes. Raises InvalidArgument, ImageUndecodable, ImageTooLarge."""
    if message.WhichOneof("source") is None:
        raise InvalidArgument("The image has no source; set `data`.", field=at)
    data = message.data  # each look at it makes a copy
    if not data:
        raise ImageUndecodable("The image file is empty.", field=f"{at}.data")
    check_image_bytes(len(data), limits, f"{at}.data")
    return data


def read_sha256(text: str, field: str) -> str:
    """Return a SHA-256 in lower case, or "" if none was given. Raises InvalidArgument."""
    if text and not _SHA256.fullmatch(text):
        raise InvalidArgument("A SHA-256 has 64 hex digits.", field=field)
    return text.lower()


def read_item_id(item_id: str, limits: Limits, field: str) -> str:
    """Return the id of an item that should be there. Raises IdMissing, IdInvalid."""
    check_id(item_id, limits, field)
    return item_id


def short_id(item_id: str, limits: Limits) -> str:
    """Return the beginning of an id that may be far too long, to say which item failed."""
    return item_id.encode()[: limits.max_id_bytes].decode("utf-8", "ignore")


def write_item(item: Item, view: View) -> types_pb2.Item:
    """Return a stored item with what the view shows."""
    message = types_pb2.Item()
    fill_item(message, item, view)
    return message


def fill_item(message: types_pb2.Item, item: Item, view: View) -> None:
    """Fill in what the view shows of a stored item."""
    message.id = item.id
    if view is View.ID:
        return
    fill_json(message.metadata, item.metadata)
    if item.image is not None:
        message.image.CopyFrom(_write_image(item.image))
    if item.vector is not None and view is View.FULL:
        message.vector.CopyFrom(write_vector(item.vector))
    fill_time(message.create_time, item.create_time)
    fill_time(message.update_time, item.update_time)


def _write_image(image: ImageRecord) -> types_pb2.ImageInfo:
    return types_pb2.ImageInfo(
        width=image.width,
        height=image.height,
        media_type=image.media_type,
        size_bytes=image.size_bytes,
        sha256=image.sha256,
        has_thumbnail=image.has_thumbnail,
        has_original=image.has_original,
    )


def write_result(result: WriteResult, at: str = "") -> index_service_pb2.WriteResult:
    """Return what became of the item at `at` ("items[3]")."""
    return index_service_pb2.WriteResult(
        id=result.id,
        outcome=OUTCOMES[result.outcome._value_],
        error=None if result.error is None else in_band(result.error, at),
    )
