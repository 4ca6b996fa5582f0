"""SystemService: what this server is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import grpc

from lookalike.server.limits import Limits
from lookalike.server.rpc.ports import Library, Models
from lookalike.server.rpc.wire import write_time
from lookalike.v1 import system_service_pb2 as pb
from lookalike.v1 import system_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class EmbeddingCounts:
    """What embedding has cost since the start."""

    inputs: int = 0
    """Pictures and texts that went through a model."""
    batches: int = 0
    reused: int = 0
    """Pictures that needed no model."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What does not change while a server runs."""

    version: str
    start_time: float
    """Seconds since the epoch."""
    engine: str
    backends: Callable[[], Sequence[str]]
    """Gives the index backends that can be used, the default one first. To know them
    takes importing them, which is for the first who asks."""
    embedding: Callable[[], EmbeddingCounts] = EmbeddingCounts
    """Gives what embedding has cost up to now."""


class SystemService(system_service_pb2_grpc.SystemServiceServicer):
    """Tells what this server is."""

    def __init__(
        self, facts: ServerFacts, library: Library, models: Models, limits: Limits
    ) -> None:
        self._facts = facts
        self._library = library
        self._models = models
        self._limits = limits

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        """Say version, limits and backends."""
        return pb.GetServerInfoResponse(
            version=self._facts.version,
            start_time=write_time(self._facts.start_time),
            backends=self._facts.backends(),
            limits=pb.Limits(**asdict(self._limits)),
            default_model=self._models.default,
            engine=self._facts.engine,
            ready=self._library.ready,
            embedding=pb.EmbeddingCounts(**asdict(self._facts.embedding())),
        )
