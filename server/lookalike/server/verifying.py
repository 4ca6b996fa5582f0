"""What is stored compared with its checksums, and indexes with what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from lookalike.server.library import Library
from lookalike.server.store import Store


class Severity(IntEnum):
    """How bad a finding is."""

    REPAIRABLE = 1
    """Nothing is lost: it can be built anew."""
    LOST = 2
    """Something that was acknowledged cannot be read."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is."""

    collection: str
    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, with what to do next."""

    severity: Severity
    check: str
    collection: str
    item_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a check."""

    seq: int
    collections: int
    items: int
    probed: int
    reached: int
    findings: int


Event = Progress | Finding | Summary


class Verifier:
    """Checks a store and the indexes derived from it, while both are in use. Any thread."""

    def __init__(self, library: Library, store: Store) -> None:
        self._library = library
        self._store = store

    def verify(self, collection: str, probe_count: int) -> Iterator[Event]:
        """Yield progress, findings and a summary; `collection` "" means all.

        `probe_count` items of each collection are searched for by their own vectors, -1
        all. Raises CollectionNotFound, CollectionLoading.
        """
        yield Summary(self._store.seq(), 0, 0, 0, 0, 0)
