"""Counts of metadata values, for a page that offers filters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lookalike.server.domain import Filter, Json, View
from lookalike.server.library import Library

_LOOKED_AT = 1000
"""Items that fields are found in."""
MOST_FIELDS = 16
_FEW, _MANY = 12, 100
"""So few different values always make a filter; up to so many do if values are shared."""


@dataclass(frozen=True, slots=True)
class FieldCounts:
    """How often the values of a field occur, the most frequent first."""

    field: str
    values: Sequence[tuple[str | float | bool, int]]
    """Each value and how many items have it."""
    item_count: int
    """Items that have the field."""


class Facets:
    """Counts the values of metadata fields. Any thread."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def count_values(
        self, collection: str, fields: Sequence[str], where: Filter, count: int
    ) -> list[FieldCounts]:
        """Count the values of each field over the items that pass, the `count` most frequent.

        Without fields, of those that have few different values among the first 1000
        items. Raises CollectionNotFound, FilterInvalid.
        """
        target = self._library.collection(collection)
        if not fields:
            items = target.list(where, "", _LOOKED_AT, View.BASIC)
            fields = fields_of([item.metadata for item in items])
        counted = ((name, target.count_values(where, name, count)) for name in fields)
        return [FieldCounts(name, values, items) for name, (values, items) in counted]


def fields_of(metadata: Sequence[Json]) -> list[str]:
    """Return the fields that make filters, those of most items first, at most 16.

    A field has few different values: up to 12, or up to 100 if there are at least
    twice as many items.
    """
    seen: defaultdict[str, _Seen] = defaultdict(_Seen)
    for one in metadata:
        for name, values in _scalars(one).items():
            seen[name].items += 1
            seen[name].values |= values
    fit = [name for name, what in seen.items() if what.makes_filter]
    return sorted(fit, key=lambda name: (-seen[name].items, name))[:MOST_FIELDS]


@dataclass(slots=True)
class _Seen:
    items: int = 0
    values: set[tuple[bool, object]] = field(default_factory=set)
    """With whether it is a boolean, for True equals 1."""

    @property
    def makes_filter(self) -> bool:
        different = len(self.values)
        return different <= _FEW or (different <= _MANY and 2 * different <= self.items)


def _scalars(metadata: Json, above: str = "") -> dict[str, set[tuple[bool, object]]]:
    """Return the values by dotted path; keys that a path cannot name are left out."""
    found: dict[str, set[tuple[bool, object]]] = {}
    for key, value in metadata.items():
        if not key or "." in key or (not above and key.startswith("@")):
            continue
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{above}{key}.")
            continue
        elements = value if isinstance(value, list) else [value]
        scalars: set[tuple[bool, object]] = {
            (isinstance(e, bool), e) for e in elements if isinstance(e, str | float | bool)
        }
        if scalars:
            found[above + key] = scalars
    return found
