"""One state of the local engine, to be compared with the store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lookalike.backends.engine._manifest import Doubtful, Manifest
from lookalike.backends.engine._snapshot import INDEX, ROWS, Disk
from lookalike.backends.engine._view import View
from lookalike.backends.types import Keys, Vectors

_TRIES = 5
"""A snapshot that is written while its files are read sweeps them away."""


class LocalHolding:
    """Implements `Holding` over a view, which does not change, and the engine's folder."""

    def __init__(self, view: View, disk: Disk) -> None:
        self._view = view
        self._disk = disk

    def keys(self) -> Keys:
        """Return the keys of all live rows, rising."""
        keys = np.concatenate([part.keys() for part in self._view.every])
        return np.sort(keys)

    def blocks(self, rows: int) -> Iterator[tuple[Keys, Vectors]]:
        """Yield keys with their vectors, part by part; mapped ones come from the disk."""
        for part in self._view.every:
            live = part.live_rows()
            for start in range(0, len(live), rows):
                chosen = live[start : start + rows]
                yield part.segment.keys[chosen], part.segment.vectors[chosen]

    def faults(self) -> Iterator[str]:
        """Compare the files of the snapshot that are in use with the manifest's checksums.

        What was found damaged at the opening has been thrown away, if not yet removed.
        """
        found: list[str] = []
        for _ in range(_TRIES):
            manifest, found = self._look()
            if not found or manifest == self._manifest():
                break
        yield from found

    def _look(self) -> tuple[Manifest | None, list[str]]:
        try:
            manifest = self._disk.read_manifest()
        except Doubtful as doubt:
            return None, [f"the snapshot is of no use: {doubt}"]
        if manifest is None:
            gone = ["the snapshot is gone"] if self._disk.seq else []
            return None, gone
        found: list[str] = []
        used = self._used()
        for record in manifest.segments:
            for name in used.get(record.name, set()) & record.files.keys():
                try:
                    self._disk.verify(record, name)
                except Doubtful as doubt:
                    found.append(f"{record.name}: {doubt}")
        return manifest, found

    def _used(self) -> dict[str, set[str]]:
        """Return the files of each segment that are searched, or kept for the next start."""
        used: dict[str, set[str]] = {}
        for part in self._view.parts:
            segment = part.segment
            if segment.number >= 0:
                names = {ROWS} if segment.index is None else {ROWS, INDEX}
                used[f"segment-{segment.number:08d}"] = names
        return used

    def _manifest(self) -> Manifest | None:
        try:
            return self._disk.read_manifest()
        except Doubtful:
            return None
