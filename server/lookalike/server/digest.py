"""What makes two items the very same: content and metadata, 64 bytes."""

from __future__ import annotations

import hashlib
import json

from lookalike.server.domain import ExifMode, Json, Vector

_NO_METADATA = hashlib.sha256(b"{}").digest()


def item_digest(
    sha256: str, vector: Vector | None, metadata: Json, exif: ExifMode = ExifMode.NONE
) -> bytes:
    """Return 32 bytes over picture and brought vector, then 32 over the metadata.

    `metadata` as the owner gave it: what EXIF adds follows from the picture and `exif`.

    The two halves stand apart so that a change of metadata needs only the old
    digest and the new metadata (`with_metadata`).
    """
    block = b"" if vector is None else b"v" + vector.astype("<f4", copy=False).tobytes()
    content = hashlib.sha256(sha256.encode() + block)
    if sha256 and exif is not ExifMode.NONE:
        content.update(f"exif {exif.value}".encode())
    return content.digest() + _metadata_digest(metadata)


def with_metadata(digest: bytes, metadata: Json) -> bytes:
    """Return the digest of the same content with other metadata."""
    return digest[:32] + _metadata_digest(metadata)


def _metadata_digest(metadata: Json) -> bytes:
    if not metadata:
        return _NO_METADATA
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()
