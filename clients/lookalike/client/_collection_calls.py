"""Arguments to requests for collections, indexes and jobs; see `_calls`."""

from __future__ import annotations

from collections.abc import Sequence

from lookalike.client import _results as results
from lookalike.client import _wire as wire
from lookalike.client._calls import Call
from lookalike.client._json import to_struct
from lookalike.v1 import index_service_pb2, types_pb2


def index_message(index: results.IndexSpec | str | None) -> index_service_pb2.IndexSpec | None:
    """Make the message of a kind of index; a text is the backend's name."""
    if index is None:
        return None
    spec = results.IndexSpec(backend=index) if isinstance(index, str) else index
    message = index_service_pb2.IndexSpec(backend=spec.backend, target_recall=spec.target_recall)
    match spec.algorithm:
        case results.Flat():
            message.flat.SetInParent()
        case results.Hnsw(m, ef_construction, ef_search):
            message.hnsw.m, message.hnsw.ef_construction = m, ef_construction
            message.hnsw.ef_search = ef_search
            message.hnsw.SetInParent()
        case results.Ivf(nlist, nprobe):
            message.ivf.nlist, message.ivf.nprobe = nlist, nprobe
            message.ivf.SetInParent()
    if spec.options:
        message.backend_options.CopyFrom(to_struct(spec.options, "index.options"))
    return message


def create(
    name: str,
    *,
    description: str,
    model: str,
    metric: str,
    index: results.IndexSpec | str | None,
    dimension: int,
    image_retention: str,
    indexed_fields: Sequence[str],
    exist_ok: bool,
) -> Call[results.Collection]:
    if isinstance(indexed_fields, str):
        raise TypeError("indexed_fields is a list of names.")
    v1 = index_service_pb2
    request = v1.CreateCollectionRequest(
        collection=v1.Collection(
            name=name,
            description=description,
            model=model,
            metric=wire.enum_value(types_pb2.Metric, metric, "METRIC_", "metric"),
            index=index_message(index),
            dimension=dimension,
            image_retention=wire.enum_value(
                v1.ImageRetention, image_retention, "IMAGE_RETENTION_", "image_retention"
            ),
            indexed_fields=indexed_fields,
        ),
        exist_ok=exist_ok,
    )
    return Call(
        "IndexService", "CreateCollection", request, lambda a: wire.collection(a.collection)
    )


def get(name: str) -> Call[results.Collection]:
    request = index_service_pb2.GetCollectionRequest(name=name)
    return Call("IndexService", "GetCollection", request, lambda a: wire.collection(a.collection))


def list_page(page_token: str) -> Call[index_service_pb2.ListCollectionsResponse]:
    request = index_service_pb2.ListCollectionsRequest(page_token=page_token)
    return Call("IndexService", "ListCollections", request, lambda a: a)


def delete(name: str, missing_ok: bool) -> Call[int]:
    request = index_service_pb2.DeleteCollectionRequest(name=name, missing_ok=missing_ok)
    return Call("IndexService", "DeleteCollection", request, lambda a: int(a.deleted_count))


def rebuild(
    collection: str, index: results.IndexSpec | str | None, reembed: bool
) -> Call[results.Job]:
    request = index_service_pb2.RebuildIndexRequest(
        collection=collection, index=index_message(index), reembed=reembed
    )
    return Call("IndexService", "RebuildIndex", request, lambda a: wire.job(a.job))


def job(job_id: str) -> Call[results.Job]:
    request = index_service_pb2.GetJobRequest(id=job_id)
    return Call("IndexService", "GetJob", request, lambda a: wire.job(a.job))


def jobs_page(collection: str, page_token: str) -> Call[index_service_pb2.ListJobsResponse]:
    request = index_service_pb2.ListJobsRequest(collection=collection, page_token=page_token)
    return Call("IndexService", "ListJobs", request, lambda a: a)


def watch(job_id: str) -> Call[results.Job]:
    request = index_service_pb2.WatchJobRequest(id=job_id)
    return Call("IndexService", "WatchJob", request, lambda a: wire.job(a.job))


def cancel(job_id: str) -> Call[results.Job]:
    request = index_service_pb2.CancelJobRequest(id=job_id)
    return Call("IndexService", "CancelJob", request, lambda a: wire.job(a.job))
