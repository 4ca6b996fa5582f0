"""The Python client of lookalike.

    from lookalike.client import Client, F

    with Client("localhost:50051") as client:
        client.upload("photos")
        for hit in client.search(image="cat.jpg", where=F.year > 2020):
            print(hit.score, hit.id)

The names are imported when they are first used, so that a command line which only
prints its help does not wait for gRPC and numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lookalike.client._answer_calls import Part, Query
    from lookalike.client._answers import (
        DuplicateGroup,
        DuplicateMember,
        DuplicateProgress,
        Explanation,
        FieldCounts,
        Hit,
        Region,
        RegionMatch,
        SearchInfo,
        SearchResult,
        Tier,
        ValueCount,
    )
    from lookalike.client._backup import BackupReport
    from lookalike.client._calls import NewItem, StoredItem
    from lookalike.client._export import ExportReport
    from lookalike.client._recall import RecallReport, SearchTimes, SelfMatch
    from lookalike.client._results import (
        Collection,
        EmbeddingCounts,
        Embeddings,
        Flat,
        Health,
        Hnsw,
        ImageInfo,
        IndexSegment,
        IndexSpec,
        IndexStatus,
        Item,
        ItemImage,
        Ivf,
        Job,
        Limits,
        Model,
        RecallEstimate,
        ScoreCalibration,
        ServerInfo,
        UploadProgress,
        UploadReport,
        WriteOutcome,
        WriteResult,
    )
    from lookalike.client._sync import Client
    from lookalike.client._vectors import vector_array, vector_message
    from lookalike.client._verify import Verification, VerifyFinding, VerifyProgress
    from lookalike.client.errors import LookalikeError
    from lookalike.client.filters import F
    from lookalike.client.local_server import LocalServer

_HOMES = {
    "_answer_calls": ("Part", "Query"),
    "_answers": (
        "DuplicateGroup",
        "DuplicateMember",
        "DuplicateProgress",
        "Explanation",
        "FieldCounts",
        "Hit",
        "Region",
        "RegionMatch",
        "SearchInfo",
        "SearchResult",
        "Tier",
        "ValueCount",
    ),
    "_backup": ("BackupReport",),
    "_calls": ("NewItem", "StoredItem"),
    "_export": ("ExportReport",),
    "_recall": ("RecallReport", "SearchTimes", "SelfMatch"),
    "_results": (
        "Collection",
        "EmbeddingCounts",
        "Embeddings",
        "Flat",
        "Health",
        "Hnsw",
        "ImageInfo",
        "IndexSegment",
        "IndexSpec",
        "IndexStatus",
        "Item",
        "ItemImage",
        "Ivf",
        "Job",
        "Limits",
        "Model",
        "RecallEstimate",
        "ScoreCalibration",
        "ServerInfo",
        "UploadProgress",
        "UploadReport",
        "WriteOutcome",
        "WriteResult",
    ),
    "_sync": ("Client",),
    "_verify": ("Verification", "VerifyFinding", "VerifyProgress"),
    "_vectors": ("vector_array", "vector_message"),
    "errors": ("LookalikeError",),
    "filters": ("F",),
    "local_server": ("LocalServer",),
}

__all__ = [
    "BackupReport",
    "Client",
    "Collection",
    "DuplicateGroup",
    "DuplicateMember",
    "DuplicateProgress",
    "EmbeddingCounts",
    "Embeddings",
    "Explanation",
    "ExportReport",
    "F",
    "FieldCounts",
    "Flat",
    "Health",
    "Hit",
    "Hnsw",
    "ImageInfo",
    "IndexSegment",
    "IndexSpec",
    "IndexStatus",
    "Item",
    "ItemImage",
    "Ivf",
    "Job",
    "Limits",
    "LocalServer",
    "LookalikeError",
    "Model",
    "NewItem",
    "Part",
    "Query",
    "RecallEstimate",
    "RecallReport",
    "Region",
    "RegionMatch",
    "ScoreCalibration",
    "SearchInfo",
    "SearchResult",
    "SearchTimes",
    "SelfMatch",
    "ServerInfo",
    "StoredItem",
    "Tier",
    "UploadProgress",
    "UploadReport",
    "ValueCount",
    "Verification",
    "VerifyFinding",
    "VerifyProgress",
    "WriteOutcome",
    "WriteResult",
    "vector_array",
    "vector_message",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
