"""The page itself, and what it is made of."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).resolve().parent.parent / "static"


def routes() -> list[BaseRoute]:
    return [
        Route("/", Page().respond, methods=["GET"]),
        Mount("/static", _Static(directory=STATIC), name="static"),
    ]


class Page:
    """Renders the page once; what changes comes over the API."""

    def __init__(self) -> None:
        environment = Environment(
            loader=PackageLoader("lookalike.web"), autoescape=select_autoescape()
        )
        modules = sorted(path.name for path in STATIC.glob("*.js"))
        self._html = environment.get_template("page.html").render(modules=modules)
        self._tag = f'"{hashlib.sha256(self._html.encode()).hexdigest()[:16]}"'

    async def respond(self, request: Request) -> Response:
        """Give the page, or say that the browser has it already."""
        headers = {"Cache-Control": "no-cache", "ETag": self._tag}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return HTMLResponse(self._html, headers=headers)


class _Static(StaticFiles):
    """Files that browsers ask for again each time; unchanged ones cost a 304."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response
