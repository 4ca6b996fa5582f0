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
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lookalike.backends.crashpoints import reach
from lookalike.backends.engine._part import Segment
from lookalike.backends.types import (
    Algorithm,
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Keys,
    Metric,
    Vectors,
)

FORMAT = 1
MANIFEST = "manifest.json"
ROWS = "rows.bin"
INDEX = "index.bin"
_MAGIC = b"LKROWS01"
_HEADER = 64
_MAX_MANIFEST = 16 << 20
_NAME = re.compile(r"segment-(\d{8})\Z", re.ASCII)
_ANY_NAME = re.compile(r"(?:segment|building)-(\d{8})\Z", re.ASCII)
_ALGORITHMS: dict[str, type[FlatParams | HnswParams | IvfParams]] = {
    "flat": FlatParams,
    "hnsw": HnswParams,
    "ivf": IvfParams,
}


class Doubtful(Exception):
    """A derived file is not what it should be; the message says why, without paths."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What one file must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One segment in a manifest."""

    name: str
    count: int
    spec: IndexSpec
    files: dict[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One durable state of an engine's folder."""

    owner: str
    dim: int
    metric: str
    seq: int
    spec: IndexSpec
    segments: list[SegmentRecord]


def spec_to_json(spec: IndexSpec) -> dict[str, object]:
    """Return the JSON form of a spec."""
    algorithm: dict[str, object] | None = None
    if spec.algorithm is not None:
        name = next(n for n, kind in _ALGORITHMS.items() if isinstance(spec.algorithm, kind))
        algorithm = {"name": name, **asdict(spec.algorithm)}
    return {
        "backend": spec.backend,
        "algorithm": algorithm,
        "options": dict(spec.options),
        "metric": str(spec.metric),
    }


def spec_from_json(value: dict[str, object]) -> IndexSpec:
    """Read what `spec_to_json` wrote. Raises KeyError, TypeError, ValueError."""
    algorithm: Algorithm | None = None
    if (described := value["algorithm"]) is not None:
        if not isinstance(described, dict):
            raise TypeError("algorithm is not an object")
        numbers = {key: int(number) for key, number in described.items() if key != "name"}
        algorithm = _ALGORITHMS[described["name"]](**numbers)
    options = value["options"]
    if not isinstance(options, dict):
        raise TypeError("options is not an object")
    return IndexSpec(str(value["backend"]), algorithm, options, Metric(str(value["metric"])))


class Disk:
    """The folder of one engine. Any thread; writing is serialised inside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
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
            outer = json.loads(path.read_bytes())
            body = outer["manifest"]
            if outer["sha256"] != hashlib.sha256(_canonical(body)).hexdigest():
                raise Doubtful("its manifest does not match its checksum")
            if body["format"] != FORMAT:
                raise Doubtful(f"its format is {body['format']!r}, not {FORMAT}")
            return Manifest(
                owner=body["owner"],
                dim=body["dim"],
                metric=body["metric"],
                seq=int(body["seq"]),
                spec=spec_from_json(body["spec"]),
                segments=[_segment_record(entry) for entry in body["segments"]],
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Doubtful(f"its manifest cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Doubtful("its manifest is not readable") from error

    def read_rows(self, record: SegmentRecord, dim: int) -> tuple[Keys, Vectors]:
        """Verify and map a segment's rows. Raises Doubtful."""
        path = self._verify(record, ROWS)
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
        return self._verify(record, INDEX)

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
            (self._directory / MANIFEST).unlink(missing_ok=True)
            if self._directory.is_dir():
                _sync(self._directory)
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
            folder.mkdir(parents=True)
            self._building[number] = None
        try:
            record = _write_rows(folder / ROWS, keys, dim, blocks)
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
            shutil.rmtree(self._directory / f"building-{number:08d}", ignore_errors=True)

    def save(
        self, segments: Sequence[Segment], seq: int, spec: IndexSpec, owner: str, dim: int
    ) -> None:
        """Make these segments the durable state, then sweep what it does not name.

        Raises OSError, or what an index raises when it cannot save itself; the
        former state is whole then.
        """
        with self._lock:
            self._directory.mkdir(parents=True, exist_ok=True)
            records = [self._save_segment(segment, dim) for segment in segments]
            _sync(self._directory)
            body = {
                "format": FORMAT,
                "owner": owner,
                "dim": dim,
                "metric": str(spec.metric),
                "seq": seq,
                "spec": spec_to_json(spec),
                "segments": [
                    {**asdict(record), "spec": spec_to_json(record.spec)} for record in records
                ],
            }
            outer = {"sha256": hashlib.sha256(_canonical(body)).hexdigest(), "manifest": body}
            aside = self._directory / (MANIFEST + ".new")
            with aside.open("wb") as file:
                file.write(json.dumps(outer, indent=1).encode())
                file.flush()
                reach("engine.manifest.written")
                os.fsync(file.fileno())
            reach("engine.manifest.before")
            aside.replace(self._directory / MANIFEST)
            reach("engine.manifest.renamed")
            _sync(self._directory)
            reach("engine.sweep.before")
            self.seq = seq
            self._saved = {_number(record.name): record for record in records}
            self._sweep({record.name for record in records})

    def _save_segment(self, segment: Segment, dim: int) -> SegmentRecord:
        if record := self._saved.get(segment.number):
            return record
        folder = self._directory / f"building-{segment.number:08d}"
        files: dict[str, FileRecord] = {}
        rows = self._building.get(segment.number)
        if rows is not None and (folder / ROWS).is_file():
            files[ROWS] = rows
        else:  # the disk had no room for them, or someone removed them
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            files[ROWS] = _write_rows(
                folder / ROWS, segment.keys, dim, iter([np.ascontiguousarray(segment.vectors)])
            )
        if segment.index is not None:
            (folder / INDEX).unlink(missing_ok=True)
            segment.index.save(folder / INDEX)
            reach("engine.index.written")
            files[INDEX] = _seal(folder / INDEX)
        _sync(folder)
        name = f"segment-{segment.number:08d}"
        reach("engine.segment.before")
        folder.replace(self._directory / name)
        reach("engine.segment.renamed")
        self._building.pop(segment.number, None)
        record = SegmentRecord(name, len(segment.keys), segment.spec, files)
        self._saved[segment.number] = record
        return record

    def _sweep(self, named: set[str]) -> None:
        keep = {MANIFEST, *named, *(f"building-{number:08d}" for number in self._building)}
        for entry in os.scandir(self._directory):
            if entry.name in keep:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)
            reach("engine.sweep.removed")

    def _verify(self, record: SegmentRecord, name: str) -> Path:
        """Check a file against its record, before anything else reads it."""
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


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _segment_record(entry: dict[str, object]) -> SegmentRecord:
    name, files, spec = entry["name"], entry["files"], entry["spec"]
    if not (isinstance(name, str) and _NAME.match(name)):
        raise ValueError("not a segment's name")
    if not (isinstance(files, dict) and isinstance(spec, dict)):
        raise TypeError("not a segment")
    records = {key: FileRecord(int(f["size"]), str(f["sha256"])) for key, f in files.items()}
    return SegmentRecord(name, int(str(entry["count"])), spec_from_json(spec), records)


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


def _write_rows(path: Path, keys: Keys, dim: int, blocks: Iterator[Vectors]) -> FileRecord:
    digest = hashlib.sha256()
    with path.open("xb") as file:

        def put(data: bytes | memoryview) -> None:
            digest.update(data)
            file.write(data)

        put(_header(len(keys), dim))
        reach("engine.rows.begun")
        put(np.ascontiguousarray(keys, "<i8").tobytes())
        put(b"\0" * (_vectors_at(len(keys)) - file.tell()))
        for block in blocks:
            put(np.ascontiguousarray(block, "<f4").data.cast("B"))
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size, digest.hexdigest())


def _map(path: Path, count: int, dim: int) -> Vectors:
    mapped = np.memmap(path, "<f4", mode="r", offset=_vectors_at(count), shape=(count, dim))
    return np.asarray(mapped)


def _seal(path: Path) -> FileRecord:
    """Make a finished file durable and say what it must be from now on."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(os.fstat(file.fileno()).st_size, digest)


def _sync(directory: Path) -> None:
    """Make a folder's entries durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
