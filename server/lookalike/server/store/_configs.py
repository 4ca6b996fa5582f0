"""Collection settings as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from zlib import crc32

from lookalike.backends.types import (
    Algorithm,
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Metric,
)
from lookalike.server.domain import CollectionConfig, CollectionRecord, Job, JobState, Retention
from lookalike.server.store._errors import damaged_file
from lookalike.server.store._rows import micros

COLLECTION = "number, CAST(name AS BLOB), CAST(config AS BLOB), CAST(space AS BLOB), create_us, crc"
"""Columns of a collection; texts as bytes, for the checksum comes before the decoding."""

_ALGORITHMS: Mapping[str, type[Algorithm]] = {
    "flat": FlatParams,
    "hnsw": HnswParams,
    "ivf": IvfParams,
}


def _encode_config(config: CollectionConfig) -> str:
    """Return all but the name as JSON."""
    return json.dumps(
        {
            "description": config.description,
            "model": config.model,
            "metric": config.metric.value,
            "index": None if config.index is None else _encode_index(config.index),
            "dimension": config.dimension,
            "retention": config.retention.value,
            "indexed_fields": config.indexed_fields,
        },
        ensure_ascii=False,
        sort_keys=True,
    )


def collection_crc(row: Sequence[Any]) -> int:
    """Return the checksum over the columns of COLLECTION before the last."""
    number, name, config, space, create_us = row
    return crc32(b"\x1f".join((b"%d %d" % (number, create_us), name, config, space)))


def to_row(record: CollectionRecord) -> tuple[Any, ...]:
    """Return the row of a record, as COLLECTION reads it."""
    row = (
        record.number,
        record.config.name.encode(),
        _encode_config(record.config).encode(),
        record.space.encode(),
        micros(record.create_time),
    )
    return (*row, collection_crc(row))


def to_collection(row: Sequence[Any]) -> CollectionRecord:
    """Make the record of a row of COLLECTION. Raises DataLoss."""
    number, name, text, space, create_us, crc = row
    if None in (name, text, space) or collection_crc(row[:5]) != crc:
        raise damaged_file()
    name, space = name.decode(), space.decode()
    fields = json.loads(text)
    index = fields["index"]
    return CollectionRecord(
        number=number,
        config=CollectionConfig(
            name=name,
            description=fields["description"],
            model=fields["model"],
            metric=Metric(fields["metric"]),
            index=None if index is None else _decode_index(index),
            dimension=fields["dimension"],
            retention=Retention(fields["retention"]),
            indexed_fields=tuple(fields.get("indexed_fields", ())),  # younger than the format
        ),
        space=space,
        create_time=create_us / 1e6,
    )


def to_job(row: tuple[Any, ...]) -> Job:
    """Make the job of a row of the table's columns from `id` on. Raises DataLoss."""
    job_id, kind, collection, state, *rest = row
    if state not in list(JobState):
        raise damaged_file()
    return Job(job_id, kind, collection, JobState(state), *rest)


def _encode_index(spec: IndexSpec) -> dict[str, object]:
    algorithm: dict[str, object] | None = None
    for name, cls in _ALGORITHMS.items():
        if isinstance(spec.algorithm, cls):
            algorithm = {"kind": name, **asdict(spec.algorithm)}
    return {
        "backend": spec.backend,
        "algorithm": algorithm,
        "options": dict(spec.options),
        "metric": spec.metric.value,
        "target_recall": spec.target_recall,
    }


def _decode_index(fields: dict[str, Any]) -> IndexSpec:
    algorithm: Algorithm | None = None
    if fields["algorithm"] is not None:
        settings = dict(fields["algorithm"])
        algorithm = _ALGORITHMS[settings.pop("kind")](**settings)
    return IndexSpec(
        backend=fields["backend"],
        algorithm=algorithm,
        options=fields["options"],
        metric=Metric(fields["metric"]),
        target_recall=float(fields.get("target_recall", 0.0)),  # younger than the format
    )
