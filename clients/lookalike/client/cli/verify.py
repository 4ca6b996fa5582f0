"""`lookalike verify`: compares what is stored with its checksums, and indexes with that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._output import counted, print_json, print_table
from lookalike.client.cli._progress import Meter, say

if TYPE_CHECKING:
    from lookalike.client import Verification, VerifyFinding, VerifyProgress

_CELLS = ["severity", "check", "collection", "item", "what is wrong, and what to do"]


def add_to(app: typer.Typer) -> None:
    app.command("verify", rich_help_panel="Keeping")(verify)


def verify(
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Check this data folder, which no server uses, instead of a server.",
            show_default=False,
        ),
    ] = "",
    config: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="With --data: the server's TOML file.", show_default=False
        ),
    ] = "",
    probes: Annotated[
        int, typer.Option(help="Items of each collection to search for; -1: all of them.")
    ] = 1000,
    collection: Annotated[
        str,
        typer.Option(
            "--collection", "-c", metavar="NAME", help="Only this one.", show_default="all"
        ),
    ] = "",
    quiet: _options.Quiet = False,
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Check everything stored against its checksums, and the indexes against it.

    A server goes on searching and storing meanwhile. Exit code 0: all is well; 1:
    something was found, each with what to do next.
    """
    if not probes:
        raise UsageError("--probes is a number of items, or -1 for all of them")
    if data:
        if server:
            raise UsageError("say either --data or --server")
        _hand_over(data, config, probes, collection, quiet=quiet, json=json)
    if config:
        raise UsageError("--config is for --data")
    found = _ask(server, collection, probes, quiet=quiet, json=json)
    if not quiet:
        say(sentence(found))
    return _exit.DONE if found else _exit.FAILED


def _ask(server: str, collection: str, probes: int, *, quiet: bool, json: bool) -> Verification:
    """Ask a server; with `json`, print each finding as it comes, and the summary."""
    with _options.connect(server) as client, Meter(0, quiet=quiet, word="verify") as meter:

        def progress(now: VerifyProgress) -> None:
            place = f"{now.collection}: {now.phase}" if now.collection else now.phase
            meter.update(now.done_count, 0, total=now.total_count, word=place)

        def show(finding: VerifyFinding) -> None:
            print_json({"finding": finding})

        found = client.verify(
            collection, probe_count=probes, progress=progress, on_finding=show if json else None
        )
    if json:
        summary = {
            "seq": found.seq,
            "collections": found.collection_count,
            "items": found.item_count,
            "probed": found.probed_count,
            "reached": found.reached_count,
            "findings": len(found.findings),
        }
        print_json({"summary": summary})
    elif found.findings:
        rows = [[f.severity, f.check, f.collection, f.item_id, f.message] for f in found.findings]
        print_table(_CELLS, rows)
    return found


def sentence(found: Verification) -> str:
    """Return the outcome in one line."""
    outcome = counted(len(found.findings), "finding") if found.findings else "all is well"
    items, collections = counted(found.item_count, "item"), found.collection_count
    return (
        f"{outcome}: {items} in {counted(collections, 'collection')}, {found.reached_count} of "
        f"{found.probed_count} searched for found themselves, at change {found.seq}"
    )


def _hand_over(
    data: str, config: str, probes: int, collection: str, *, quiet: bool, json: bool
) -> None:
    from lookalike.client.cli.serve import hand_over

    args = ["verify", "--data", data, "--probes", str(probes)]
    args += ["--collection", collection] if collection else []
    args += ["--config", config] if config else []
    args += ["--quiet"] if quiet else []
    args += ["--json"] if json else []
    hand_over(args)
