"""Puts the gateway together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from lookalike.client.errors import Internal, LookalikeError
from lookalike.web.answers import error_response
from lookalike.web.backend import Backend
from lookalike.web.errors import MethodNotAllowed, RouteNotFound
from lookalike.web.guard import Guard
from lookalike.web.routes import collections, items, page, search, system
from lookalike.web.settings import Settings


def make_app(settings: Settings) -> Starlette:
    """Return the ASGI application; its lifespan opens and closes the way to the server."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.settings = settings
        app.state.backend = Backend(settings)
        app.state.uploads = asyncio.Semaphore(settings.max_uploads)
        try:
            yield
        finally:
            app.state.backend.close()

    nouns = (search, items, collections, system, page)
    return Starlette(
        routes=[route for noun in nouns for route in noun.routes()],
        lifespan=lifespan,
        middleware=[Middleware(Guard, settings=settings)],
        exception_handlers={
            LookalikeError: _known,
            HTTPException: _of_routing,
            ClientDisconnect: _gone,
            Exception: _defect,
        },
    )


async def _known(request: Request, error: Exception) -> Response:
    return error_response(cast(LookalikeError, error))


async def _of_routing(request: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    if status == 405:
        return error_response(MethodNotAllowed(f"{request.method} is not for this path."))
    return error_response(RouteNotFound("There is nothing here; /openapi.json lists what is."))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _defect(request: Request, error: Exception) -> Response:
    """Starlette logs the error with its traceback after this; the caller learns nothing."""
    return error_response(Internal("A defect of the gateway; its log says more."))
