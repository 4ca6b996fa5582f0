"""`lookalike serve`, `config`, `keys`, `model` and `restore`: the server's own commands, run in its place."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import NoReturn

import typer

from lookalike.client.errors import FailedPrecondition

_NEEDED = ("lookalike.server", "apsw", "PIL", "pydantic_settings", "grpc_health")
"""What the server cannot start without; looked up, never imported."""
_PAGE_HELP = """\
 With the page (pip install 'lookalike[web]'):
   --web                    Show the page too, on http://127.0.0.1:8080/.
   --web-listen HOST:PORT   Show it there; port 0: any free.
   --web-name HOST          A host name that browsers know it by; may be repeated.
   --web-api-key-file FILE  The key that it calls the server with; one that may read will do.
   --web-ca FILE            The CA of the server's certificate; also --web-server-name,
                            --web-client-certificate and --web-client-key.
   --web-server ADDRESS     The server by another address than the one it listens on.
 --insecure lets other machines reach the page as well, if --web-listen does.
"""
_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def add_to(app: typer.Typer) -> None:
    """Register the commands. Which options there are is the server's to say."""
    app.command("serve", context_settings=_PASS_ON, rich_help_panel="Server")(serve)
    app.command("config", context_settings=_PASS_ON, rich_help_panel="Server")(config)
    app.command("keys", context_settings=_PASS_ON, rich_help_panel="Server")(keys)
    app.command("model", context_settings=_PASS_ON, rich_help_panel="Server")(model)
    app.command("restore", context_settings=_PASS_ON, rich_help_panel="Keeping")(restore)


def serve(context: typer.Context) -> None:
    """Start a server; --web adds the page. `lookalike serve --help` lists the options."""
    hand_over(["serve", *context.args])


def config(context: typer.Context) -> None:
    """Show the server's configuration: `config show --origin` says whence it comes."""
    hand_over(["config", *context.args])


def keys(context: typer.Context) -> None:
    """Make, list and revoke API keys. `lookalike keys --help` lists the commands."""
    hand_over(["keys", *context.args])


def model(context: typer.Context) -> None:
    """Compare a model with transformers in fp32: `model verify --photos DIR`."""
    hand_over(["model", *context.args])


def restore(context: typer.Context) -> None:
    """Make a data folder of a backup. `lookalike restore --help` lists the options."""
    hand_over(["restore", *context.args])


def hand_over(args: list[str]) -> NoReturn:
    """Become the server's process, which keeps this one's number for whoever stops it.

    With --web, run it and the page as two processes of this one instead.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPrecondition(
            f"the server is not installed here ({', '.join(missing)} missing); "
            "install it with: pip install 'lookalike[server]'"
        )
    from lookalike.client.cli.web import serve_with_page, take_web_options

    page = None
    if args[0] == "serve":
        args, page = take_web_options(args)
    command = [sys.executable, "-m", "lookalike.server", *args]
    if page is not None:
        sys.exit(serve_with_page(command, page))
    sys.stdout.flush()
    sys.stderr.flush()
    if args[0] == "serve" and {"-h", "--help"} & set(args):
        subprocess.run(command, check=False)
        sys.exit(print(_PAGE_HELP))
    os.execv(sys.executable, command)
