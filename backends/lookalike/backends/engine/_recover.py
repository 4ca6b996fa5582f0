"""Opening: load what is sound of a snapshot, then come level with the store."""

from __future__ import annotations

import logging

import numpy as np

from lookalike.backends.engine._manifest import Doubtful, Manifest, SegmentRecord
from lookalike.backends.engine._part import Part, Segment, difference, rows_of
from lookalike.backends.engine._snapshot import Disk
from lookalike.backends.engine._view import Delta, View, first_room
from lookalike.backends.engine.base import NO_SNAPSHOT, EngineConfig, Truth
from lookalike.backends.errors import DataLoss, LookalikeError
from lookalike.backends.index import auto
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.registry import indexes
from lookalike.backends.types import FlatParams, Keys, Vectors

log = logging.getLogger(__name__)

CHUNK_ROWS = 16384
"""Vectors asked of the store at a time: 32 MiB at 512 dimensions."""


def load_segments(disk: Disk, config: EngineConfig, seq: int) -> tuple[list[Segment], str]:
    """Load the segments of a sound snapshot; say why if not all of it was used.

    A manifest that does not fit is made unfindable. `seq` is the store's.
    """
    try:
        manifest = disk.read_manifest()
        if manifest is None:
            return [], NO_SNAPSHOT
        _check(manifest, config, seq)
    except Doubtful as doubt:
        return [], _thrown_away(disk, str(doubt))
    segments: list[Segment] = []
    faults: list[str] = []
    exact = _wants_exact(config, sum(record.count for record in manifest.segments))
    for record in manifest.segments:
        try:
            segments.append(_load_segment(disk, config, record, manifest.seq, exact, faults))
        except Doubtful as doubt:
            faults.append(str(doubt))
    keys = np.concatenate([np.empty(0, np.int64), *(segment.keys for segment in segments)])
    if len(np.unique(keys)) != len(keys):
        return [], _thrown_away(disk, "two of its segments hold the same key")
    if not faults:
        return segments, ""
    reason = f"{len(faults)} of {len(manifest.segments)} segments were damaged: {faults[0]}"
    log.warning("snapshot used in part: %s", reason)
    return segments, reason


def reconcile(segments: list[Segment], truth: Truth, seq: int, dim: int, limit: int) -> View:
    """Return a view of exactly what the store holds; `seq` was read before.

    Keys are compared as sets, so it does not matter how old the segments are.
    """
    wanted = np.ascontiguousarray(truth.keys(), np.int64)
    parts: list[Part] = []
    missing = wanted
    for segment in segments:
        present = rows_of(segment.keys, wanted)
        if len(present):
            live = np.zeros(len(segment.keys), np.bool_)
            live[present] = True
            whole = len(present) == len(live)
            parts.append(Part(segment, None if whole else live))
            missing = difference(missing, segment.keys)
    delta = Delta.empty(dim, max(len(missing), first_room(limit)))
    for start in range(0, len(missing), CHUNK_ROWS):
        keys, vectors = _read(truth, missing[start : start + CHUNK_ROWS])
        if vectors.shape != (len(keys), dim):
            raise DataLoss(
                f"The store has vectors of {vectors.shape[-1]} dimensions in a collection of "
                f"{dim}. Run the store's verify command."
            )
        if len(keys):
            delta = delta.append(keys, vectors)
    return View.of(parts, delta, seq, limit)


def _check(manifest: Manifest, config: EngineConfig, seq: int) -> None:
    if manifest.owner != config.owner:
        raise Doubtful("it belongs to another owner")
    if manifest.dim != config.dim:
        raise Doubtful(f"it has {manifest.dim} dimensions, not {config.dim}")
    if manifest.metric != config.metric:
        raise Doubtful(f"its metric is {manifest.metric}, not {config.metric}")
    if manifest.seq > seq:
        raise Doubtful(f"it holds seq {manifest.seq}, the store only {seq}: the store went back")


def _thrown_away(disk: Disk, reason: str) -> str:
    log.warning("snapshot thrown away, building anew from the store: %s", reason)
    try:
        disk.discard()
    except OSError as error:
        log.warning("snapshot's manifest could not be removed: %s", error.strerror)
    return reason


def _load_segment(
    disk: Disk,
    config: EngineConfig,
    record: SegmentRecord,
    seq: int,
    exact: bool,
    faults: list[str],
) -> Segment:
    """Load one segment; without its index, to be built anew, if only that is doubtful.

    `exact`: an index that leaves something out is not what is wanted now.
    """
    keys, vectors = disk.read_rows(record, config.dim)
    if len(keys) == 0 or (np.diff(keys) <= 0).any():
        raise Doubtful("its keys do not rise")
    index: VectorIndex | None = None
    try:
        path = disk.verified_index(record)
        index = indexes.resolve(record.spec.backend).load(record.spec, path, vectors)
    except Doubtful as doubt:
        faults.append(str(doubt))
    except (LookalikeError, ValueError, RuntimeError, OSError, MemoryError) as error:
        faults.append(f"its index could not be loaded ({type(error).__name__})")
    if index is not None and not index.exact and exact:
        # Left behind by a disk that was full when another kind was asked for, or by a folder
        # that somebody brought back from before that.
        index = None
    number = disk.adopt(record, seq)
    sealed = index is not None
    return Segment(
        number,
        keys,
        vectors,
        record.spec,
        index,
        mapped=True,
        sealed=sealed,
        effort=record.effort,
        boost=record.boost,
    )


def _wants_exact(config: EngineConfig, count: int) -> bool:
    """Say whether `count` vectors are to be compared exactly, as asked for or as "auto" would."""
    if config.index.algorithm is not None:
        return isinstance(config.index.algorithm, FlatParams)
    return auto.choose(config.index, count, config.dim).backend == "exact"


def _read(truth: Truth, keys: Keys) -> tuple[Keys, Vectors]:
    """Read vectors while the store goes on changing: keys that vanish are left out."""
    while True:
        try:
            return keys, np.asarray(truth.vectors(keys), np.float32)
        except KeyError:
            still = truth.keys()
            left = keys[np.isin(keys, still)]
            if len(left) == len(keys):
                raise DataLoss(
                    "The store lists items whose vectors it cannot find. "
                    "Run the store's verify command."
                ) from None
            keys = left
