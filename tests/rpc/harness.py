"""A real gRPC server over the fake domain, and a channel to it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from lookalike.backends.types import IndexSpec
from lookalike.server.admission import Admission
from lookalike.server.limits import Limits
from lookalike.server.rpc.access import AccessGuard, Keys
from lookalike.server.rpc.embed import EmbedService
from lookalike.server.rpc.health import Health
from lookalike.server.rpc.index import IndexService
from lookalike.server.rpc.interceptors import CallGuard, Slots
from lookalike.server.rpc.peers import Peers
from lookalike.server.rpc.reception import Reception, Times
from lookalike.server.rpc.scopes import scopes
from lookalike.server.rpc.search import SearchService
from lookalike.server.rpc.search_streams import SearchStreams
from lookalike.server.rpc.system import ServerFacts, SystemService
from lookalike.server.rpc.upload import Uploads
from lookalike.v1 import (
    embed_service_pb2_grpc,
    index_service_pb2_grpc,
    search_service_pb2_grpc,
    system_service_pb2_grpc,
)
from rpc.fake_domain import (
    FakeCalibrations,
    FakeDuplicates,
    FakeEmbedding,
    FakeExplainer,
    FakeExporter,
    FakeFacets,
    FakeIngest,
    FakeJobs,
    FakeLibrary,
    FakeModels,
    FakeRecalls,
    FakeSearcher,
)

SERVICES = [f"lookalike.v1.{name}Service" for name in ("Embed", "Index", "Search", "System")]
DEFAULT_INDEX = IndexSpec("faiss", None, {"factory": "Flat"})


@dataclass
class Server:
    """The fakes behind a server, and the stubs in front of it."""

    library: FakeLibrary
    ingest: FakeIngest
    searcher: FakeSearcher
    duplicates: FakeDuplicates
    recalls: FakeRecalls
    embedding: FakeEmbedding
    jobs: FakeJobs
    uploads: Uploads
    search_streams: SearchStreams
    reception: Reception | None
    port: int
    server: grpc.Server
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self.embed = embed_service_pb2_grpc.EmbedServiceStub(self.channel)
        self.index = index_service_pb2_grpc.IndexServiceStub(self.channel)
        self.search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self.system = system_service_pb2_grpc.SystemServiceStub(self.channel)


@contextmanager
def serving(
    limits: Limits | None = None,
    *,
    calls: int = 8,
    streams: int = 2,
    keys: Keys | None = None,
    times: Times | None = None,
) -> Iterator[Server]:
    """Run a server on a free port for the time of a test; with `keys`, callers need one.

    With `times`, its peers have so long, and as many threads as `calls` in each place.
    """
    limits = limits or Limits()
    library, models, jobs = FakeLibrary(), FakeModels(), FakeJobs()
    ingest, embedding, searcher = FakeIngest(library), FakeEmbedding(models), FakeSearcher(library)
    duplicates, recalls = FakeDuplicates(library), FakeRecalls(library)
    uploads = Uploads(library, ingest, limits, idle_s=times.idle_s if times else None)
    search_streams = SearchStreams(limits.max_search_streams)
    size = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    guards: list[grpc.ServerInterceptor] = [
        CallGuard(Slots(2 * calls if times else calls, "calls"), Slots(streams, "streams"))
    ]
    if keys is not None:
        guards.insert(0, AccessGuard(keys, scopes(SERVICES), jobs))
    reception = (
        Reception(
            limits, Admission(calls, "searches", wait_s=times.max_wait_s), calls, times, Peers(keys)
        )
        if times
        else None
    )
    if reception is not None:
        guards.insert(0, reception)
    server = grpc.server(
        ThreadPoolExecutor(calls + streams + limits.max_uploads + limits.max_search_streams + 4),
        interceptors=guards,
        options=[("grpc.so_reuseport", 0), *size],
    )
    embed_service_pb2_grpc.add_EmbedServiceServicer_to_server(
        EmbedService(embedding, models, limits, 30.0), server
    )
    index_service_pb2_grpc.add_IndexServiceServicer_to_server(
        IndexService(
            library,
            ingest,
            jobs,
            uploads,
            limits,
            calibrations=FakeCalibrations(),
            exporter=FakeExporter(library),
            default_index=DEFAULT_INDEX,
            default_deadline_s=30.0,
            keys=keys,
        ),
        server,
    )
    search_service_pb2_grpc.add_SearchServiceServicer_to_server(
        SearchService(
            searcher,
            limits,
            30.0,
            explainer=FakeExplainer(),
            facets=FakeFacets(),
            duplicates=duplicates,
            recalls=recalls,
            streams=search_streams,
        ),
        server,
    )
    facts = ServerFacts("1.2.3", 1_700_000_000.0, "local", lambda: ("auto", "exact"))
    system_service_pb2_grpc.add_SystemServiceServicer_to_server(
        SystemService(facts, library, models, limits), server
    )
    if reception is not None:
        health_pb2_grpc.add_HealthServicer_to_server(Health(reception.for_watchers), server)
        reception.start()
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=size) as channel:
        yield Server(
            library,
            ingest,
            searcher,
            duplicates,
            recalls,
            embedding,
            jobs,
            uploads,
            search_streams,
            reception,
            port,
            server,
            channel,
        )
    server.stop(1).wait()
    if reception is not None:
        reception.close()


@dataclass
class Failure:
    """What a failed call says for programs."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    field: str = ""
    retry_s: float | None = None


def failure(error: grpc.RpcError) -> Failure:
    """Read the rich status of a failed call, and check that message and code agree."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    found = Failure(error.code(), error.details() or "", "", {})
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            assert info.domain == "lookalike"
            found.reason, found.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            found.field = bad.field_violations[0].field
        elif detail.Unpack(retry):
            found.retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    return found
