"""Collections, index specs and jobs between the wire and the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lookalike.backends.engine.base import EngineStats
from lookalike.backends.errors import IndexSpecInvalid, InvalidArgument
from lookalike.backends.recall import Recall
from lookalike.backends.types import (
    LEAST_TARGET_RECALL,
    MOST_TARGET_RECALL,
    Algorithm,
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Metric,
)
from lookalike.server.calibration import Calibration
from lookalike.server.domain import (
    NO_MODEL,
    CollectionConfig,
    CollectionInfo,
    CollectionState,
    Job,
    JobState,
)
from lookalike.server.limits import Limits
from lookalike.server.rpc.status import code_number, code_of_reason
from lookalike.server.rpc.wire import (
    METRICS,
    RETENTIONS,
    check_fields,
    read_enum,
    read_field,
    read_json,
    read_name,
    write_enum,
    write_json,
    write_time,
)
from lookalike.v1 import index_service_pb2 as pb
from lookalike.v1 import types_pb2

_DESCRIPTION_CHARS = 1000
_STATES = {
    CollectionState.READY: pb.COLLECTION_STATE_READY,
    CollectionState.LOADING: pb.COLLECTION_STATE_LOADING,
    CollectionState.MODEL_MISMATCH: pb.COLLECTION_STATE_MODEL_MISMATCH,
    CollectionState.RECOVERING: pb.COLLECTION_STATE_RECOVERING,
}
_JOB_STATES = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_JOB_KINDS = {"rebuild_index": pb.JOB_KIND_REBUILD_INDEX}


def read_collection(
    message: pb.Collection, limits: Limits, default: IndexSpec, at: str = "collection"
) -> CollectionConfig:
    """Return what its owner decides; what only the server sets is not looked at.

    Raises InvalidArgument, IndexSpecInvalid.
    """
    if len(message.description) > _DESCRIPTION_CHARS:
        raise InvalidArgument(
            f"The description has {len(message.description)} characters; "
            f"{_DESCRIPTION_CHARS} is the most.",
            field=f"{at}.description",
        )
    _check_dimension(message, limits, f"{at}.dimension")
    metric = read_enum(message.metric, METRICS, f"{at}.metric")
    index = None
    if message.HasField("index"):
        index = read_index(message.index, default, metric, f"{at}.index")
    return CollectionConfig(
        name=read_name(message.name, f"{at}.name"),
        description=message.description,
        model=message.model,
        metric=metric,
        index=index,
        dimension=message.dimension,
        retention=read_enum(message.image_retention, RETENTIONS, f"{at}.image_retention"),
        indexed_fields=_read_indexed(message.indexed_fields, limits, f"{at}.indexed_fields"),
    )


def _read_indexed(names: Sequence[str], limits: Limits, at: str) -> tuple[str, ...]:
    fields = tuple(
        read_field(name, limits, f"{at}[{i}]")
        for i, name in enumerate(check_fields(names, limits, at))
    )
    for i, name in enumerate(fields):
        if len(name.encode()) > limits.max_id_bytes:
            raise InvalidArgument(
                f"The name of an indexed field has at most {limits.max_id_bytes} bytes.",
                field=f"{at}[{i}]",
                limit=limits.max_id_bytes,
            )
        if name in fields[:i]:
            raise InvalidArgument(f"{name!r} is named twice; once is enough.", field=f"{at}[{i}]")
    return fields


def _check_dimension(message: pb.Collection, limits: Limits, at: str) -> None:
    if not 0 <= message.dimension <= limits.max_dimension:
        raise InvalidArgument(
            f"A vector has 1 to {limits.max_dimension} numbers, not {message.dimension}.",
            field=at,
            limit=limits.max_dimension,
        )
    if message.model == NO_MODEL and message.dimension == 0:
        raise InvalidArgument(
            f"A collection with the model {NO_MODEL!r} needs its dimension.", field=at
        )


def read_index(
    message: pb.IndexSpec, default: IndexSpec, metric: Metric, at: str = "index"
) -> IndexSpec:
    """Return the kind of index; without a backend, the default's. Raises IndexSpecInvalid."""
    algorithm = _read_algorithm(message, at)
    target = _read_target(message, at)
    if not message.backend:
        spec = replace(default, metric=metric, target_recall=target or default.target_recall)
        return spec if algorithm is None else replace(spec, algorithm=algorithm)
    options: Mapping[str, object] = {}
    if message.HasField("backend_options"):
        options, _ = read_json(message.backend_options, f"{at}.backend_options")
    return IndexSpec(message.backend, algorithm, options, metric, target or default.target_recall)


def read_changed_index(
    message: pb.IndexSpec, default: IndexSpec, own: IndexSpec, metric: Metric, at: str = "index"
) -> IndexSpec:
    """Return the kind of index in place of a collection's `own`, whose target recall is kept
    unless another is said; with that alone, so is the rest. Raises IndexSpecInvalid."""
    rest = pb.IndexSpec()
    rest.CopyFrom(message)
    rest.ClearField("target_recall")
    if message.target_recall and rest == pb.IndexSpec():
        default = own
    return read_index(message, replace(default, target_recall=own.target_recall), metric, at)


def _read_target(message: pb.IndexSpec, at: str) -> float:
    target = message.target_recall
    if target and not LEAST_TARGET_RECALL <= target <= MOST_TARGET_RECALL:
        raise IndexSpecInvalid(
            f"target_recall is {LEAST_TARGET_RECALL} to {MOST_TARGET_RECALL}, or 0 for the "
            f'default; it is {target:g}. For all of them, use the backend "exact".',
            field=f"{at}.target_recall",
        )
    return target


def _read_algorithm(message: pb.IndexSpec, at: str) -> Algorithm | None:
    match message.WhichOneof("algorithm"):
        case "flat":
            return FlatParams()
        case "hnsw":
            hnsw = message.hnsw
            _check_setting(hnsw.m == 0 or 4 <= hnsw.m <= 128, "m is 4 to 128", f"{at}.hnsw.m")
            least = hnsw.m or 0
            _check_setting(
                hnsw.ef_construction == 0 or hnsw.ef_construction >= max(least, 1),
                "ef_construction is at least m",
                f"{at}.hnsw.ef_construction",
            )
            _check_setting(hnsw.ef_search >= 0, "ef_search is not negative", f"{at}.hnsw.ef_search")
            return HnswParams(hnsw.m, hnsw.ef_construction, hnsw.ef_search)
        case "ivf":
            ivf = message.ivf
            _check_setting(ivf.nlist >= 0, "nlist is not negative", f"{at}.ivf.nlist")
            _check_setting(ivf.nprobe >= 0, "nprobe is not negative", f"{at}.ivf.nprobe")
            return IvfParams(ivf.nlist, ivf.nprobe)
    return None


def _check_setting(holds: bool, rule: str, field: str) -> None:
    if not holds:
        raise IndexSpecInvalid(f"{rule}, or 0 for the default.", field=field)


def write_collection(info: CollectionInfo, calibration: Calibration | None = None) -> pb.Collection:
    """Return a collection as its users see it."""
    record, config = info.record, info.record.config
    return pb.Collection(
        name=config.name,
        description=config.description,
        model=config.model,
        metric=types_pb2.Metric.ValueType(write_enum(config.metric, METRICS)),
        index=None if config.index is None else write_index(config.index),
        dimension=config.dimension,
        image_retention=pb.ImageRetention.ValueType(write_enum(config.retention, RETENTIONS)),
        model_fingerprint=record.space,
        state=_STATES[info.state],
        item_count=info.item_count,
        damaged_item_count=info.damaged_count,
        indexed_fields=config.indexed_fields,
        create_time=write_time(record.create_time),
        index_status=None if info.stats is None else _write_stats(info.stats),
        calibration=None if calibration is None else _write_calibration(calibration),
    )


def _write_calibration(calibration: Calibration) -> pb.ScoreCalibration:
    return pb.ScoreCalibration(
        pair_count=calibration.pair_count,
        false_match_rates=calibration.rates,
        scores=calibration.scores,
    )


def write_index(spec: IndexSpec) -> pb.IndexSpec:
    """Return a kind of index."""
    message = pb.IndexSpec(backend=spec.backend, target_recall=spec.target_recall)
    match spec.algorithm:
        case FlatParams():
            message.flat.SetInParent()
        case HnswParams() as hnsw:
            message.hnsw.SetInParent()
            message.hnsw.m = hnsw.m
            message.hnsw.ef_construction = hnsw.ef_construction
            message.hnsw.ef_search = hnsw.ef_search
        case IvfParams() as ivf:
            message.ivf.SetInParent()
            message.ivf.nlist = ivf.nlist
            message.ivf.nprobe = ivf.nprobe
    if spec.options:
        message.backend_options.CopyFrom(write_json(spec.options))
    return message


def _write_stats(stats: EngineStats) -> pb.IndexStatus:
    return pb.IndexStatus(
        indexed_count=stats.indexed,
        segments=[write_segment(segment) for segment in stats.segments],
        building=stats.building,
        memory_bytes=stats.memory_bytes,
        recall=None if stats.recall is None else write_recall(stats.recall),
    )


def write_recall(recall: Recall) -> types_pb2.RecallEstimate:
    """Return what a measurement of recall found."""
    estimate = recall.estimate
    return types_pb2.RecallEstimate(
        recall=estimate.value,
        low=estimate.low,
        high=estimate.high,
        limit=recall.limit,
        query_count=estimate.count,
        measure_time=write_time(recall.time),
    )


def write_segment(segment: Mapping[str, object]) -> pb.IndexSegment:
    """Return one sealed part of an index."""
    settings: dict[str, object] = {}
    if algorithm := segment.get("algorithm"):
        settings["algorithm"] = algorithm
    match segment.get("settings"):
        case Mapping() as more:
            settings.update(more)
    return pb.IndexSegment(
        backend=str(segment.get("backend", "")),
        settings=write_json(settings),
        count=_number(segment.get("count")),
        live_count=_number(segment.get("live")),
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def write_job(job: Job) -> pb.Job:
    """Return a job as it is now."""
    error = None
    if job.error_code:
        error = types_pb2.Error(
            code=code_number(code_of_reason(job.error_code)),
            reason=job.error_code,
            message=job.error_message,
        )
    return pb.Job(
        id=job.id,
        kind=_JOB_KINDS.get(job.kind, pb.JOB_KIND_UNSPECIFIED),
        collection=job.collection,
        state=_JOB_STATES[job.state],
        done_count=job.done_count,
        total_count=job.total_count,
        phase=job.phase,
        error=error,
        create_time=write_time(job.create_time),
        start_time=write_time(job.start_time),
        end_time=write_time(job.end_time),
    )
