"""Rows of the database and the values they stand for, with their checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np

from lookalike.backends.errors import DataLoss, InvalidArgument
from lookalike.server.domain import ImageRecord, Item, Json, ReadyItem, Vector, View

Row: TypeAlias = tuple[Any, ...]
"""One row of a SELECT of COLUMNS, or of FULL_COLUMNS."""

# Texts are read as bytes: damage can make them invalid UTF-8, which the checksum
# is to find before anything tries to decode them.
COLUMNS = (
    "i.key, i.collection, i.first_key, CAST(i.id AS BLOB), CAST(i.metadata AS BLOB), i.digest, "
    "i.width, i.height, CAST(i.media_type AS BLOB), i.size_bytes, i.sha256, i.kept, "
    "i.create_us, i.update_us, i.seq, i.crc"
)
FULL_COLUMNS = COLUMNS + ", v.vector, v.crc"
VECTOR_JOIN = "LEFT JOIN vectors AS v ON v.key = i.key"

THUMBNAIL, ORIGINAL = 1, 2
"""Bits of the column `kept`."""

# Numbers are floats to all who read metadata, also those written as integers.
_DECODER = json.JSONDecoder(parse_int=float)
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


class Meta(NamedTuple):
    """The one row about the store itself."""

    uuid: str
    create_us: int
    seq: int
    next_key: int

    def crc(self) -> int:
        """Return the checksum over all columns."""
        return crc32(f"{self.uuid} {self.create_us} {self.seq} {self.next_key}".encode())


def micros(seconds: float) -> int:
    """Return a time as the store keeps it."""
    return max(0, round(seconds * 1e6))


def vector_bytes(vector: Vector) -> bytes:
    """Return the vector as the store keeps it: little-endian float32."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def vector_crc(key: int, vector: bytes | memoryview) -> int:
    """Return the checksum of a vector; it starts from the key, so that swaps are found."""
    return crc32(vector, key & 0xFFFFFFFF)


def image_crc(key: int, media_type: bytes, data: bytes) -> int:
    """Return the checksum of a kept picture."""
    return crc32(data, crc32(media_type, key & 0xFFFFFFFF))


def encode_metadata(metadata: Json) -> str:
    """Return canonical JSON: equal metadata, equal text. Raises InvalidArgument."""
    if not metadata:
        return "{}"
    try:
        text = _ENCODER.encode(dict(metadata))
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            "The metadata is not JSON: it may hold finite numbers, strings, booleans, null, "
            "lists and objects.",
            field="metadata",
        ) from error
    # SQLite takes the end of a key for where its first NUL is.
    if "\\u0000" in text and _has_nul_key(metadata):
        raise InvalidArgument("A metadata key has a NUL character; remove it.", field="metadata")
    return text


def _has_nul_key(value: object) -> bool:
    if isinstance(value, Mapping):
        return any("\0" in key or _has_nul_key(inner) for key, inner in value.items())
    return isinstance(value, list | tuple) and any(_has_nul_key(inner) for inner in value)


def decode_metadata(text: bytes) -> Json:
    """Read what encode_metadata wrote."""
    value: Mapping[str, object] = _DECODER.decode(text.decode("utf-8"))
    return value


def row_crc(row: Sequence[Any]) -> int:
    """Return the checksum over the columns of COLUMNS before the last.

    Raises TypeError if damage has changed the type of a column.
    """
    key, number, first_key, item_id, metadata, digest, width, height, media, size, sha256 = row[:11]
    kept, create_us, update_us, seq = row[11:15]
    numbers = (
        f"{key} {number} {first_key} {width} {height} {size} {kept} {create_us} {update_us} {seq}"
    )
    parts = (numbers.encode(), item_id, metadata, digest, media or b"", sha256 or b"")
    return crc32(b"\x1f".join(parts))


_NUMBERS = [
    "key",
    "collection",
    "first_key",
    "width",
    "height",
    "size_bytes",
    "kept",
    "create_us",
    "update_us",
    "seq",
]
SUMMED = " || ' ' || ".join(f"ifnull(i.{name}, 'None')" for name in _NUMBERS) + "".join(
    f" || x'1f' || {column}"
    for column in (
        "i.id",
        "i.metadata",
        "i.digest",
        "ifnull(i.media_type, '')",
        "ifnull(i.sha256, '')",
    )
)
"""What `row_crc` makes its checksum of, put together by SQLite: a row is then compared in
2 us, not in 6. It does not see when a BLOB has become a text of the same bytes."""


def is_sound(row: Sequence[Any]) -> bool:
    """Compare a row of COLUMNS or FULL_COLUMNS with its checksums."""
    try:
        if row_crc(row) != row[15]:
            return False
        return len(row) == 16 or vector_crc(row[0], row[16]) == row[17]
    except TypeError:
        return False


def name_of(row: Sequence[Any]) -> tuple[str]:
    """Return the id in a row of COLUMNS that may be damaged, as far as it can be read."""
    item_id = row[3]
    return (item_id.decode("utf-8", "replace") if isinstance(item_id, bytes) else "",)


def to_item(row: Row, view: View) -> Item:
    """Make the item of a sound row; `view` FULL needs FULL_COLUMNS."""
    item_id = row[3].decode("utf-8")
    if view is View.ID:
        return Item(key=row[0], id=item_id)
    return Item(
        key=row[0],
        id=item_id,
        metadata=decode_metadata(row[4]),
        image=_to_image(row),
        vector=np.frombuffer(row[16], dtype="<f4") if view is View.FULL else None,
        create_time=row[12] / 1e6,
        update_time=row[13] / 1e6,
    )


def picture_columns(item: ReadyItem) -> Row:
    """Return the columns width to kept. Raises ValueError if the SHA-256 is not hex."""
    if item.image is None:
        return (None,) * 6
    return (
        item.image.width,
        item.image.height,
        item.image.media_type.encode(),
        item.image.size_bytes,
        bytes.fromhex(item.image.sha256),
        (THUMBNAIL if item.thumbnail is not None else 0)
        | (ORIGINAL if item.original is not None else 0),
    )


def _to_image(row: Row) -> ImageRecord | None:
    width, height, media_type, size_bytes, sha256, kept = row[6:12]
    if sha256 is None:
        return None
    return ImageRecord(
        width=width,
        height=height,
        media_type=media_type.decode("utf-8"),
        size_bytes=size_bytes,
        sha256=sha256.hex(),
        has_thumbnail=bool(kept & THUMBNAIL),
        has_original=bool(kept & ORIGINAL),
    )


def damaged(item_id: str, collection: str) -> DataLoss:
    """Return the error of an item whose checksum does not fit."""
    place = f' of the collection "{collection}"' if collection else ""
    return DataLoss(
        f'The item "{item_id}"{place} is damaged in the store. '
        "Delete it and store it again, or restore a backup.",
        id=item_id,
        collection=collection,
    )
