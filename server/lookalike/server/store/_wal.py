"""Looks through the log of a database before SQLite does, which cuts a damaged one in silence.

SQLite takes the log up to the first frame that does not fit its checksum, and forgets
the rest: after a power cut that is the tail of a commit that nobody was told of. But a
commit is written only once the one before it has been synced, so whatever a later
commit has written stands behind what was acknowledged: then the frame is damaged.

What cannot be told from a torn tail is damage in the very last commit of the log. The
mark tells of it, unless a power cut has set that back at the same time.

The format is that of https://www.sqlite.org/fileformat2.html#walformat. A checksum is
two sums over 32-bit words, s0 += x[i] + s1 and s1 += x[i+1] + s0, begun with that of the
frame before; being linear, all frames of a block are summed at once, 0.2 s for 128 MiB.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw
import numpy as np
from numpy.typing import NDArray

from lookalike.backends.errors import DataLoss
from lookalike.server.store._mark import Mark

_log = logging.getLogger(__name__)

_HEADER_BYTES: Final = 32
_FRAME_BYTES: Final = 24
_MAGICS: Final = {0x377F0682: "<u4", 0x377F0683: ">u4"}
_VERSION: Final = 3_007_000
_BLOCK_BYTES: Final = 16 * 2**20
_PAGE_SIZES: Final = frozenset(1 << n for n in range(9, 17))

_Words = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Frames:
    """What the frames of one block say; one entry each."""

    salted: NDArray[np.bool_]
    """Its salts are those of the log."""
    fits: NDArray[np.bool_]
    """Its checksum follows from the one that the frame before it has."""
    commits: NDArray[np.bool_]
    """It says that it ends a commit."""


def check_log(log: Path, page_bytes: int) -> None:
    """Raise DataLoss if a log holds commits behind a damaged frame. No log is a sound one.

    `page_bytes` is what the pages of a log with a damaged header are taken to have.
    """
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return
    if size <= _HEADER_BYTES:
        return
    broken = ended = False
    for frames in _read(log, page_bytes):
        for fits, salted, commits in zip(
            frames.fits.tolist(), frames.salted.tolist(), frames.commits.tolist(), strict=True
        ):
            if not broken:
                if fits and salted:
                    continue
                broken = True
                # The damaged frame may itself be the end of its commit.
                ended = salted and commits
            elif fits and salted:
                if ended:
                    raise _damaged()
                ended = commits


def fold_log(db: apsw.Connection, log: Path, mark: Mark) -> None:
    """Copy a log that was found at the opening into the database, so that it begins anew.

    Else what stands behind a torn tail would still be there after the next commit, and
    after another power cut look like a commit behind damage.
    """
    if not log.exists() or not log.stat().st_size:
        return
    mark.sync()
    try:
        db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    except apsw.Error:
        _log.warning("the log cannot be brought home yet; it goes on", exc_info=True)


def log_of(database: Path) -> Path:
    """Return where SQLite keeps the log of a database."""
    return database.with_name(database.name + "-wal")


def _damaged() -> DataLoss:
    return DataLoss(
        "The store's log (store.db-wal) is damaged, with acknowledged changes behind the damage. "
        'Restore a backup, or remove the file "mark" from the data folder to go on with what '
        "stands before the damage."
    )


def _read(log: Path, page_bytes: int) -> Iterator[_Frames]:
    with log.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        big = np.frombuffer(header, ">u4")
        order, page, sound = _MAGICS.get(int(big[0]), "<u4"), int(big[2]), True
        before = big[6:8].astype(np.uint32)
        found = _sums(np.frombuffer(header[:24], order).astype(np.uint32)[np.newaxis], order)
        if (
            big[0] not in _MAGICS
            or big[1] != _VERSION
            or page not in _PAGE_SIZES
            or (found[0] != before).any()
        ):
            page, sound = page_bytes, False
        salts = big[4:6].astype(np.uint32) if sound else None
        frame_bytes = _FRAME_BYTES + page
        at_once = max(1, _BLOCK_BYTES // frame_bytes)
        first = True
        while data := file.read(at_once * frame_bytes):
            count = len(data) // frame_bytes
            if not count:
                return
            frames = np.frombuffer(data, np.uint8, count * frame_bytes).reshape(count, -1)
            heads = np.ascontiguousarray(frames[:, :_FRAME_BYTES]).view(">u4").astype(np.uint32)
            if salts is None:
                # The header is damaged, and SQLite takes nothing of such a log: the first
                # frame stands for all that does not fit.
                salts = heads[0, 2:4]
            words = np.concatenate([frames[:, :8], frames[:, _FRAME_BYTES:]], axis=1)
            sums = _sums(np.ascontiguousarray(words).view(order).astype(np.uint32), order)
            seeds = np.vstack([before[np.newaxis], heads[:-1, 4:6]])
            sums = sums + _carried(seeds, words.shape[1] // 8)
            before = heads[-1, 4:6]
            fits = (sums == heads[:, 4:6]).all(axis=1)
            if first and not sound:
                fits[0] = False
            first = False
            yield _Frames((heads[:, 2:4] == salts).all(axis=1), fits, heads[:, 1] != 0)


def _powers(count: int) -> _Words:
    """Return (count + 1, 2, 2): the powers of the step of the sums, modulo 2^32."""
    step = np.array([[1, 1], [1, 2]], np.uint32)
    powers = np.empty((count + 1, 2, 2), np.uint32)
    powers[0] = np.eye(2, dtype=np.uint32)
    for n in range(count):
        powers[n + 1] = powers[n] @ step
    return powers


def _sums(words: _Words, order: str) -> _Words:
    """Return the (frames, 2) checksums of (frames, words), each begun with zeros."""
    pairs = words.shape[1] // 2
    # A pair (a, b) adds (a, a + b), which the steps behind it then carry on.
    enters = np.array([[1, 0], [1, 1]], np.uint32)
    weights = _powers(pairs)[pairs - 1 :: -1][:pairs] @ enters
    table = weights.transpose(0, 2, 1).reshape(2 * pairs, 2)
    return np.asarray(words @ np.ascontiguousarray(table), np.uint32)


def _carried(seeds: _Words, pairs: int) -> _Words:
    """Return what (frames, 2) sums become by so many steps that add nothing."""
    return np.asarray(seeds @ _powers(pairs)[pairs].T, np.uint32)
