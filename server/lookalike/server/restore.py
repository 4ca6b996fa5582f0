"""A backup made into a data folder. No server uses the folder meanwhile."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lookalike.backends.crashpoints import reach
from lookalike.backends.errors import (
    CollectionNotFound,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
)
from lookalike.backends.files import Files
from lookalike.backends.index import auto
from lookalike.backends.types import FlatParams, HnswParams, IndexSpec, IvfParams
from lookalike.server.backup import PIECE_BYTES, Manifest, read_trailer
from lookalike.server.domain import CollectionRecord
from lookalike.server.store import RESTORE_PART, Adopted, Store, adopt, inspect, lock

_JOURNALS = ("-journal", "-wal", "-shm")
_ALGORITHMS = {"flat": FlatParams, "hnsw": HnswParams, "ivf": IvfParams}


def restore(
    file: Path,
    data: Path,
    *,
    indexes: Mapping[str, IndexSpec],
    accept_damage: bool = False,
    say: Callable[[str], None],
) -> Manifest:
    """Make a new data folder of a backup file; return what the backup is of.

    `indexes` gives collections by name, "" all others, another kind of index. With
    `accept_damage`, single damaged items are taken along: the server leaves them out
    of its answers. The folder must be new or empty, or one of a restore that was
    interrupted. Where it fails, the folder stays without a store.

    Raises FailedPrecondition (folder in use or not empty, a newer format), DataLoss,
    InvalidArgument, UnknownBackend, IndexSpecInvalid, OSError.
    """
    files = Files()
    sha256, manifest = _open_backup(file)
    _check_empty(data)
    lock_file = lock(data, files)
    part = data / RESTORE_PART
    try:
        _check_empty(data)
        _sweep(part, files)
        try:
            _copy(file, part, sha256, manifest, files)
            reach("restore.copy.done")
            found = _look(part, manifest, accept_damage, say)
            _adapt(part, indexes)
            reach("restore.check.done")
            with files.opened(part, os.O_RDWR) as written:
                files.sync(written)
        except BaseException:
            _sweep(part, files)
            raise
        reach("restore.rename.before")
        files.rename(part, data / "store.db")
        files.sync_folder(data)
        reach("restore.rename.after")
    finally:
        os.close(lock_file)
    Store.open(data).close()  # as a server would, so that what it would refuse is known now
    say(
        f"{found.items} items in {found.collections} collections, as they were after change "
        f"{found.seq}"
    )
    return manifest


def check(file: Path, scratch: Path, say: Callable[[str], None]) -> Manifest:
    """Check a backup as `restore` would, in a folder for it; nothing is left there.

    Raises what `restore` raises.
    """
    files = Files()
    sha256, manifest = _open_backup(file)
    part = scratch / RESTORE_PART
    try:
        _copy(file, part, sha256, manifest, files)
        found = _look(part, manifest, False, say)
    finally:
        _sweep(part, files)
    say(f"sound: {found.items} items in {found.collections} collections, change {found.seq}")
    return manifest


def read_indexes(wishes: list[str]) -> dict[str, IndexSpec]:
    """Read `[COLLECTION=]BACKEND[:ALGORITHM]`, "" for all collections. Raises InvalidArgument."""
    found: dict[str, IndexSpec] = {}
    for wish in wishes:
        name, separator, kind = wish.rpartition("=")
        backend, _, algorithm = kind.partition(":")
        if not backend or (separator and not name) or (algorithm and algorithm not in _ALGORITHMS):
            raise InvalidArgument(
                f"--index {wish!r} is not BACKEND, BACKEND:ALGORITHM or COLLECTION=BACKEND; the "
                "algorithms are flat, hnsw and ivf.",
                field="index",
            )
        params = _ALGORITHMS[algorithm]() if algorithm else None
        found[name] = IndexSpec(backend, params)
    return found


def _adapt(part: Path, indexes: Mapping[str, IndexSpec]) -> None:
    """Make the copy a store of its own, with the indexes that were asked for."""
    not_seen = {name for name in indexes if name}

    def choose(record: CollectionRecord) -> IndexSpec | None:
        not_seen.discard(record.config.name)
        wanted = indexes.get(record.config.name, indexes.get(""))
        if wanted is None:
            return None
        spec = replace(wanted, metric=record.config.metric)
        auto.check(spec, record.config.dimension)
        return spec

    adopt(part, choose)
    if not_seen:
        raise CollectionNotFound(
            f"The backup has no collection {min(not_seen)!r}; look at --index.", field="index"
        )


def _open_backup(file: Path) -> tuple[bytes, Manifest]:
    if not stat.S_ISREG(file.stat().st_mode):
        raise InvalidArgument("A backup is a file; what was named is something else.")
    return read_trailer(file)


def _check_empty(data: Path) -> None:
    ours = {"lock", RESTORE_PART, *(RESTORE_PART + end for end in _JOURNALS)}
    if data.exists() and {path.name for path in data.iterdir()} - ours:
        raise FailedPrecondition(
            "The data folder is not empty. Restore into a new folder, then start the server there."
        )


def _copy(file: Path, part: Path, sha256: bytes, manifest: Manifest, files: Files) -> None:
    """Copy the database out of a backup. Raises DataLoss if its checksum does not fit."""
    digest, left = hashlib.sha256(), manifest.size_bytes
    with (
        file.open("rb") as source,
        files.opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600) as target,
    ):
        while left and (piece := source.read(min(PIECE_BYTES, left))):
            digest.update(piece)
            files.write(target, piece)
            left -= len(piece)
    if left or digest.digest() != sha256:
        raise DataLoss("The backup is damaged: its checksum does not fit. Take another one.")


def _look(
    part: Path, manifest: Manifest, accept_damage: bool, say: Callable[[str], None]
) -> Adopted:
    found = inspect(part)
    if (found.seq, found.format_version) != (manifest.seq, manifest.format_version):
        raise DataLoss("The backup is of another state than its end says. Take another one.")
    for finding in found.findings:
        say(f"damaged: {finding}")
    if found.findings and not accept_damage:
        raise DataLoss(
            "Items of the backup were damaged before it was made, the first of them are "
            "named above. Take an older backup, or say --accept-damage to restore the others."
        )
    return found


def _sweep(part: Path, files: Files) -> None:
    for end in ("", *_JOURNALS):
        files.remove(part.with_name(part.name + end))
