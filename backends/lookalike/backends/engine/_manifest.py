"""The form of a manifest: which segments there are, and what each file must be."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass

from lookalike.backends.types import (
    Algorithm,
    FlatParams,
    HnswParams,
    IndexSpec,
    IvfParams,
    Metric,
)

FORMAT = 1
_NAME = re.compile(r"segment-(\d{8})\Z", re.ASCII)
_ALGORITHMS: dict[str, type[FlatParams | HnswParams | IvfParams]] = {
    "flat": FlatParams,
    "hnsw": HnswParams,
    "ivf": IvfParams,
}


class Doubtful(Exception):
    """A derived file is not what it should be; the message says why, without paths."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What one file must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """One segment in a manifest."""

    name: str
    count: int
    spec: IndexSpec
    files: dict[str, FileRecord]
    effort: int = 0
    """As in `Segment`, and the next, too."""
    boost: float = 1.0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One durable state of an engine's folder."""

    owner: str
    dim: int
    metric: str
    seq: int
    spec: IndexSpec
    segments: list[SegmentRecord]


def spec_to_json(spec: IndexSpec) -> dict[str, object]:
    """Return the JSON form of a spec."""
    algorithm: dict[str, object] | None = None
    if spec.algorithm is not None:
        name = next(n for n, kind in _ALGORITHMS.items() if isinstance(spec.algorithm, kind))
        algorithm = {"name": name, **asdict(spec.algorithm)}
    return {
        "backend": spec.backend,
        "algorithm": algorithm,
        "options": dict(spec.options),
        "metric": str(spec.metric),
        "target_recall": spec.target_recall,
        "because": spec.because,
    }


def spec_from_json(value: dict[str, object]) -> IndexSpec:
    """Read what `spec_to_json` wrote. Raises KeyError, TypeError, ValueError."""
    algorithm: Algorithm | None = None
    if (described := value["algorithm"]) is not None:
        if not isinstance(described, dict):
            raise TypeError("algorithm is not an object")
        numbers = {key: int(number) for key, number in described.items() if key != "name"}
        algorithm = _ALGORITHMS[described["name"]](**numbers)
    options = value["options"]
    if not isinstance(options, dict):
        raise TypeError("options is not an object")
    target = float(str(value.get("target_recall", 0.0)))  # younger than the format
    because = str(value.get("because", ""))  # likewise
    metric = Metric(str(value["metric"]))
    return IndexSpec(str(value["backend"]), algorithm, options, metric, target, because)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of a manifest, its checksum among them."""
    body = {
        "format": FORMAT,
        "owner": manifest.owner,
        "dim": manifest.dim,
        "metric": manifest.metric,
        "seq": manifest.seq,
        "spec": spec_to_json(manifest.spec),
        "segments": [
            {**asdict(record), "spec": spec_to_json(record.spec)} for record in manifest.segments
        ],
    }
    outer = {"sha256": hashlib.sha256(_canonical(body)).hexdigest(), "manifest": body}
    return json.dumps(outer, indent=1).encode()


def decode_manifest(data: bytes) -> Manifest:
    """Read and verify what `encode_manifest` made. Raises Doubtful."""
    try:
        outer = json.loads(data)
        body = outer["manifest"]
        if outer["sha256"] != hashlib.sha256(_canonical(body)).hexdigest():
            raise Doubtful("its manifest does not match its checksum")
        if body["format"] != FORMAT:
            raise Doubtful(f"its format is {body['format']!r}, not {FORMAT}")
        return Manifest(
            owner=body["owner"],
            dim=body["dim"],
            metric=body["metric"],
            seq=int(body["seq"]),
            spec=spec_from_json(body["spec"]),
            segments=[_segment_record(entry) for entry in body["segments"]],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Doubtful("its manifest is not readable") from error


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _segment_record(entry: dict[str, object]) -> SegmentRecord:
    name, files, spec = entry["name"], entry["files"], entry["spec"]
    if not (isinstance(name, str) and _NAME.match(name)):
        raise ValueError("not a segment's name")
    if not (isinstance(files, dict) and isinstance(spec, dict)):
        raise TypeError("not a segment")
    records = {key: FileRecord(int(f["size"]), str(f["sha256"])) for key, f in files.items()}
    count, effort = int(str(entry["count"])), int(str(entry.get("effort", 0)))
    boost = float(str(entry.get("boost", 1.0)))
    return SegmentRecord(name, count, spec_from_json(spec), records, effort, boost)
