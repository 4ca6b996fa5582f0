"""The gRPC server: its services, health, reflection, threads and connection policy."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

# Imported for its descriptors: reflection gives them to clients that show error details.
from google.rpc import error_details_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from lookalike.backends.errors import FailedPrecondition
from lookalike.backends.types import IndexSpec
from lookalike.server.admission import Admission
from lookalike.server.limits import Limits
from lookalike.server.rpc.access import AccessGuard, Keys
from lookalike.server.rpc.admin import AdminService
from lookalike.server.rpc.doors import Doors
from lookalike.server.rpc.embed import EmbedService
from lookalike.server.rpc.health import Health
from lookalike.server.rpc.index import IndexService
from lookalike.server.rpc.interceptors import CallGuard, Slots
from lookalike.server.rpc.peers import Peers
from lookalike.server.rpc.ports import (
    Backups,
    Calibrations,
    Duplicates,
    Embedding,
    Explainer,
    Exporter,
    Facets,
    Ingest,
    Jobs,
    Library,
    Models,
    Recalls,
    Searcher,
    Verifier,
)
from lookalike.server.rpc.reception import Reception, Times
from lookalike.server.rpc.scopes import scopes
from lookalike.server.rpc.search import SearchService
from lookalike.server.rpc.search_streams import SearchStreams
from lookalike.server.rpc.system import ServerFacts, SystemService
from lookalike.server.rpc.traffic import CountedSearcher, Traffic
from lookalike.server.rpc.upload import Uploads
from lookalike.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    embed_service_pb2,
    embed_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    system_service_pb2,
    system_service_pb2_grpc,
)

ADMIN, EMBED, INDEX, SEARCH, SYSTEM = (
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (admin_service_pb2, "AdminService"),
        (embed_service_pb2, "EmbedService"),
        (index_service_pb2, "IndexService"),
        (search_service_pb2, "SearchService"),
        (system_service_pb2, "SystemService"),
    )
)
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
_SERVICES = (
    ADMIN,
    EMBED,
    INDEX,
    SEARCH,
    SYSTEM,
    health.SERVICE_NAME,
    REFLECTION_V1,
    reflection.SERVICE_NAME,
)
_WAIT_FOR_LIBRARY = (INDEX, SEARCH)
_SPARE_FILES = 512
"""Open files for all but connections: the database, indexes, decoding processes."""
_LAST_WORDS_S = 0.5
"""For calls that did not end in time, to say so."""
_ANSWERS_S = 0.05
"""For answers that are on their way when all calls have ended."""
_ERROR_DETAILS = error_details_pb2.DESCRIPTOR.name


@dataclass(frozen=True, slots=True)
class Domain:
    """What the services speak for."""

    library: Library
    ingest: Ingest
    searcher: Searcher
    explainer: Explainer
    facets: Facets
    duplicates: Duplicates
    recalls: Recalls
    calibrations: Calibrations
    embedding: Embedding
    models: Models
    jobs: Jobs
    verifier: Verifier
    backups: Backups
    exporter: Exporter
    limits: Limits
    default_index: IndexSpec
    facts: ServerFacts


class Front:
    """The server that clients see. One owner starts and stops it."""

    def __init__(
        self,
        domain: Domain,
        searches: Admission,
        *,
        threads: int,
        times: Times,
        keys: Keys | None = None,
        credentials: grpc.ServerCredentials | None = None,
        shares_address: bool = False,
    ) -> None:
        """`searches`: who of those who search is let in.

        With `keys`, callers need one; with `credentials`, they speak TLS.

        `shares_address`: another process of this user still listens there, and allows it.
        Raises Internal if a method declares no scope.
        """
        limits = domain.limits
        self._keys, self._credentials = keys, credentials
        declared = scopes(_SERVICES)
        access = [] if keys is None else [AccessGuard(keys, declared, domain.jobs)]
        self._reception = Reception(limits, searches, threads, times, Peers(keys))
        self._health = Health(self._reception.for_watchers)
        self._traffic = Traffic()
        self._uploads = Uploads(
            domain.library, domain.ingest, limits, self._traffic, idle_s=times.idle_s
        )
        self._streams = SearchStreams(limits.max_search_streams)
        self._guard = CallGuard(
            Slots(2 * threads, "calls"),
            Slots(limits.max_lasting_calls, "calls that last, like watching a job"),
        )
        self._server = grpc.server(
            self._reception.for_calls,  # for what it does not give a place of its own
            interceptors=[self._reception, *access, self._guard],
            options=list(_options(limits, times, shares_address).items()),
        )
        self.doors = Doors(self._guard.gates, self._uploads, self._health)
        self._shares_address = shares_address
        self._add_services(domain, times.default_deadline_s)
        self._set_health(
            {"": True, ADMIN: True, EMBED: True, SYSTEM: True, INDEX: False, SEARCH: False}
        )

    def _add_services(self, domain: Domain, deadline_s: float) -> None:
        server, limits = self._server, domain.limits
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
            AdminService(domain.verifier, domain.backups, check_open=self._uploads.check_open),
            server,
        )
        embed_service_pb2_grpc.add_EmbedServiceServicer_to_server(
            EmbedService(domain.embedding, domain.models, limits, deadline_s), server
        )
        index_service_pb2_grpc.add_IndexServiceServicer_to_server(
            IndexService(
                domain.library,
                domain.ingest,
                domain.jobs,
                self._uploads,
                limits,
                calibrations=domain.calibrations,
                exporter=domain.exporter,
                default_index=domain.default_index,
                default_deadline_s=deadline_s,
                keys=self._keys,
            ),
            server,
        )
        search_service_pb2_grpc.add_SearchServiceServicer_to_server(
            SearchService(
                CountedSearcher(domain.searcher, self._traffic),
                limits,
                deadline_s,
                explainer=domain.explainer,
                facets=domain.facets,
                duplicates=domain.duplicates,
                recalls=domain.recalls,
                streams=self._streams,
            ),
            server,
        )
        system_service_pb2_grpc.add_SystemServiceServicer_to_server(
            SystemService(domain.facts, domain.library, domain.models, limits), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        _add_reflection(server)

    def start(self, listen: str) -> str:
        """Listen on HOST:PORT and serve; return the address with the port that it got.

        Raises FailedPrecondition if the address cannot be had.
        """
        check_address(listen, is_shared=self._shares_address)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(listen)
            else:
                port = self._server.add_secure_port(listen, self._credentials)
        except RuntimeError:
            raise _cannot_listen(listen, "gRPC could not bind it") from None
        self._server.start()
        self._reception.start()
        self.doors.port = port
        return f"{listen.rpartition(':')[0]}:{port}"

    def set_ready(self) -> None:
        """Tell health checks that every collection is open."""
        self._set_health(dict.fromkeys(_WAIT_FOR_LIBRARY, True))

    def stop(self, grace_s: float, notice_s: float = 0.0) -> None:
        """Say NOT_SERVING, ask uploads to end, finish what is under way within `grace_s`.

        Before, calls are answered for `notice_s` seconds more. What is not finished then
        is cancelled, and so are watchers of health, who would stay for ever. Calls that
        come are refused until `close`, or until the process ends.
        """
        self._health.enter_graceful_shutdown()
        time.sleep(notice_s)
        self._uploads.drain(grace_s)
        self._streams.drain()
        if self._guard.drain(grace_s):
            time.sleep(_ANSWERS_S if grace_s else 0.0)
        else:
            self._server.stop(_LAST_WORDS_S if grace_s else 0).wait()

    def close(self) -> None:
        """Stop listening and end all connections.

        Calls that cross this on the wire end with CANCELLED, which nobody tries again, so
        it is not for a server whose process ends: its calls end with UNAVAILABLE.
        """
        self._server.stop(0).wait()
        self._reception.close()

    def _set_health(self, serving: Mapping[str, bool]) -> None:
        for name, is_serving in serving.items():
            status = health_pb2.HealthCheckResponse.SERVING
            if not is_serving:
                status = health_pb2.HealthCheckResponse.NOT_SERVING
            self._health.set(name, status)


def _options(limits: Limits, times: Times, shares_address: bool) -> dict[str, int]:
    """Return the channel arguments: message sizes, and who is still there."""
    return {
        # Two servers on one port would share its calls silently: only where one takes over.
        "grpc.so_reuseport": int(shares_address),
        "grpc.max_receive_message_length": limits.max_message_bytes,
        "grpc.max_send_message_length": limits.max_message_bytes,
        "grpc.max_concurrent_streams": 100,
        "grpc.max_allowed_incoming_connections": _connections(limits.max_connections),
        "grpc.server_handshake_timeout_ms": round(times.handshake_s * 1e3),
        "grpc.max_connection_idle_ms": round(times.connection_idle_s * 1e3),
        "grpc.keepalive_time_ms": round(times.keepalive_s * 1e3),
        "grpc.keepalive_timeout_ms": round(times.keepalive_s * 500),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
        # Connections end now and then, so that load spreads after a restart; the calls
        # on them, uploads above all, may take as long as they like.
        "grpc.max_connection_age_ms": 30 * 60_000,
    }


def _connections(wanted: int) -> int:
    """Allow this process the open files for so many connections; return how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, soft - min(_SPARE_FILES, soft // 2))


def _add_reflection(server: grpc.Server) -> None:
    """Offer reflection as v1alpha, which is what the library knows, and as v1."""
    servicer = reflection.ReflectionServicer(_SERVICES)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": handler}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(REFLECTION_V1, handlers),)
    )


def check_address(listen: str, *, is_shared: bool = False) -> None:
    """Raise FailedPrecondition, in words, if the address cannot be listened on."""
    host, _, port = listen.rpartition(":")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
            probe.bind(address)
    except OSError as error:
        raise _cannot_listen(listen, error.strerror or str(error)) from None


def _cannot_listen(listen: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Cannot listen on {listen} ({why}). Stop what is listening there, or choose another "
        "address with --listen; port 0 takes any free one."
    )
