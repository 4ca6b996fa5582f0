"""IndexService.ExportItems to an archive; docs/backup.md describes what is in it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lookalike.client import _results as results
from lookalike.client import _wire as wire
from lookalike.client._archive import END, MANIFEST, ArchiveWriter
from lookalike.client._aside import written_aside
from lookalike.client._backup import Target
from lookalike.client._calls import Call, Condition
from lookalike.client.errors import DataLoss
from lookalike.client.filters import compile_filter
from lookalike.v1 import index_service_pb2

FORMAT, VERSION = "lookalike export", 1
_PART_ITEMS = 1000
_PART_BYTES = 16 * 2**20
"""A part of an archive is in memory while it is written, and while it is read."""
_SUFFIXES = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/bmp": "bmp",
    "image/tiff": "tif",
    "image/avif": "avif",
}


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export has in it."""

    collection: str
    seq: int
    """The last commit that is in it."""
    item_count: int
    thumbnail_count: int
    original_count: int


def request(
    collection: str, where: Condition, images: bool
) -> Call[index_service_pb2.ExportItemsResponse]:
    message = index_service_pb2.ExportItemsRequest(
        collection=collection, filter=compile_filter(where), without_images=not images
    )
    return Call("IndexService", "ExportItems", message, lambda answer: answer)


def save(
    target: Target,
    messages: Iterable[index_service_pb2.ExportItemsResponse],
    where: str,
    images: bool,
    progress: Callable[[int, int], None] | None,
) -> ExportReport:
    """Write an export to its target; a file is there whole or not at all.

    Raises:
        FileExists: there is a file of this name already.
        DataLoss: what came is not what was sent.
    """
    if isinstance(target, str | os.PathLike):
        with written_aside(Path(target)) as file:
            return _Exporting(file, where, images, progress).run(messages)
    return _Exporting(target, where, images, progress).run(messages)


@dataclass(slots=True)
class _Part:
    """Items that are written together: first what is known of them, then their pictures."""

    lines: list[str] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    size: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.lines) >= _PART_ITEMS or self.size >= _PART_BYTES


class _Exporting:
    """One export on its way into an archive. One thread."""

    def __init__(
        self,
        file: BinaryIO,
        where: str,
        images: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._archive = ArchiveWriter(file)
        self._where = where
        self._images = images
        self._progress = progress
        self._start = index_service_pb2.ExportStart()
        self._part = _Part()
        self._parts = self._items = self._thumbnails = self._originals = 0
        self._original = bytearray()
        self._original_bytes = 0
        self._original_type = ""

    def run(self, messages: Iterable[index_service_pb2.ExportItemsResponse]) -> ExportReport:
        for message in messages:
            match message.WhichOneof("event"):
                case "start":
                    self._start = message.start
                    self._archive.add(MANIFEST, _json(self._manifest()))
                case "batch":
                    for one in message.batch.items:
                        self._take(one)
                    if self._progress is not None:
                        self._progress(self._items, self._start.collection.item_count)
                case "original":
                    self._take_piece(message.original)
                case "end":
                    return self._finish(message.end)
        raise _broken()

    def _take(self, message: index_service_pb2.ExportedItem) -> None:
        if self._original_bytes:
            raise _broken()
        if self._part.is_full:
            self._write_part()
        item, part = wire.item(message.item), self._part
        line = {
            "id": item.id,
            "metadata": item.metadata,
            "image": _image(item.image),
            "digest": message.digest.hex(),
            "thumbnail": len(message.thumbnail),
            "original": message.original_bytes,
            "create_time": _time(item.create_time),
            "update_time": _time(item.update_time),
        }
        part.lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))
        part.vectors.append(item.vector)
        part.size += len(part.lines[-1]) + message.ByteSize()
        if message.thumbnail:
            self._thumbnails += 1
            part.files.append((self._name("thumbnail", "image/jpeg"), message.thumbnail))
        if message.original_bytes:
            self._originals += 1
            self._original_bytes = message.original_bytes
            self._original_type = item.image.media_type if item.image is not None else ""
        self._items += 1

    def _take_piece(self, data: bytes) -> None:
        self._original += data
        if len(self._original) > self._original_bytes:
            raise _broken()
        if len(self._original) == self._original_bytes:
            name = self._name("original", self._original_type)
            self._part.files.append((name, bytes(self._original)))
            self._part.size += self._original_bytes
            self._original.clear()
            self._original_bytes = 0

    def _name(self, kind: str, media_type: str) -> str:
        """Name the file of a picture: by its place, never by the id of its item."""
        place = len(self._part.lines) - 1
        return f"{self._parts:06d}/{place:06d}-{kind}.{_SUFFIXES.get(media_type, 'bin')}"

    def _write_part(self) -> None:
        part, self._part = self._part, _Part()
        folder = f"{self._parts:06d}"
        self._parts += 1
        self._archive.add(f"{folder}/items.jsonl", "".join(f"{x}\n" for x in part.lines).encode())
        block = io.BytesIO()
        np.save(block, np.stack(part.vectors).astype("<f4"), allow_pickle=False)
        self._archive.add(f"{folder}/vectors.npy", block.getvalue())
        for name, data in part.files:
            self._archive.add(name, data)

    def _finish(self, end: index_service_pb2.ExportEnd) -> ExportReport:
        if self._part.lines:
            self._write_part()
        counts = (self._items, self._thumbnails, self._originals)
        if self._original_bytes or counts != (
            end.item_count,
            end.thumbnail_count,
            end.original_count,
        ):
            raise _broken()
        summary = {
            "item_count": self._items,
            "thumbnail_count": self._thumbnails,
            "original_count": self._originals,
            "sha256": self._archive.sha256,
        }
        self._archive.add(END, _json(summary))
        self._archive.close()
        return ExportReport(self._start.collection.name, self._start.seq, *counts)

    def _manifest(self) -> dict[str, Any]:
        start = self._start
        return {
            "format": FORMAT,
            "version": VERSION,
            "seq": start.seq,
            "store_id": start.store_id,
            "server_version": start.server_version,
            "where": self._where,
            "images": self._images,
            "collection": _collection(wire.collection(start.collection)),
        }


def _collection(one: results.Collection) -> dict[str, Any]:
    algorithm: dict[str, Any] | None = None
    match one.index.algorithm:
        case results.Flat():
            algorithm = {"kind": "flat"}
        case results.Hnsw(m, ef_construction, ef_search):
            algorithm = {"kind": "hnsw", "m": m, "ef_construction": ef_construction}
            algorithm["ef_search"] = ef_search
        case results.Ivf(nlist, nprobe):
            algorithm = {"kind": "ivf", "nlist": nlist, "nprobe": nprobe}
    return {
        "name": one.name,
        "description": one.description,
        "model": one.model,
        "model_fingerprint": one.model_fingerprint,
        "metric": one.metric,
        "dimension": one.dimension,
        "image_retention": one.image_retention,
        "indexed_fields": list(one.indexed_fields),
        "index": {
            "backend": one.index.backend,
            "algorithm": algorithm,
            "options": dict(one.index.options),
            "target_recall": one.index.target_recall,
        },
    }


def _image(image: results.ImageInfo | None) -> dict[str, Any] | None:
    if image is None:
        return None
    return {
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "size_bytes": image.size_bytes,
        "sha256": image.sha256,
    }


def _time(when: Any) -> str | None:
    return None if when is None else when.isoformat().replace("+00:00", "Z")


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _broken() -> DataLoss:
    return DataLoss("The export did not arrive as it was sent; make another one.")
