"""What this is, whether it is well, and what can be asked."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lookalike.v1 import system_service_pb2
from lookalike.web.answers import JsonResponse, plain
from lookalike.web.openapi import document


def routes() -> list[Route]:
    return [
        Route("/v1/info", info, methods=["GET"]),
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
    ]


async def info(request: Request) -> Response:
    """Say what the server is, what its models embed, and what this gateway takes."""
    state = request.app.state
    message = system_service_pb2.GetServerInfoRequest()
    answer = plain(await state.backend.call("SystemService", "GetServerInfo", message))
    answer["models"] = [
        {"name": name, "modalities": modalities}
        for name, modalities in (await state.backend.modalities()).items()
    ]
    answer["max_upload_bytes"] = state.settings.max_upload_bytes
    return JsonResponse(answer)


async def healthz(request: Request) -> Response:
    """Say that this process lives; it asks no one."""
    return JsonResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Say whether searches are answered: 200, or 503."""
    is_ready = await request.app.state.backend.is_ready()
    return JsonResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)


async def openapi(request: Request) -> Response:
    """Describe this API."""
    return JsonResponse(document())
