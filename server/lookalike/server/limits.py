"""The one table of what the server accepts at most, and the checks against it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from lookalike.backends.errors import IdInvalid, IdMissing, ImageTooLarge, MetadataTooLarge

_WIDE = frozenset({"max_decode_bytes", "upload_window_bytes", "embed_queue_bytes"})


def most(name: str) -> int:
    """Return the largest number that a limit can be set to: what GetServerInfo can carry."""
    return 2**40 if name in _WIDE else 2**31 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits in force; SystemService.GetServerInfo and `lookalike info` show them."""

    max_message_bytes: int = 64 * 2**20
    """Bytes of one gRPC message."""
    max_image_bytes: int = 32 * 2**20
    """Bytes of one image file, whole or in chunks."""
    max_image_pixels: int = 100_000_000
    """Width times height of a picture."""
    max_decode_ms: int = 2000
    """Milliseconds of processor time that decoding a picture may take, and five times that by the
    clock; for one of over 40 megapixels more in proportion. Decoding processes only."""
    max_decode_bytes: int = 2**30
    """Bytes of memory that decoding a picture may take; pictures of max_image_pixels need up to 9
    a pixel. Decoding processes only."""
    max_batch_size: int = 256
    """Items, inputs or queries of one unary request."""
    max_upload_batch: int = 1024
    """Items of one UploadBatch."""
    max_search_limit: int = 1000
    """Hits of one search."""
    max_query_parts: int = 32
    """Things that one query may look for at once."""
    max_metadata_bytes: int = 16 * 2**10
    """Bytes of an item's metadata as protobuf."""
    max_metadata_depth: int = 8
    """Nested levels of an item's metadata."""
    max_id_bytes: int = 256
    """Bytes of an item's id in UTF-8."""
    max_text_chars: int = 8192
    """Characters of a text to embed or to search for."""
    max_fields: int = 16
    """Metadata fields that one request, or one collection for its indexes, may name."""
    max_delete_ids: int = 1000
    """Ids of one DeleteItems."""
    max_page_size: int = 1000
    """Entries of one page of a list."""
    max_filter_depth: int = 8
    """Nested levels of a filter."""
    max_filter_conditions: int = 256
    """Conditions of a filter, all levels together."""
    max_filter_values: int = 1000
    """Values of one any_of or none_of."""
    max_dimension: int = 32768
    """Numbers of a vector."""
    max_uploads: int = 16
    """Upload streams at the same time."""
    max_uploads_per_peer: int = 12
    """Of them, those of one caller: of one API key, or of one address where there are no keys."""
    max_search_streams: int = 32
    """Streams of searches at the same time."""
    max_search_streams_per_peer: int = 24
    """Of them, those of one caller."""
    max_lasting_calls: int = 8
    """Calls at the same time that last as long as they like: exports, backups, watching a job."""
    max_lasting_calls_per_peer: int = 6
    """Of them, those of one caller."""
    max_connections: int = 4096
    """Connections at the same time; less where the system allows fewer open files."""
    max_open_chunked: int = 16
    """Unfinished chunked items of one stream."""
    upload_window_items: int = 256
    """Items of one stream under way before the server stops reading."""
    upload_window_vectors: int = 4096
    """Items without a picture under way, if there are no others, before it stops reading."""
    upload_window_bytes: int = 64 * 2**20
    """Bytes of one stream under way before the server stops reading."""
    embed_queue_items: int = 1024
    """Inputs waiting for the embed thread before new ones are refused."""
    embed_queue_bytes: int = 256 * 2**20
    """Bytes of picture files waiting to be read, and again of inputs waiting for the embed thread,
    before new ones are refused."""


def is_plain_id(item_id: str, limits: Limits) -> bool:
    """Tell quickly that `check_id` would not complain; False says nothing."""
    return item_id.isascii() and item_id.isprintable() and 0 < len(item_id) <= limits.max_id_bytes


def check_id(item_id: str, limits: Limits, field: str) -> None:
    """Raise IdMissing or IdInvalid unless the id is 1..max_id_bytes bytes without controls."""
    if not item_id:
        raise IdMissing("An item needs an id here.", field=field)
    size = len(item_id.encode("utf-8"))
    if size > limits.max_id_bytes:
        raise IdInvalid(
            f"The id has {size} bytes; {limits.max_id_bytes} is the most.",
            field=field,
            limit=limits.max_id_bytes,
        )
    if any(unicodedata.category(c) == "Cc" for c in item_id):
        raise IdInvalid("The id has a control character; remove it.", field=field)


def check_image_bytes(size: int, limits: Limits, field: str) -> None:
    """Raise ImageTooLarge for an encoded file of more than max_image_bytes."""
    if size > limits.max_image_bytes:
        raise ImageTooLarge(
            f"The image file has {size} bytes; {limits.max_image_bytes} is the most. "
            "Send a smaller copy.",
            field=field,
            limit=limits.max_image_bytes,
        )


def check_metadata(size: int, depth: int, limits: Limits, field: str) -> None:
    """Raise MetadataTooLarge; `size` in bytes as protobuf, `depth` in nested levels."""
    if size > limits.max_metadata_bytes:
        raise MetadataTooLarge(
            f"The metadata has {size} bytes; {limits.max_metadata_bytes} is the most.",
            field=field,
            limit=limits.max_metadata_bytes,
        )
    if depth > limits.max_metadata_depth:
        raise MetadataTooLarge(
            f"The metadata is {depth} levels deep; {limits.max_metadata_depth} is the most.",
            field=field,
            limit=limits.max_metadata_depth,
        )
