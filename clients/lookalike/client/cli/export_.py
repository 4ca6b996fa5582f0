"""`lookalike export` and `lookalike import`: one collection as an archive."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._output import counted, print_json
from lookalike.client.cli._progress import FailureList, Meter, say


def add_to(app: typer.Typer) -> None:
    app.command("export", rich_help_panel="Keeping")(export)
    app.command("import", rich_help_panel="Keeping")(import_)


def export(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")],
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A new .tar file; - for stdout. Never overwritten."),
    ],
    where: _options.Where = "",
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Thumbnails and originals, as kept.")
    ] = True,
    quiet: _options.Quiet = False,
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Save a collection as an archive: metadata, vectors and kept pictures."""
    target = sys.stdout.buffer if file == "-" else file
    with _options.connect(server) as client, Meter(0, quiet=quiet, word="exported") as meter:
        made = client.export(
            target,
            collection=collection,
            where=_options.where_or_none(where),
            images=images,
            progress=lambda done, total: meter.update(done, 0, total=total),
        )
    if file == "-":
        sys.stdout.buffer.flush()
    elif json:
        print_json(made)
    else:
        say(
            f"{counted(made.item_count, 'item')} of {made.collection} in {file}, with "
            f"{counted(made.thumbnail_count, 'thumbnail')} and "
            f"{counted(made.original_count, 'original')}: as after change {made.seq}"
        )
    return _exit.DONE


def import_(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What lookalike export wrote; - for stdin.")
    ],
    collection: Annotated[
        str,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="The collection, made if it is not there.",
            show_default="as exported",
        ),
    ] = "",
    index: _options.Backend = "",
    reembed: Annotated[
        bool, typer.Option("--reembed", help="Embed the originals anew, without their vectors.")
    ] = False,
    failures: _options.Failures = "",
    quiet: _options.Quiet = False,
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Store the items of an archive, in a collection that is there or a new one."""
    source = sys.stdin.buffer if file == "-" else file
    with (
        _options.connect(server) as client,
        Meter(0, quiet=quiet, word="imported") as meter,
        FailureList(failures, meter) as failed,
    ):
        report = client.import_archive(
            source,
            collection=collection,
            index=index or None,
            reembed=reembed,
            progress=lambda p: meter.update(p.done_count, p.failed_count),
            on_result=lambda r: None if r.error is None else failed.add(r.id, r.error),
        )
    if json:
        print_json(report)
    else:
        say(
            f"{counted(report.total, 'item')}: {report.created} new, {report.updated} replaced, "
            f"{report.unchanged} there already, {report.failed} failed"
        )
    return _exit.SOME_FAILED if report.failed else _exit.DONE
