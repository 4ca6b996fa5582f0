"""`lookalike backup`: a copy of everything that a server has stored."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._output import bytes_text, print_json
from lookalike.client.cli._progress import Meter, say


def add_to(app: typer.Typer) -> None:
    app.command("backup", rich_help_panel="Keeping")(backup)


def backup(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A new file; - for stdout. Never overwritten.")
    ],
    quiet: _options.Quiet = False,
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Save a copy of everything stored, while the server goes on; see restore."""
    target = sys.stdout.buffer if file == "-" else file
    with _options.connect(server) as client, Meter(0, quiet=quiet, word="MiB") as meter:
        made = client.backup(
            target,
            progress=lambda done, total: meter.update(done >> 20, 0, total=-(-total >> 20)),
        )
    if file == "-":
        sys.stdout.buffer.flush()
    elif json:
        print_json(made)
    else:
        say(f"{bytes_text(made.size_bytes)} in {file}: all up to change {made.seq}")
        say(f"sha256 {made.sha256}")
    return _exit.DONE
