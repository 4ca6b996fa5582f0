"""EmbedService: read wire, call the domain, write wire."""

from __future__ import annotations

import grpc

from lookalike.backends.errors import LookalikeError
from lookalike.server.limits import Limits
from lookalike.server.rpc.interceptors import deadline_of
from lookalike.server.rpc.paging import page_size, read_token, write_token
from lookalike.server.rpc.ports import Embedding, Models
from lookalike.server.rpc.status import in_band
from lookalike.server.rpc.wire import check_batch
from lookalike.server.rpc.wire_queries import read_input, write_embedded, write_model
from lookalike.v1 import embed_service_pb2 as pb
from lookalike.v1 import embed_service_pb2_grpc


class EmbedService(embed_service_pb2_grpc.EmbedServiceServicer):
    """Turns pictures and text into vectors."""

    def __init__(
        self, embedding: Embedding, models: Models, limits: Limits, default_deadline_s: float
    ) -> None:
        self._embedding = embedding
        self._models = models
        self._limits = limits
        self._default_deadline_s = default_deadline_s

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:
        """Embed inputs; those that cannot be have an error in their place."""
        check_batch(len(request.inputs), self._limits.max_batch_size, "inputs")
        deadline = deadline_of(context, self._default_deadline_s)
        results: list[pb.EmbedResult] = []
        good: list[tuple[int, str | bytes]] = []
        for i, message in enumerate(request.inputs):
            results.append(pb.EmbedResult())
            try:
                good.append((i, read_input(message, self._limits, f"inputs[{i}]")))
            except LookalikeError as error:
                results[i].error.CopyFrom(in_band(error, f"inputs[{i}]"))
        inputs = [item for _, item in good]
        model, embedded = self._embedding.embed(request.model, inputs, deadline=deadline)
        for (i, _), result in zip(good, embedded, strict=True):
            if isinstance(result, LookalikeError):
                results[i].error.CopyFrom(in_band(result, f"inputs[{i}]"))
            else:
                results[i] = write_embedded(result, request.unnormalized)
        return pb.EmbedResponse(results=results, model=write_model(model))

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        """List the models, the default one first."""
        size = page_size(request, self._limits)
        models = self._models.list()
        names = [model.name for model in models]
        after = read_token(request)
        first = names.index(after) + 1 if after in names else 0
        page = models[first : first + size]
        more = first + size < len(models)
        return pb.ListModelsResponse(
            models=[write_model(model) for model in page],
            next_page_token=write_token(request, page[-1].name) if more else "",
        )

    def GetModel(
        self, request: pb.GetModelRequest, context: grpc.ServicerContext
    ) -> pb.GetModelResponse:
        """Describe one model after loading it."""
        name = request.name or self._models.default
        self._models.get(name)
        model = next(known for known in self._models.list() if known.name == name)
        return pb.GetModelResponse(model=write_model(model))
