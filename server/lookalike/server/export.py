"""Collections on their way out: everything about their items, as it was after one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lookalike.backends.errors import CollectionNotFound
from lookalike.server.domain import CollectionRecord, Filter
from lookalike.server.library import Library
from lookalike.server.store import Exported, Store

_AT_ONCE_BYTES = 4 * 2**20
_MOST_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Export:
    """One collection of one state; `items` can be gone through once."""

    seq: int
    store_id: str
    server_version: str
    record: CollectionRecord
    item_count: int
    items: Iterator[Exported]


class Exporter:
    """Reads collections from one state of the store while it goes on. Any thread."""

    def __init__(self, library: Library, store: Store, *, version: str) -> None:
        self._library = library
        self._store = store
        self._version = version

    @contextmanager
    def export(self, name: str, where: Filter, *, images: bool) -> Iterator[Export]:
        """Hold on to a collection as it is now; only in the `with` it can be read.

        Some hundred items at most are in memory, and one of them with its pictures.
        Raises CollectionNotFound, FilterInvalid; `items` raises DataLoss for a damaged
        one, and ResourceExhausted if it is read so slowly that the log grows too much.
        """
        number = self._library.collection(name).number
        with self._store.moment() as moment:
            if (record := moment.collection(number)) is None:
                raise CollectionNotFound("The collection is gone; it was deleted.")
            at_once = _AT_ONCE_BYTES // (4 * max(1, record.config.dimension) + 1024)
            at_once = min(max(at_once, 1), _MOST_AT_ONCE)
            yield Export(
                seq=moment.seq,
                store_id=moment.uuid,
                server_version=self._version,
                record=record,
                item_count=moment.count(number, where),
                items=moment.items(record, where, images=images, at_once=at_once),
            )
