"""`lookalike facets`: which values metadata fields have, and how often."""

from __future__ import annotations

from typing import Annotated

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._output import print_json, print_table
from lookalike.client.cli._progress import say


def add_to(app: typer.Typer) -> None:
    app.command("facets", rich_help_panel="Pictures")(facets)


def facets(
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIELD...]",
            help="Metadata fields; without any, those that have few different values.",
            show_default=False,
        ),
    ] = None,
    where: _options.Where = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", help="So many values of each field.", show_default="20")
    ] = 0,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Count the values of metadata fields, the most frequent first."""
    with _options.connect(server) as client:
        found = client.count_values(
            fields or [], where=_options.where_or_none(where), limit=limit, collection=collection
        )
    if json:
        for one in found:
            print_json(one)
        return _exit.DONE
    rows = [[one.field, value.value, value.count] for one in found for value in one.values]
    if rows:
        print_table(["field", "value", "items"], rows)
    else:
        say("no item has such a field" if fields else "no field has few enough values to list")
    return _exit.DONE
