"""The nouns of the server: what a collection, an item, a query and an answer are.

Values only: no I/O, no gRPC, no SQL. Times are seconds since the epoch, as the
clock that was passed in gave them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.engine.base import EngineStats
from lookalike.backends.errors import LookalikeError
from lookalike.backends.types import IndexSpec, Metric, SearchParams
from lookalike.server.filters import Condition as Condition  # noqa: PLC0414 - a noun too
from lookalike.server.filters import Filter as Filter  # noqa: PLC0414
from lookalike.server.filters import Test as Test  # noqa: PLC0414

Vector: TypeAlias = NDArray[np.float32]
"""(dim,) float32."""
Json: TypeAlias = Mapping[str, object]
"""A JSON object; numbers are floats."""

DEFAULT_COLLECTION = "default"
NO_MODEL = "none"
"""The model name of collections whose vectors are all brought along."""


class Retention(StrEnum):
    """Which pictures a collection keeps."""

    NONE = "none"
    THUMBNAIL = "thumbnail"
    ORIGINAL = "original"


class CollectionState(Enum):
    READY = "ready"
    LOADING = "loading"
    MODEL_MISMATCH = "model_mismatch"
    RECOVERING = "recovering"


@dataclass(frozen=True, slots=True)
class CollectionConfig:
    """What its owner decides about a collection; `model` "" = the server's default."""

    name: str
    description: str = ""
    model: str = ""
    metric: Metric = Metric.COSINE
    index: IndexSpec | None = None
    """None: the server's default."""
    dimension: int = 0
    retention: Retention = Retention.THUMBNAIL
    indexed_fields: tuple[str, ...] = ()
    """Metadata fields, as conditions name them, that filters find by an index."""


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A collection as the store keeps it: `config` with every default filled in."""

    number: int
    """The store's own number for it, never used twice."""
    config: CollectionConfig
    space: str
    """Fingerprint of the model that made its vectors; "" with NO_MODEL."""
    create_time: float


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """A collection as its users see it."""

    record: CollectionRecord
    state: CollectionState
    item_count: int
    stats: EngineStats | None = None
    """None while it is loading."""
    damaged_count: int = 0
    """Items left out because the store cannot vouch for them."""


class WriteMode(Enum):
    """What to do with an id that is there already."""

    UPSERT = "upsert"
    SKIP_EXISTING = "skip_existing"
    CREATE_ONLY = "create_only"


class ExifMode(Enum):
    """What to take over from a picture's EXIF data, and its size, into the metadata."""

    NONE = "none"
    BASIC = "basic"
    WITH_POSITION = "with_position"


class Outcome(Enum):
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item as its owner gives it. At least one of `image` and `vector` is set."""

    id: str
    """"" = made from the image's SHA-256."""
    image: bytes | None = None
    vector: Vector | None = None
    metadata: Json = field(default_factory=dict)
    stored: StoredParts | None = None
    """Only with `vector`."""


@dataclass(frozen=True, slots=True)
class StoredParts:
    """What a server worked out about an item: taken over, not worked out anew."""

    image: ImageRecord | None = None
    """Of the picture, for an item that comes without it."""
    thumbnail: bytes | None = None
    digest: bytes = b""
    """b"": made from what the item brings."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is known about an item's picture; `width` x `height` px after orientation."""

    width: int
    height: int
    media_type: str
    size_bytes: int
    sha256: str
    """64 lower-case hex digits of the encoded file."""
    has_thumbnail: bool
    has_original: bool


@dataclass(frozen=True, slots=True)
class ReadyItem:
    """An item ready to be stored: embedded, checked, pictures cut to the retention."""

    id: str
    vector: Vector
    metadata: Json
    digest: bytes
    """SHA-256 over everything the owner gave but the id: equal = the very same item."""
    image: ImageRecord | None = None
    thumbnail: bytes | None = None
    """JPEG, at most 256 x 256 px."""
    original: bytes | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one item; `error` only with FAILED."""

    id: str
    outcome: Outcome
    error: LookalikeError | None = None


class View(Enum):
    """How much of each item an answer carries."""

    ID = "id"
    BASIC = "basic"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Item:
    """An item as it is stored. What the view leaves out is empty or None."""

    key: int
    id: str
    metadata: Json = field(default_factory=dict)
    image: ImageRecord | None = None
    vector: Vector | None = None
    create_time: float = 0.0
    update_time: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredImage:
    media_type: str
    data: bytes


# ---------------------------------------------------------------- queries


@dataclass(frozen=True, slots=True)
class Region:
    """A box inside a picture, in fractions of its upright width and height; not empty."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class TextQuery:
    text: str


@dataclass(frozen=True, slots=True)
class ImageQuery:
    data: bytes
    region: Region | None = None
    """Only this part of the picture; None: the whole."""


@dataclass(frozen=True, slots=True)
class ItemQuery:
    id: str
    region: Region | None = None
    """Only this part of the item's picture, as far as it is kept; None: its vector."""


@dataclass(frozen=True, slots=True)
class VectorQuery:
    vector: Vector


Input: TypeAlias = TextQuery | ImageQuery | ItemQuery | VectorQuery


@dataclass(frozen=True, slots=True)
class Part:
    """One of several things to look for at once; a negative weight pushes away."""

    input: Input
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class MixedQuery:
    """Several things at once: their vectors, each of length 1, weighted and added."""

    parts: tuple[Part, ...]


Query: TypeAlias = Input | MixedQuery


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What of the found to show. Applied in the order score, filter, fold, group,
    diversity, limit; judged is what is left."""

    limit: int = 10
    filter: Filter = field(default_factory=Filter)
    min_score: float | None = None
    view: View = View.BASIC
    params: SearchParams = field(default_factory=SearchParams)
    diversity: float = 0.0
    """0..1, weight of variety against likeness."""
    group_by: str = ""
    """A field, as conditions name it, of which at most `group_limit` matches share a value."""
    group_limit: int = 1
    fold_duplicates: bool = False
    max_false_match_rate: float = 0.0
    """Above 0: the `min_score` that this share of unrelated pictures reaches."""
    judge: bool = False


# ---------------------------------------------------------------- judgements


class Tier(Enum):
    """What a match is worth, the best first."""

    SAME_PICTURE = "same_picture"
    """The same picture, perhaps altered: the pixels were compared."""
    SAME_SCENE = "same_scene"
    SIMILAR = "similar"
    WEAK = "weak"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one match is worth; None where nothing can be told."""

    rate: float | None = None
    """Share of unrelated pairs of the collection that score as high."""
    tier: Tier | None = None


NOT_JUDGED: Final = Judgement()
"""One for all: making one for each hit takes as long as making the hit."""


# ---------------------------------------------------------------- answers


class Match(NamedTuple):
    """One item that was found; `score` by the collection's metric, higher is closer."""

    item: Item
    score: float
    judgement: Judgement = NOT_JUDGED
    duplicates: tuple[str, ...] = ()
    """Ids of the near-duplicates that were folded into it, the best first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query, best first, equal scores by id; with `diversity` in the
    order of choice. Times in milliseconds."""

    matches: list[Match]
    exact: bool
    matched_count: int | None = None
    """How many items pass the filter, where they were counted."""
    truncated: bool = False
    decode_ms: float = 0.0
    queue_ms: float = 0.0
    embed_ms: float = 0.0
    index_ms: float = 0.0
    fetch_ms: float = 0.0
    rank_ms: float = 0.0
    total_ms: float = 0.0


# ---------------------------------------------------------------- embedding


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    dimension: int
    """0 if the model was never loaded in this server."""
    modalities: tuple[str, ...]
    """Of "image", "text"; empty if not known before loading."""
    space: str
    is_default: bool
    loaded: bool
    device: str
    numerics: Mapping[str, str] = field(default_factory=dict)  # see `Embedder.numerics`
    spaces: frozenset[str] = frozenset()  # see `LoadedModel.spaces`


@dataclass(frozen=True, slots=True)
class Embedded:
    """One input's vector as the model gave it, not normalised."""

    vector: Vector
    truncated: bool = False
    began: float = 0.0
    """When the model took up the batch that this was in, in `time.monotonic()` seconds."""
    ended: float = 0.0


# ---------------------------------------------------------------- jobs


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    kind: str
    """"rebuild_index"."""
    collection: str
    state: JobState
    done_count: int = 0
    total_count: int = 0
    phase: str = ""
    error_code: str = ""
    """Reason of the failure, and the message for people."""
    error_message: str = ""
    create_time: float = 0.0
    start_time: float = 0.0
    end_time: float = 0.0
