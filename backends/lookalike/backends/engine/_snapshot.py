"""What an engine keeps on disk, and all its file operations.

    manifest.json        which segments there are, with size and SHA-256 of each file
    segment-00000007/    written once, never changed: rows.bin, index.bin
    building-00000008/   a segment in the making

A manifest is written aside and renamed over the old one after all it names is
durable; what no manifest names is swept after that. Every byte is verified
before an index library sees it. The rows that are dead are not kept: a key that
the store does not have is dead, so opening finds them again by set difference,
and a file that cannot be wrong need not be written.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.engine._manifest import (
    Doubtful,
    FileRecord,
    Manifest,
    SegmentRecord,
    decode_manifest,
    encode_manifest,
)
from lookalike.backends.engine._part import Segment
from lookalike.backends.files import Files
from lookalike.backends.types import IndexSpec, Keys, Vectors

MANIFEST = "manifest.json"
ROWS = "rows.bin"
INDEX = "index.bin"
_MAGIC = b"LKROWS01"
_HEADER = 64
_MAX_MANIFEST = 16 << 20
_GRAPH_ROW_BYTES = 512
"""About what a row of an index takes on disk; its vectors are in the rows' file."""
_ANY_NAME = re.compile(r"(?:segment|building)-(\d{8})\Z", re.ASCII)


class Disk:
    """The folder of one engine. Any thread; writing is serialised inside."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._lock = threading.Lock()
        self._numbers = itertools.count(1 + max(_numbers_in(directory), default=0))
        self._building: dict[int, FileRecord | None] = {}
        """Folders in the making: None while its rows are being written."""
        self._saved: dict[int, SegmentRecord] = {}
        self.seq = 0
        """What the last durable manifest holds; 0 if there is none."""

    def read_manifest(self) -> Manifest | None:
        """Return the manifest, None if there is none. Raises Doubtful."""
        path = self._directory / MANIFEST
        try:
            if path.stat().st_size > _MAX_MANIFEST:
                raise Doubtful("its manifest is too large")
            return decode_manifest(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Doubtful(f"its manifest cannot be read ({error.strerror})") from error

    def read_rows(self, record: SegmentRecord, dim: int) -> tuple[Keys, Vectors]:
        """Verify and map a segment's rows. Raises Doubtful."""
        path = self.verify(record, ROWS)
        start = _vectors_at(record.count)
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER)
                keys = np.fromfile(file, "<i8", record.count)
            if head != _header(record.count, dim) or len(keys) != record.count:
                raise Doubtful("its rows have another shape")
            if path.stat().st_size != start + 4 * record.count * dim:
                raise Doubtful("its rows have another length")
            return keys, _map(path, record.count, dim)
        except (OSError, ValueError) as error:
            raise Doubtful("its rows cannot be read") from error

    def verified_index(self, record: SegmentRecord) -> Path:
        """Return the path of a segment's index file, verified. Raises Doubtful."""
        return self.verify(record, INDEX)

    def adopt(self, record: SegmentRecord, seq: int) -> int:
        """Remember a segment that was loaded; return its number."""
        number = _number(record.name)
        with self._lock:
            self._saved[number] = record
            self.seq = seq
        return number

    def discard(self) -> None:
        """Make the manifest unfindable, durably. Raises OSError.

        It must not come back: a store that went backwards gives the same keys to
        other vectors, and would one day be past the seq that told the two apart.
        """
        with self._lock:
            self._files.remove(self._directory / MANIFEST)
            if self._directory.is_dir():
                self._files.sync_folder(self._directory)
            reach("engine.snapshot.discarded")
            self._saved.clear()
            self.seq = 0

    def new_number(self) -> int:
        """Return a number that no folder here has had. Never waits."""
        return next(self._numbers)

    def write_rows(self, number: int, keys: Keys, dim: int, blocks: Iterator[Vectors]) -> Vectors:
        """Write a new segment's rows durably; return its vectors, mapped. Raises OSError."""
        folder = self._directory / f"building-{number:08d}"
        with self._lock:
            self._files.make_folders(self._directory)
            self._files.need(self._directory, _size_on_disk(len(keys), dim))
            self._files.make_folder(folder)
            self._building[number] = None
        try:
            record = _write_rows(self._files, folder / ROWS, keys, dim, blocks)
            mapped = _map(folder / ROWS, len(keys), dim)
        except BaseException:
            self.abandon(number)
            raise
        reach("engine.rows.written")
        with self._lock:
            self._building[number] = record
        return mapped

    def abandon(self, number: int) -> None:
        """Forget a segment in the making and remove its folder."""
        with self._lock:
            self._building.pop(number, None)
            self._files.remove_tree(self._directory / f"building-{number:08d}")

    def save(
        self,
        segments: Sequence[Segment],
        seq: int,
        spec: IndexSpec,
        owner: str,
        dim: int,
        boost: Callable[[Segment], float] = lambda segment: segment.boost,
    ) -> None:
        """Make these segments the durable state, then sweep what it does not name.

        Raises OSError, or what an index raises when it cannot save itself; the
        former state is whole then.
        """
        with self._lock:
            self._files.make_folders(self._directory)
            records = [
                replace(self._save_segment(segment, dim), boost=boost(segment))
                for segment in segments
            ]
            self._files.sync_folder(self._directory)
            self._write_manifest(Manifest(owner, dim, str(spec.metric), seq, spec, records))
            reach("engine.sweep.before")
            self.seq = seq
            self._saved = {_number(record.name): record for record in records}
            self._sweep({record.name for record in records})

    def _write_manifest(self, manifest: Manifest) -> None:
        aside = self._directory / (MANIFEST + ".new")
        with self._files.opened(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            self._files.write(file, encode_manifest(manifest))
            reach("engine.manifest.written")
            self._files.sync(file)
        reach("engine.manifest.before")
        self._files.rename(aside, self._directory / MANIFEST)
        reach("engine.manifest.renamed")
        self._files.sync_folder(self._directory)

    def _save_segment(self, segment: Segment, dim: int) -> SegmentRecord:
        if record := self._saved.get(segment.number):
            return record
        folder = self._directory / f"building-{segment.number:08d}"
        files: dict[str, FileRecord] = {}
        rows = self._building.get(segment.number)
        if rows is not None and (folder / ROWS).is_file():
            files[ROWS] = rows
        else:  # the disk had no room for them, or someone removed them
            self._files.remove_tree(folder)
            self._files.need(self._directory, _size_on_disk(len(segment.keys), dim))
            self._files.make_folder(folder)
            vectors = np.ascontiguousarray(segment.vectors)
            files[ROWS] = _write_rows(
                self._files, folder / ROWS, segment.keys, dim, iter([vectors])
            )
        if segment.index is not None:
            self._files.remove(folder / INDEX)
            self._files.need(self._directory, _GRAPH_ROW_BYTES * len(segment.keys))
            segment.index.save(folder / INDEX)
            reach("engine.index.written")
            files[INDEX] = _seal(self._files, folder / INDEX)
        self._files.sync_folder(folder)
        name = f"segment-{segment.number:08d}"
        reach("engine.segment.before")
        self._files.rename(folder, self._directory / name)
        reach("engine.segment.renamed")
        self._building.pop(segment.number, None)
        record = SegmentRecord(name, len(segment.keys), segment.spec, files, segment.effort)
        self._saved[segment.number] = record
        return record

    def _sweep(self, named: set[str]) -> None:
        keep = {MANIFEST, *named, *(f"building-{number:08d}" for number in self._building)}
        for entry in os.scandir(self._directory):
            if entry.name in keep:
                continue
            if entry.is_dir(follow_symlinks=False):
                self._files.remove_tree(Path(entry.path))
            else:
                self._files.remove(Path(entry.path))
            reach("engine.sweep.removed")

    def verify(self, record: SegmentRecord, name: str) -> Path:
        """Check a file against its record, before anything else reads it. Raises Doubtful."""
        expected = record.files.get(name)
        path = self._directory / record.name / name
        try:
            if expected is None or path.stat().st_size != expected.size:
                raise Doubtful(f"{name} is missing or has another length")
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise Doubtful(f"{name} cannot be read ({error.strerror})") from error
        if digest != expected.sha256:
            raise Doubtful(f"{name} does not match its checksum")
        return path


def _numbers_in(directory: Path) -> list[int]:
    try:
        return [int(m[1]) for name in os.listdir(directory) if (m := _ANY_NAME.match(name))]
    except OSError:
        return []


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _header(count: int, dim: int) -> bytes:
    head = _MAGIC + count.to_bytes(8, "little") + dim.to_bytes(8, "little")
    return head.ljust(_HEADER, b"\0")


def _vectors_at(count: int) -> int:
    """Return the offset of the vectors: after header and keys, at a multiple of 64 bytes."""
    return -(-(_HEADER + 8 * count) // 64) * 64


def _size_on_disk(count: int, dim: int) -> int:
    """Return about what a segment takes: its rows, and as a rule an index."""
    return _vectors_at(count) + 4 * count * dim + _GRAPH_ROW_BYTES * count


def _write_rows(
    files: Files, path: Path, keys: Keys, dim: int, blocks: Iterator[Vectors]
) -> FileRecord:
    digest = hashlib.sha256()
    size = 0
    with files.opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:

        def put(data: bytes | memoryview) -> None:
            nonlocal size
            digest.update(data)
            files.write(file, data)
            size += len(data)

        put(_header(len(keys), dim))
        reach("engine.rows.begun")
        put(np.ascontiguousarray(keys, "<i8").tobytes())
        put(b"\0" * (_vectors_at(len(keys)) - size))
        for block in blocks:
            put(np.ascontiguousarray(block, "<f4").data.cast("B"))
        files.sync(file)
    return FileRecord(size, digest.hexdigest())


def _map(path: Path, count: int, dim: int) -> Vectors:
    mapped = np.memmap(path, "<f4", mode="r", offset=_vectors_at(count), shape=(count, dim))
    return np.asarray(mapped)


def _seal(files: Files, path: Path) -> FileRecord:
    """Make a finished file durable and say what it must be from now on."""
    with files.opened(path, os.O_RDONLY) as file, path.open("rb") as reader:
        files.sync(file)
        digest = hashlib.file_digest(reader, "sha256").hexdigest()
        return FileRecord(os.fstat(file).st_size, digest)
