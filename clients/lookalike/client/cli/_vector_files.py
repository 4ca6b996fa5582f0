"""Files of vectors: .npz or Parquet, one or numbered shards of a size, whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lookalike.client._vectors import FloatMatrix
from lookalike.client.cli._exit import UsageError

_FINGERPRINT = b"lookalike.model_fingerprint"
_DIGITS = 5


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file of vectors holds, without the vectors."""

    ids: list[str]
    fingerprint: str
    """Of the model that made the vectors; empty if there are none."""


class VectorFiles:
    """Gathers vectors and writes them to `out`, or to shards `out-00000`, `out-00001`, ...

    A shard is written as soon as it is full, so a run that is cut off loses less than
    one; `done` are the ids that earlier runs wrote. One thread.
    """

    def __init__(self, out: Path, shard_size: int) -> None:
        """Look at what is there. Raises UsageError for a kind of file that is not known."""
        if out.suffix not in _KINDS:
            raise UsageError(f"{out.name} must end in {' or '.join(_KINDS)}")
        self._write, self._read = _KINDS[out.suffix]
        if out.suffix == ".parquet":
            _parquet()
        self._out = out
        self._size = shard_size
        self._ids: list[str] = []
        self._vectors: list[FloatMatrix] = []
        self.done: set[str] = set()
        self.fingerprint = ""
        """Of the model that made the vectors."""
        self.written: list[Path] = []
        """Files that this run wrote."""
        self._next = 0
        if shard_size:
            self._look()

    def add(self, ids: Sequence[str], vectors: FloatMatrix, fingerprint: str) -> None:
        """Take (len(ids), dim) vectors. Raises UsageError for those of another model."""
        if self.fingerprint and fingerprint != self.fingerprint:
            raise UsageError(
                f"these vectors are of another model than those before them: {fingerprint}, not "
                f"{self.fingerprint}; give all servers one model, and other models another --out"
            )
        self.fingerprint = fingerprint
        self._ids += ids
        self._vectors.append(vectors)
        while self._size and len(self._ids) >= self._size:
            self._put(self._size)

    def finish(self) -> None:
        """Write the rest; without shards the one file, also if there is nothing."""
        if self._ids or not self._size:
            self._put(len(self._ids))

    def _look(self) -> None:
        """Read what earlier runs wrote."""
        name = re.compile(
            re.escape(self._out.stem) + r"-(\d{5,})" + re.escape(self._out.suffix), re.ASCII
        )
        for path in sorted(self._out.parent.iterdir()):
            if (match := name.fullmatch(path.name)) is None:
                continue
            try:
                found = self._read(path)
            except Exception as error:  # whatever the libraries raise for what is no such file
                raise UsageError(f"{path.name} is no file of vectors; remove it") from error
            if self.fingerprint and found.fingerprint != self.fingerprint:
                raise UsageError(f"{path.name} holds vectors of another model than those before")
            self.fingerprint = found.fingerprint
            self.done.update(found.ids)
            self._next = max(self._next, int(match[1]) + 1)

    def _put(self, count: int) -> None:
        whole = np.concatenate(self._vectors) if self._vectors else _none()
        path = self._out
        if self._size:
            path = path.with_name(f"{path.stem}-{self._next:0{_DIGITS}d}{path.suffix}")
            self._next += 1
        half = path.with_name(path.name + ".part")
        try:
            with half.open("wb") as file:
                self._write(file, self._ids[:count], whole[:count], self.fingerprint)
                file.flush()
                os.fsync(file.fileno())
            os.replace(half, path)
        finally:
            half.unlink(missing_ok=True)
        self.written.append(path)
        self._ids = self._ids[count:]
        self._vectors = [whole[count:]] if count < len(whole) else []


def _none() -> FloatMatrix:
    return np.empty((0, 0), dtype=np.float32)


def _write_npz(file: Any, ids: list[str], vectors: FloatMatrix, fingerprint: str) -> None:
    np.savez(file, ids=np.array(ids, np.str_), vectors=vectors, fingerprint=np.array(fingerprint))


def _read_npz(path: Path) -> Contents:
    with np.load(path, allow_pickle=False) as file:
        return Contents(file["ids"].tolist(), str(file["fingerprint"]))


def _write_parquet(file: Any, ids: list[str], vectors: FloatMatrix, fingerprint: str) -> None:
    arrow, parquet = _parquet()
    dim = vectors.shape[1]
    numbers = arrow.array(vectors.ravel())
    column = arrow.FixedSizeListArray.from_arrays(numbers, dim) if dim else arrow.nulls(0)
    table = arrow.table({"id": arrow.array(ids, arrow.string()), "vector": column})
    table = table.replace_schema_metadata({_FINGERPRINT: fingerprint.encode()})
    parquet.write_table(table, file)


def _read_parquet(path: Path) -> Contents:
    _, parquet = _parquet()
    with parquet.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
        ids = file.read(columns=["id"])["id"].to_pylist()
    return Contents(ids, metadata[_FINGERPRINT].decode())


def _parquet() -> tuple[Any, Any]:
    try:
        found = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow: pip install pyarrow, or write an .npz file"
        ) from None
    return found


_KINDS: dict[
    str,
    tuple[
        Callable[[Any, list[str], FloatMatrix, str], None],
        Callable[[Path], Contents],
    ],
] = {".npz": (_write_npz, _read_npz), ".parquet": (_write_parquet, _read_parquet)}
