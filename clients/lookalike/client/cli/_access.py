"""Options that every command has which calls a server: how to reach it safely."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Annotated, Any

import typer

PANEL = "Access"

API_KEY_FILE = Annotated[
    str,
    typer.Option(
        "--api-key-file",
        metavar="FILE",
        help="A file with the API key. Otherwise LOOKALIKE_API_KEY_FILE, or the key itself in "
        "LOOKALIKE_API_KEY.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
CA = Annotated[
    str,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Speak TLS; the server's certificate comes from this CA. Otherwise LOOKALIKE_CA.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
CLIENT_CERTIFICATE = Annotated[
    str,
    typer.Option(
        "--client-certificate",
        metavar="FILE",
        help="For servers that ask for one. Otherwise LOOKALIKE_CLIENT_CERTIFICATE.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
CLIENT_KEY = Annotated[
    str,
    typer.Option(
        "--client-key",
        metavar="FILE",
        help="The client certificate's private key. Otherwise LOOKALIKE_CLIENT_KEY.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
SERVER_NAME = Annotated[
    str,
    typer.Option(
        "--server-name",
        metavar="NAME",
        help="The name in the server's certificate, if the address has another. Otherwise "
        "LOOKALIKE_SERVER_NAME.",
        show_default=False,
        rich_help_panel=PANEL,
    ),
]
_OPTIONS: Mapping[str, Any] = {
    "api_key_file": API_KEY_FILE,
    "ca": CA,
    "client_certificate": CLIENT_CERTIFICATE,
    "client_key": CLIENT_KEY,
    "server_name": SERVER_NAME,
}
_given: ContextVar[Mapping[str, str]] = ContextVar("access options", default={})  # noqa: B039
"""What the command that runs was told; typer gives no other way past its function."""


def given() -> Mapping[str, str]:
    """Return what the command that runs was told by these options."""
    return _given.get()


def with_access(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command that has --server; return others as they are."""
    signature = inspect.signature(command, eval_str=True)
    if "server" not in signature.parameters:
        return command
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        token = _given.set({name: values.pop(name) for name in _OPTIONS})
        try:
            return command(**values)
        finally:
            _given.reset(token)

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
    ]
    run.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    return run
