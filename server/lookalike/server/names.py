"""The names of items, kept so that a search that shows no more reads nothing from the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from lookalike.server.domain import Item

MOST: Final = 2**18
"""Names kept of one collection, about 0.25 kB each."""


class Names:
    """Items with nothing but their ids, by key. Any thread.

    A key is one item for ever, so a name that was read once is right for as long as an
    index gives its key; nothing has to be forgotten but for room.
    """

    def __init__(self, read: Callable[[Sequence[int]], dict[int, Item]]) -> None:
        self._read = read
        self._known: dict[int, Item] = {}
        self._lock = threading.Lock()

    def fetch(self, keys: Sequence[int]) -> dict[int, Item]:
        """Return items by key; those that were gone when they were asked for are missing."""
        known = self._known
        found = {key: item for key in keys if (item := known.get(key)) is not None}
        if len(found) < len(keys):
            found |= self._learn([key for key in keys if key not in found])
        return found

    def _learn(self, keys: Sequence[int]) -> dict[int, Item]:
        read = self._read(keys)
        with self._lock:
            if len(self._known) + len(read) > MOST:
                # All at once: what is asked for often is back soon.
                self._known = {}
            self._known.update(read)
        return read
