"""An archive of an export, read and checked, and taken up by a server again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from lookalike.client import _results as results
from lookalike.client._archive import END, MANIFEST, Member, read_members
from lookalike.client._calls import NewItem, StoredItem
from lookalike.client._export import FORMAT, VERSION
from lookalike.client.errors import ArchiveInvalid, FileUnreadable, ModelMismatch

_KINDS = {"flat": results.Flat, "hnsw": results.Hnsw, "ivf": results.Ivf}


@dataclass(frozen=True, slots=True)
class ArchivedCollection:
    """The collection that an archive is of, as its settings were."""

    name: str
    description: str
    model: str
    model_fingerprint: str
    metric: str
    dimension: int
    image_retention: str
    indexed_fields: tuple[str, ...]
    index: results.IndexSpec


class Archive:
    """An archive that is read front to back, once. One thread.

    Making one reads the manifest. All of it raises ArchiveInvalid.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._members = read_members(file)
        manifest = _object(self._next(MANIFEST).data, MANIFEST)
        if manifest.get("format") != FORMAT:
            _refuse("it is of another program")
        if manifest.get("version") != VERSION:
            _refuse(
                f"its version is {manifest.get('version')!r}, and this lookalike knows {VERSION}; "
                "import it with the lookalike that wrote it, or a newer one"
            )
        try:
            self.collection = _read_collection(manifest["collection"])
        except (KeyError, TypeError, AttributeError):
            _refuse(f"{MANIFEST} is not complete")

    def items(self, *, reembed: bool) -> Iterator[NewItem]:
        """Yield the items; with `reembed` their originals alone, to be embedded anew."""
        counts = [0, 0, 0]
        for number in range(10**6):
            member = next(self._members, None)
            if member is None:
                _refuse("its end is missing")
            if member.name == END:
                self._check_end(member, counts)
                return
            if member.name != f"{number:06d}/items.jsonl":
                _refuse(f"it has {member.name} where part {number} should begin")
            lines = member.data.splitlines()
            vectors = self._vectors(number, len(lines))
            for place, (line, vector) in enumerate(zip(lines, vectors, strict=True)):
                yield self._item(f"{number:06d}/{place:06d}", line, vector, counts, reembed)

    def _item(
        self, place: str, line: bytes, vector: Any, counts: list[int], reembed: bool
    ) -> NewItem:
        fields = _object(line, f"line {place}")
        try:
            item_id, metadata = fields["id"], fields["metadata"]
            image = None if fields["image"] is None else _read_image(fields["image"])
            thumbnail = self._picture(f"{place}-thumbnail.", fields["thumbnail"])
            original = self._picture(f"{place}-original.", fields["original"])
            digest = bytes.fromhex(fields["digest"])
        except (KeyError, TypeError, ValueError):
            _refuse(f"line {place} is not complete")
        if not isinstance(item_id, str) or not isinstance(metadata, dict):
            _refuse(f"line {place} is not complete")
        counts[0] += 1
        counts[1] += thumbnail is not None
        counts[2] += original is not None
        if original is not None and (
            image is None or hashlib.sha256(original).hexdigest() != image.sha256
        ):
            _refuse(f"the picture of line {place} is another one")
        if reembed:
            return NewItem(item_id, original, None, metadata)
        stored = StoredItem(image, thumbnail or b"", digest)
        return NewItem(item_id, original, vector, metadata, stored)

    def _picture(self, beginning: str, size: Any) -> bytes | None:
        if type(size) is not int:
            raise TypeError
        if size == 0:
            return None
        member = self._next(beginning + "*", exact=False)
        if not member.name.startswith(beginning) or len(member.data) != size:
            _refuse(f"it has {member.name} where {beginning}* of {size} bytes should be")
        return member.data

    def _vectors(self, number: int, count: int) -> Any:
        name = f"{number:06d}/vectors.npy"
        data = self._next(name).data
        dimension = self.collection.dimension
        file = BytesIO(data)
        try:
            # The header first: a size is believed only if there are so many bytes.
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError
            shape, fortran, kind = np.lib.format.read_array_header_1_0(file)
        except ValueError:
            _refuse(f"{name} is no array")
        left = len(data) - file.tell()
        if (shape, fortran, kind) != ((count, dimension), False, np.dtype("<f4")) or (
            left != 4 * count * dimension
        ):
            _refuse(f"{name} has not {count} vectors of {dimension} numbers")
        return np.frombuffer(data, "<f4", offset=file.tell()).reshape(count, dimension)

    def _next(self, name: str, *, exact: bool = True) -> Member:
        member = next(self._members, None)
        if member is None:
            _refuse(f"{name} is missing")
        if exact and member.name != name:
            _refuse(f"it has {member.name} where {name} should be")
        return member

    def _check_end(self, member: Member, counts: list[int]) -> None:
        end = _object(member.data, END)
        told = [end.get(name) for name in ("item_count", "thumbnail_count", "original_count")]
        if told != counts:
            _refuse(f"it should have {told} items, thumbnails and originals, but has {counts}")
        if end.get("sha256") != member.before:
            _refuse("its checksum does not fit")
        if next(self._members, None) is not None:
            _refuse(f"something follows {END}")


@contextmanager
def opened(source: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    """Open an archive; one that can be read twice is checked whole before anything is done.

    Raises:
        ArchiveInvalid: it is damaged, cut short or no export.
    """
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    path = Path(source)
    if not path.is_file():
        raise FileUnreadable(f"{path} is not a file.", field="source")
    with path.open("rb") as file:
        for _ in Archive(file).items(reembed=False):
            pass
        file.seek(0)
        yield file


def check_space(archived: ArchivedCollection, target: results.Collection) -> None:
    """Raise ModelMismatch unless vectors of the archive mean the same in the collection."""
    mine = (archived.model_fingerprint, archived.dimension, archived.metric)
    other = (target.model_fingerprint, target.dimension, target.metric)
    if mine == other:
        return
    raise ModelMismatch(
        f"The vectors of the archive are of {_space(*mine)}, those of the collection "
        f"{target.name!r} of {_space(*other)}. Import into another collection, or embed the "
        "originals anew with --reembed.",
        metadata={"expected": target.model_fingerprint, "actual": archived.model_fingerprint},
    )


def _space(fingerprint: str, dimension: int, metric: str) -> str:
    return f"{fingerprint or 'no model'} ({dimension} numbers, {metric})"


def _read_collection(fields: Any) -> ArchivedCollection:
    index = fields["index"]
    algorithm = None
    if index["algorithm"] is not None:
        settings = dict(index["algorithm"])
        algorithm = _KINDS[settings.pop("kind")](**settings)
    found = ArchivedCollection(
        name=fields["name"],
        description=fields["description"],
        model=fields["model"],
        model_fingerprint=fields["model_fingerprint"],
        metric=fields["metric"],
        dimension=fields["dimension"],
        image_retention=fields["image_retention"],
        indexed_fields=tuple(fields["indexed_fields"]),
        index=results.IndexSpec(
            index["backend"],
            algorithm,
            dict(index["options"]),
            float(index.get("target_recall", 0.0)),  # younger than the format
        ),
    )
    texts = (found.name, found.description, found.model, found.model_fingerprint, found.metric)
    if not all(isinstance(text, str) for text in (*texts, found.image_retention)):
        raise TypeError
    if type(found.dimension) is not int:
        raise TypeError
    return found


def _read_image(fields: Any) -> results.ImageInfo:
    numbers = [fields[name] for name in ("width", "height", "size_bytes")]
    texts = [fields[name] for name in ("media_type", "sha256")]
    if not all(type(n) is int and 0 <= n < 2**31 for n in numbers):
        raise TypeError
    if not all(isinstance(text, str) for text in texts):
        raise TypeError
    return results.ImageInfo(numbers[0], numbers[1], texts[0], numbers[2], texts[1], False, False)


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        _refuse(f"{name} is no JSON object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse(what: str) -> NoReturn:
    raise ArchiveInvalid(f"The archive cannot be used: {what}.")
