"""What calls give back, and what they take: values only, no gRPC.

Times are aware datetimes in UTC; counts are items; scores are higher for more alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.client._vectors import FloatMatrix, FloatVector
from lookalike.client.errors import LookalikeError

# ------------------------------------------------------------------ items


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the server found out about a picture; `width` x `height` px as one sees it."""

    width: int
    height: int
    media_type: str
    size_bytes: int
    sha256: str
    """64 lower-case hex digits of the encoded file."""
    has_thumbnail: bool
    has_original: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A stored item. What the view leaves out is empty or None."""

    id: str
    metadata: dict[str, Any] = field(default_factory=dict)
    image: ImageInfo | None = None
    vector: FloatVector | None = field(default=None, compare=False)
    create_time: datetime | None = None
    update_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class ItemImage:
    """A stored picture: the bytes of an image file."""

    data: bytes
    media_type: str


# ----------------------------------------------------------------- writes


class WriteOutcome(StrEnum):
    """What became of one item."""

    UNKNOWN = "unknown"
    """Not known to this client."""
    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """The very same item was there already; nothing was embedded or written."""
    SKIPPED = "skipped"
    """An item of this id was there already, and was to be left alone."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one item; `error` only with FAILED."""

    id: str
    outcome: WriteOutcome
    error: LookalikeError | None = None
    source: str = ""
    """The file that it came from; empty if none."""


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """How far an upload is."""

    done_count: int
    failed_count: int
    done_bytes: int
    """Bytes of the pictures that are done with."""


@dataclass(slots=True)
class UploadReport:
    """What became of all items of an upload."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    failed: int = 0
    failures: list[WriteResult] = field(default_factory=list)
    """Those that failed, in the order in which it became known."""
    seconds: float = 0.0
    reconnects: int = 0
    """How often the stream broke or drained and another took over."""

    @property
    def total(self) -> int:
        """How many items there were."""
        return self.stored + self.skipped + self.failed

    @property
    def stored(self) -> int:
        """How many items are there now just as they were sent."""
        return self.created + self.updated + self.unchanged


# ------------------------------------------------------------- collections


@dataclass(frozen=True, slots=True)
class Flat:
    """Compare with every item."""


@dataclass(frozen=True, slots=True)
class Hnsw:
    """A navigable small-world graph; 0 means the server's default."""

    m: int = 0
    ef_construction: int = 0
    ef_search: int = 0


@dataclass(frozen=True, slots=True)
class Ivf:
    """Inverted lists; 0 means the server's default."""

    nlist: int = 0
    nprobe: int = 0


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """A kind of index. Empty parts are what the server or the backend thinks best."""

    backend: str = ""
    """"auto", "exact", "faiss", "hnswlib" or the name of a plug-in."""
    algorithm: Flat | Hnsw | Ivf | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings that only this backend knows."""
    target_recall: float = 0.0
    """The share of the true ten nearest that searches have to find, 0.5 to 0.9999. 0: 0.99,
    or what it was, where an index is built anew."""


@dataclass(frozen=True, slots=True)
class IndexSegment:
    """One sealed part of an index."""

    backend: str
    settings: dict[str, Any]
    count: int
    live_count: int


@dataclass(frozen=True, slots=True)
class RecallEstimate:
    """The share of the true nearest that searches find, and its 95 % confidence interval."""

    recall: float
    low: float
    high: float
    limit: int
    """Hits of each query that were looked at."""
    query_count: int
    measure_time: datetime | None


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """A reading of a collection's index."""

    indexed_count: int
    segments: tuple[IndexSegment, ...]
    building: bool
    memory_bytes: int
    recall: RecallEstimate | None = None
    """What the server's own check found; None while there is nothing to check or to say."""


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """What pairs of unrelated items score, learned from the collection itself."""

    pair_count: int
    false_match_rates: tuple[float, ...]
    """Shares of unrelated pairs, falling: 0.1, 0.01, ..."""
    scores: tuple[float, ...]
    """The score that this share of unrelated pairs reaches, one for each rate."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection. `state`: "ready", "loading", "model_mismatch" or "recovering"."""

    name: str
    description: str
    model: str
    metric: str
    """"cosine", "dot" or "l2"."""
    index: IndexSpec
    dimension: int
    image_retention: str
    """"none", "thumbnail" or "original"."""
    model_fingerprint: str
    state: str
    item_count: int
    create_time: datetime | None
    index_status: IndexStatus
    calibration: ScoreCalibration | None = None
    """None while there are too few items to tell."""
    indexed_fields: tuple[str, ...] = ()
    """Metadata fields with an index of their own."""
    damaged_item_count: int = 0
    """Items that are damaged in the store and left out; `verify` names them."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something that takes long. `error` only with the state "failed"."""

    id: str
    kind: str
    collection: str
    state: str
    """"queued", "running", "succeeded", "failed" or "cancelled"."""
    done_count: int
    total_count: int
    """0 if not known."""
    phase: str
    error: LookalikeError | None
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or badly."""
        return self.state in ("succeeded", "failed", "cancelled")


# ------------------------------------------------------ models and the server


@dataclass(frozen=True, slots=True)
class Model:
    """Something that turns pictures, and maybe text, into vectors."""

    name: str
    dimension: int
    modalities: tuple[str, ...]
    """Of "text" and "image"."""
    fingerprint: str
    is_default: bool
    loaded: bool
    device: str
    runtime: str = ""
    """What computes: "torch", "openvino"; empty where there is no choice."""
    precision: str = ""
    parity: str = ""
    """Compared with the plain model: "reference", "checked", "verified" or "forced"."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts at most, by the names of its configuration; 0: it does not say."""

    max_message_bytes: int = 0
    max_image_bytes: int = 0
    max_image_pixels: int = 0
    max_batch_size: int = 0
    max_search_limit: int = 0
    max_metadata_bytes: int = 0
    max_uploads: int = 0
    max_search_streams: int = 0
    max_decode_ms: int = 0
    max_decode_bytes: int = 0
    max_upload_batch: int = 0
    max_query_parts: int = 0
    max_metadata_depth: int = 0
    max_id_bytes: int = 0
    max_text_chars: int = 0
    max_fields: int = 0
    max_delete_ids: int = 0
    max_page_size: int = 0
    max_filter_depth: int = 0
    max_filter_conditions: int = 0
    max_filter_values: int = 0
    max_dimension: int = 0
    max_open_chunked: int = 0
    upload_window_items: int = 0
    upload_window_vectors: int = 0
    upload_window_bytes: int = 0
    embed_queue_items: int = 0
    max_uploads_per_peer: int = 0
    max_search_streams_per_peer: int = 0
    max_lasting_calls: int = 0
    max_lasting_calls_per_peer: int = 0
    max_connections: int = 0
    embed_queue_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EmbeddingCounts:
    """What embedding has cost a server since its start; zeros of one that does not say."""

    inputs: int = 0
    """Pictures and texts that went through a model."""
    batches: int = 0
    """Calls of a model that they took."""
    reused: int = 0
    """Pictures that needed no model: the same file was embedded before."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is."""

    version: str
    start_time: datetime | None
    backends: tuple[str, ...]
    limits: Limits
    default_model: str
    engine: str
    ready: bool
    embedding: EmbeddingCounts = EmbeddingCounts()


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors of inputs, in their order; numpy takes it for the matrix."""

    vectors: FloatMatrix
    """(n, dim) float32; the rows of inputs that failed are NaN."""
    model: Model
    errors: dict[int, LookalikeError] = field(default_factory=dict)
    """Why there is no vector, by input; always empty with strict=True."""
    truncated: tuple[bool, ...] = ()
    """Whether a text was longer than the model reads."""

    def __len__(self) -> int:
        return len(self.vectors)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vectors, dtype=dtype, copy=copy)


class Health(StrEnum):
    """What the standard health service says."""

    UNKNOWN = "unknown"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
