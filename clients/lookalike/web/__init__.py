"""The web page of lookalike, and its API as JSON over HTTP.

A client like any other: it speaks gRPC to a server and HTTP to browsers. Start it with
`lookalike web`, or beside a server with `lookalike serve --web`.
"""

from __future__ import annotations

from lookalike.web.gateway import make_app
from lookalike.web.settings import Settings

__all__ = ["Settings", "make_app"]
