"""The items that are known to be damaged: left out of everything, and refused by name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, KeysView, Mapping, Sequence
from types import MappingProxyType

from lookalike.backends.errors import DataLoss

_log = logging.getLogger(__name__)

MOST = 10_000
"""A collection with more damaged items is refused as a whole: its disk is failing."""
_NONE: Mapping[int, frozenset[str]] = MappingProxyType({})


class DamagedItems:
    """What has been found of damage, by collection and key. Any thread.

    Kept in memory only: it is found again when the collections are opened. `found` is
    called with a collection's number and the keys that were not known before, on the
    thread that found them, which holds no lock.
    """

    def __init__(self) -> None:
        self.found: Callable[[int, Sequence[int]], None] | None = None
        self._lock = threading.Lock()
        self._by_number: dict[int, Mapping[int, frozenset[str]]] = {}
        """Ids by key, by number; the inner ones are replaced, never changed."""

    def note(self, number: int, items: Mapping[int, Iterable[str]]) -> None:
        """Remember damaged items: the ids of each key, none if they cannot be known.

        Raises DataLoss if there are more than anyone should go on with.
        """
        with self._lock:
            known = self._by_number.get(number, _NONE)
            new = [key for key in items if key not in known]
            ids = {key: known.get(key, frozenset()) | set(items[key]) for key in items}
            self._by_number[number] = {**known, **ids}
            count = len(self._by_number[number])
        if new:
            _log.error(
                "damaged items are left out, `lookalike verify` names them: "
                "collection_number=%s new=%s all=%s",
                number,
                len(new),
                count,
            )
            if self.found is not None:
                self.found(number, new)
        if count > MOST:
            raise too_many()

    def forget(self, number: int, keys: Iterable[int]) -> None:
        """Forget items that were deleted or stored anew."""
        if number not in self._by_number:
            return
        with self._lock:
            left = dict(self._by_number.get(number, _NONE))
            for key in keys:
                left.pop(key, None)
            self._by_number[number] = left

    def keys(self, number: int) -> KeysView[int]:
        """Return the keys of a collection's damaged items; a set that does not change."""
        return self._by_number.get(number, _NONE).keys()

    def named(self, number: int) -> Mapping[int, frozenset[str]]:
        """Return the ids of a collection's damaged items by key; does not change."""
        return self._by_number.get(number, _NONE)

    def keys_named(self, number: int, ids: Collection[str]) -> list[int]:
        """Return the keys of the damaged items with one of these ids."""
        known = self._by_number.get(number, _NONE)
        return [key for key, names in known.items() if not names.isdisjoint(ids)]

    def but(self, number: int) -> str:
        """Return SQL to follow a condition on `items AS i`: that it is none of these."""
        keys = self.keys(number)
        return f" AND i.key NOT IN ({','.join(map(str, sorted(keys)))})" if keys else ""


def too_many() -> DataLoss:
    """Return the error of a collection that is more damage than items."""
    return DataLoss(
        f"More than {MOST} items of a collection are damaged in the store. Stop the server, "
        "check the disk and restore a backup."
    )
