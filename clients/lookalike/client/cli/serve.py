"""`lookalike serve` and `lookalike config`: the server's own commands, run in its place."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NoReturn

import typer

from lookalike.client.errors import FailedPrecondition

_NEEDED = ("lookalike.server", "apsw", "PIL", "pydantic_settings", "grpc_health")
"""What the server cannot start without; looked up, never imported."""
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def add_to(app: typer.Typer) -> None:
    """Register the commands. Which options there are is the server's to say."""
    app.command("serve", context_settings=_PASS_ON, rich_help_panel="Server")(serve)
    app.command("config", context_settings=_PASS_ON, rich_help_panel="Server")(config)


def serve(context: typer.Context) -> None:
    """Start a server. `lookalike serve --help` lists its options."""
    hand_over(["serve", *context.args])


def config(context: typer.Context) -> None:
    """Show the server's configuration: `config show --origin` says whence it comes."""
    hand_over(["config", *context.args])


def hand_over(args: list[str]) -> NoReturn:
    """Become the server's process, which keeps this one's number for whoever stops it."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPrecondition(
            f"the server is not installed here ({', '.join(missing)} missing); "
            "install it with: pip install 'lookalike[server]'"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "lookalike.server", *args])
