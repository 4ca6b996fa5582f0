"""Which parts to build anew, and building one segment out of several parts."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from lookalike.backends.engine._effort import raised
from lookalike.backends.engine._part import Part, Segment
from lookalike.backends.engine._snapshot import Disk
from lookalike.backends.engine._view import View
from lookalike.backends.errors import LookalikeError
from lookalike.backends.index import auto
from lookalike.backends.index.base import VectorIndex
from lookalike.backends.registry import indexes
from lookalike.backends.types import IndexSpec, Keys, Progress, Vectors

log = logging.getLogger(__name__)

BLOCK_ROWS = 8192
"""Rows copied at a time."""
NICENESS = 10
"""Of the thread that builds: about a tenth of a core that others want, too."""


def stand_back() -> None:
    """Give the calling thread less of a busy machine than those that answer searches.

    A thread's own priority is something that Linux has; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # where the system does not let us, it builds all the same
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


class Abandoned(Exception):
    """Raised by the progress of a background build that nobody waits for any more."""


def outgrown(view: View, spec: IndexSpec, dim: int) -> list[Part]:
    """Return segments that are compared exactly though the whole is too large for that.

    "auto" chooses by the size of the whole, since every search visits every
    segment; one that was made while the whole was small is not left behind.
    """
    plain = [
        p
        for p in view.parts
        if p.segment.index and p.segment.spec.backend == "exact" and not p.segment.effort
    ]
    if not plain:
        return []
    try:
        now = auto.choose(spec, view.count, dim)
    except LookalikeError:
        return []  # building would fail the same way, and say so
    return [] if now.backend == "exact" else plain


def plan(view: View, spec: IndexSpec, dim: int, *, fresh: bool) -> list[Part]:
    """Return the parts that should become one segment now; empty if none should.

    With `fresh` those that wait for an index, otherwise those with many dead rows or an index of the wrong kind. A new segment swallows older ones that are
    not larger than what it has so far: each time a vector is built in again its
    segment is at least twice as large, so there are O(log n) segments and each
    vector is built in O(log n) times.
    """
    if fresh:
        chosen = [part for part in view.parts if not part.segment.sealed]
    else:
        chosen = view.withered or outgrown(view, spec, dim)
    if not chosen:
        return []
    total = sum(part.count for part in chosen)
    for part in sorted(view.parts, key=lambda part: part.count):
        if part.segment.sealed and not any(part is other for other in chosen):
            if part.count > total:
                break
            chosen.append(part)
            total += part.count
    return chosen


def build_segment(
    parts: Sequence[Part],
    spec: IndexSpec,
    dim: int,
    disk: Disk,
    *,
    whole: int,
    memory: int = 0,
    threads: int,
    progress: Progress,
    effort: int = 0,
    fall_back: bool,
) -> Segment:
    """Build one segment over the live rows of some parts, at least one row.

    The rows go to their file first and are mapped from there, so that a build
    needs no second copy of them in memory; in memory if the disk does not take
    them. `whole` is the size of the engine and `memory` what its indexes may take, in
    bytes, which "auto" goes by. With `fall_back`, a backend that fails leaves a segment without an
    index, which is compared exactly: right answers, only slower.

    Raises what `progress` raises, and without `fall_back` what the backend raises.
    """
    number = disk.new_number()
    keys, blocks = _merged(parts, dim, progress)
    try:
        try:
            vectors = disk.write_rows(number, keys, dim, blocks())
            mapped = True
        except OSError as error:
            log.warning("segment kept in memory, its file was not written: %s", error.strerror)
            vectors, mapped = _in_memory(len(keys), dim, blocks()), False
        index: VectorIndex | None = None
        try:
            whole = max(whole, len(keys))
            spec = auto.choose(spec, whole, dim, rows=len(keys), memory=memory)
            spec = raised(spec, effort)
            cls = indexes.resolve(spec.backend)
            index = cls.build(spec, vectors, threads=threads, progress=progress)
        except Abandoned:
            raise
        except Exception:
            progress("build", 0, len(keys))  # raises if the backend only hid that it was stopped
            if not fall_back:
                raise
            log.exception("index not built, comparing exactly: backend=%s", spec.backend)
        progress("build", len(keys), len(keys))
        return Segment(number, keys, vectors, spec, index, mapped=mapped, effort=effort)
    except BaseException:
        disk.abandon(number)
        raise


def _merged(
    parts: Sequence[Part], dim: int, progress: Progress
) -> tuple[Keys, Callable[[], Iterator[Vectors]]]:
    """Return the live keys of all parts, rising, and a way to walk through their vectors."""
    rows = [part.live_rows() for part in parts]
    keys = np.concatenate([p.segment.keys[r] for p, r in zip(parts, rows, strict=True)])
    order = np.argsort(keys, kind="stable")
    starts = np.cumsum([0, *(len(r) for r in rows)])

    def blocks() -> Iterator[Vectors]:
        for start in range(0, len(order), BLOCK_ROWS):
            progress("copy", start, len(order))
            some = order[start : start + BLOCK_ROWS]
            block = np.empty((len(some), dim), np.float32)
            for i, part in enumerate(parts):
                mine = (some >= starts[i]) & (some < starts[i + 1])
                block[mine] = part.segment.vectors[rows[i][some[mine] - starts[i]]]
            yield block

    return keys[order], blocks


def _in_memory(count: int, dim: int, blocks: Iterator[Vectors]) -> Vectors:
    vectors = np.empty((count, dim), np.float32)
    start = 0
    for block in blocks:
        vectors[start : start + len(block)] = block
        start += len(block)
    return vectors
