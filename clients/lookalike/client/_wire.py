"""Messages to values: what an answer of the server means. Pure.

A value of an enum that this client does not know becomes "unknown": servers may be
newer than clients.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from lookalike.client import _results as results
from lookalike.client._json import from_struct
from lookalike.client._vectors import vector_array
from lookalike.client.errors import InvalidArgument, LookalikeError, make_error
from lookalike.v1 import (
    embed_service_pb2,
    index_service_pb2,
    system_service_pb2,
    types_pb2,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LIMITS = tuple(field.name for field in dataclasses.fields(results.Limits))


def enum_word(enum: Any, value: int, prefix: str) -> str:
    """Return "cosine" for METRIC_COSINE, "unknown" for what this client does not know."""
    try:
        name: str = enum.Name(value)
    except ValueError:
        return "unknown"
    word = name.removeprefix(prefix).lower()
    return "unknown" if word == "unspecified" else word


def enum_value(enum: Any, word: str, prefix: str, field: str) -> Any:
    """Return METRIC_COSINE for "cosine"; an empty word is the unspecified value.

    Raises:
        InvalidArgument: no such word; the message lists those there are.
    """
    name = prefix + (str(word) or "unspecified").replace("-", "_").upper()
    names: list[str] = enum.keys()
    if name in names:
        return enum.Value(name)
    known = ", ".join(n.removeprefix(prefix).lower() for n in names[1:])
    raise InvalidArgument(f"{field} cannot be {word!r}; it is one of {known}.", field=field)


def time_of(message: Any, field: str) -> datetime | None:
    """Return a Timestamp field as an aware datetime in UTC; None if it is not set."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    # As its own ToDatetime does it, in a quarter of the time: answers have two for each hit.
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


def error_of(message: types_pb2.Error) -> LookalikeError:
    """Return the error of one of many things in a request."""
    return make_error(
        message.code,
        message.reason,
        message.message,
        field=message.field,
        metadata=dict(message.metadata),
    )


# ------------------------------------------------------------------ items


def image_info(message: types_pb2.ImageInfo) -> results.ImageInfo:
    return results.ImageInfo(
        width=message.width,
        height=message.height,
        media_type=message.media_type,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        has_thumbnail=message.has_thumbnail,
        has_original=message.has_original,
    )


def item_fields(message: types_pb2.Item) -> dict[str, Any]:
    """Return the fields that items and hits share."""
    return {
        "id": message.id,
        "metadata": from_struct(message.metadata),
        "image": image_info(message.image) if message.HasField("image") else None,
        "vector": vector_array(message.vector) if message.HasField("vector") else None,
        "create_time": time_of(message, "create_time"),
        "update_time": time_of(message, "update_time"),
    }


def item(message: types_pb2.Item) -> results.Item:
    return results.Item(**item_fields(message))


def write_result(message: index_service_pb2.WriteResult, source: str = "") -> results.WriteResult:
    error = error_of(message.error) if message.HasField("error") else None
    return results.WriteResult(message.id, write_outcome(message.outcome), error, source)


@functools.cache
def write_outcome(value: int) -> results.WriteOutcome:
    """Return what the server says became of an item."""
    word = enum_word(index_service_pb2.WriteOutcome, value, "WRITE_OUTCOME_")
    return results.WriteOutcome(word)


# ------------------------------------------------------------- collections


def index_spec(message: index_service_pb2.IndexSpec) -> results.IndexSpec:
    algorithm: results.Flat | results.Hnsw | results.Ivf | None = None
    match message.WhichOneof("algorithm"):
        case "flat":
            algorithm = results.Flat()
        case "hnsw":
            hnsw = message.hnsw
            algorithm = results.Hnsw(hnsw.m, hnsw.ef_construction, hnsw.ef_search)
        case "ivf":
            algorithm = results.Ivf(message.ivf.nlist, message.ivf.nprobe)
    return results.IndexSpec(
        message.backend, algorithm, from_struct(message.backend_options), message.target_recall
    )


def index_segments(
    messages: Iterable[index_service_pb2.IndexSegment],
) -> tuple[results.IndexSegment, ...]:
    return tuple(
        results.IndexSegment(s.backend, from_struct(s.settings), s.count, s.live_count)
        for s in messages
    )


def recall_estimate(message: types_pb2.RecallEstimate) -> results.RecallEstimate:
    return results.RecallEstimate(
        recall=message.recall,
        low=message.low,
        high=message.high,
        limit=message.limit,
        query_count=message.query_count,
        measure_time=time_of(message, "measure_time"),
    )


def _index_status(message: index_service_pb2.IndexStatus) -> results.IndexStatus:
    return results.IndexStatus(
        message.indexed_count,
        index_segments(message.segments),
        message.building,
        message.memory_bytes,
        recall_estimate(message.recall) if message.HasField("recall") else None,
    )


def _calibration(message: index_service_pb2.ScoreCalibration) -> results.ScoreCalibration:
    return results.ScoreCalibration(
        message.pair_count, tuple(message.false_match_rates), tuple(message.scores)
    )


def collection(message: index_service_pb2.Collection) -> results.Collection:
    v1 = index_service_pb2
    return results.Collection(
        name=message.name,
        description=message.description,
        model=message.model,
        metric=enum_word(types_pb2.Metric, message.metric, "METRIC_"),
        index=index_spec(message.index),
        dimension=message.dimension,
        image_retention=enum_word(v1.ImageRetention, message.image_retention, "IMAGE_RETENTION_"),
        model_fingerprint=message.model_fingerprint,
        state=enum_word(v1.CollectionState, message.state, "COLLECTION_STATE_"),
        item_count=message.item_count,
        create_time=time_of(message, "create_time"),
        index_status=_index_status(message.index_status),
        calibration=_calibration(message.calibration) if message.HasField("calibration") else None,
        indexed_fields=tuple(message.indexed_fields),
        damaged_item_count=message.damaged_item_count,
    )


def job(message: index_service_pb2.Job) -> results.Job:
    return results.Job(
        id=message.id,
        kind=enum_word(index_service_pb2.JobKind, message.kind, "JOB_KIND_"),
        collection=message.collection,
        state=enum_word(index_service_pb2.JobState, message.state, "JOB_STATE_"),
        done_count=message.done_count,
        total_count=message.total_count,
        phase=message.phase,
        error=error_of(message.error) if message.HasField("error") else None,
        create_time=time_of(message, "create_time"),
        start_time=time_of(message, "start_time"),
        end_time=time_of(message, "end_time"),
    )


# ------------------------------------------------------ models and the server


def model(message: embed_service_pb2.Model) -> results.Model:
    return results.Model(
        name=message.name,
        dimension=message.dimension,
        modalities=tuple(
            enum_word(embed_service_pb2.Modality, m, "MODALITY_") for m in message.modalities
        ),
        fingerprint=message.fingerprint,
        is_default=message.is_default,
        loaded=message.loaded,
        device=message.device,
        runtime=message.runtime,
        precision=message.precision,
        parity=message.parity,
    )


def models(messages: Sequence[embed_service_pb2.Model]) -> tuple[results.Model, ...]:
    return tuple(map(model, messages))


def server_info(message: system_service_pb2.GetServerInfoResponse) -> results.ServerInfo:
    limits = message.limits
    return results.ServerInfo(
        version=message.version,
        start_time=time_of(message, "start_time"),
        backends=tuple(message.backends),
        limits=results.Limits(**{name: getattr(limits, name) for name in _LIMITS}),
        default_model=message.default_model,
        engine=message.engine,
        ready=message.ready,
        embedding=results.EmbeddingCounts(
            message.embedding.inputs, message.embedding.batches, message.embedding.reused
        ),
    )
