"""What searches and questions about a whole collection give back: values only, no gRPC.

Scores are higher for more alike; regions are fractions of a picture as one sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, overload

from lookalike.client._results import ImageInfo
from lookalike.client._vectors import FloatMatrix, FloatVector

# ----------------------------------------------------------------- search


class Tier(StrEnum):
    """What a match is worth, as the server judged it."""

    NOT_JUDGED = ""
    UNKNOWN = "unknown"
    """Not known to this client."""
    SAME_PICTURE = "same_picture"
    """The same picture, perhaps cropped, resized or written on: the pixels were compared."""
    SAME_SCENE = "same_scene"
    """Far beyond what unrelated pictures of the collection score."""
    SIMILAR = "similar"
    """Beyond what nearly all unrelated pictures score."""
    WEAK = "weak"
    """Unrelated pictures score as high."""


class Region(NamedTuple):
    """A box in a picture, in fractions of its width and height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that was found, and how alike it is by the collection's metric."""

    id: str
    score: float
    metadata: dict[str, Any] = field(default_factory=dict)
    image: ImageInfo | None = None
    vector: FloatVector | None = field(default=None, compare=False)
    create_time: datetime | None = None
    update_time: datetime | None = None
    false_match_rate: float | None = None
    """The share of unrelated pictures that score as high; only with `judge`."""
    tier: Tier = Tier.NOT_JUDGED
    """What the match is worth; only with `judge`."""
    duplicate_count: int = 0
    """Near-duplicates folded into this hit; only with `fold_duplicates`."""
    duplicate_ids: tuple[str, ...] = ()
    """Their ids, the best first, at most 100."""


@dataclass(frozen=True, slots=True)
class SearchInfo:
    """How an answer came about. The parts add up to `total_ms`, but for a small rest."""

    exact: bool
    matched_count: int | None
    """How many items pass the filter, where the server counted them."""
    truncated: bool
    """True if the query text was longer than the model reads."""
    embed_ms: float
    index_ms: float
    total_ms: float
    decode_ms: float = 0.0
    """Reading the query's pictures."""
    queue_ms: float = 0.0
    """Waiting for a thread or the model."""
    fetch_ms: float = 0.0
    """Fetching the items."""
    rank_ms: float = 0.0
    """Judging, grouping and ordering the hits."""


@dataclass(frozen=True, slots=True)
class SearchResult(Sequence[Hit]):
    """The hits, best first; a sequence of them."""

    hits: tuple[Hit, ...]
    info: SearchInfo

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the hits, best first."""
        return tuple(hit.id for hit in self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.hits[index]


# ---------------------------------------------------------------- reasons


@dataclass(frozen=True, slots=True)
class RegionMatch:
    """Two regions that agree, one in each picture; `strength` is 0 to 1."""

    query_region: Region
    item_region: Region
    strength: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item matches a picture."""

    score: float
    tier: Tier
    matches: tuple[RegionMatch, ...]
    """The strongest first."""
    query_map: FloatMatrix = field(compare=False)
    """(rows, columns) float32, 0 to 1: how much each cell agrees with the other picture."""
    item_map: FloatMatrix = field(compare=False)
    """The same for the item's picture."""


# ------------------------------------------------------------- duplicates


@dataclass(frozen=True, slots=True)
class DuplicateMember:
    """One item of a group of duplicates."""

    id: str
    kind: str
    """What it is to the first: "exact", "same_picture" or "near"; "" for the first itself."""
    score: float
    """Against the first member."""
    image: ImageInfo | None = None


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Items that show the same; the first is the one worth keeping."""

    members: tuple[DuplicateMember, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the members, the one worth keeping first."""
        return tuple(member.id for member in self.members)


@dataclass(frozen=True, slots=True)
class DuplicateProgress:
    """How far the comparing is, in items."""

    done_count: int
    total_count: int


# ----------------------------------------------------------------- facets


@dataclass(frozen=True, slots=True)
class ValueCount:
    """How many items have a value: a text, a number or a boolean."""

    value: Any
    count: int


@dataclass(frozen=True, slots=True)
class FieldCounts:
    """The values of a metadata field, the most frequent first."""

    field: str
    values: tuple[ValueCount, ...]
    item_count: int
    """Items that have the field."""
