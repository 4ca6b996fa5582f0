"""`lookalike items`: look at, change and delete what is stored."""

from __future__ import annotations

import itertools
import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._output import (
    bytes_text,
    counted,
    print_json,
    print_pairs,
    print_table,
    time_text,
)
from lookalike.client.cli._progress import say

if TYPE_CHECKING:
    from lookalike.client import Item

ItemId = Annotated[str, typer.Argument(metavar="ID", help="The item.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="List, show, count, change and delete items.")
    group.callback(invoke_without_command=True)(_root)
    group.command("list")(list_)
    group.command("get")(get)
    group.command("count")(count)
    group.command("image")(image)
    group.command("set-metadata")(set_metadata)
    group.command("delete")(delete)
    app.add_typer(group, name="items", rich_help_panel="Pictures")


def _root(
    context: typer.Context, server: _options.Server = "", json: _options.Json = False
) -> int | None:
    if context.invoked_subcommand is None:
        return list_(server=server, json=json)
    if server or json:
        raise UsageError("put options behind the command: items list --json")
    return None


def list_(
    where: _options.Where = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="At most so many; 0: all.")
    ] = 0,
    ids: Annotated[bool, typer.Option("--ids", help="The ids alone, one a line.")] = False,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """List items by id."""
    with _options.connect(server) as client:
        found = client.list(
            where=_options.where_or_none(where),
            view="id" if ids else "basic",
            page_size=min(limit, 1000) or 1000,
            collection=collection,
        )
        chosen = itertools.islice(found, limit or None)
        if json or ids:  # as they come: there may be millions
            for item in chosen:
                print_json({"id": item.id} if ids else item) if json else print(item.id)
        else:
            columns = ["id", "size", "type", "stored", "metadata"]
            rows = [
                [i.id, _size(i), i.image.media_type if i.image else "", i.create_time, i.metadata]
                for i in chosen
            ]
            print_table(columns, rows) if rows else say("no items")
    return _exit.DONE


def get(
    item_id: ItemId,
    vector: Annotated[bool, typer.Option("--vector", help="The vector too.")] = False,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Show one item."""
    with _options.connect(server) as client:
        item = client.get(item_id, view="full" if vector else "basic", collection=collection)
    _print(item, json)
    return _exit.DONE


def count(
    where: _options.Where = "",
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Count items."""
    with _options.connect(server) as client:
        number = client.count(where=_options.where_or_none(where), collection=collection)
    print_json({"count": number}) if json else print(number)
    return _exit.DONE


def image(
    item_id: ItemId,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="- for stdout.")],
    original: Annotated[
        bool, typer.Option("--original", help="The file as it was sent, not the thumbnail.")
    ] = False,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
) -> int:
    """Write an item's thumbnail or original to a file."""
    with _options.connect(server) as client:
        found = client.image(item_id, original=original, collection=collection)
    if out == "-":
        sys.stdout.buffer.write(found.data)
    else:
        Path(out).write_bytes(found.data)
        say(f"{found.media_type}, {bytes_text(len(found.data))} in {out}")
    return _exit.DONE


def set_metadata(
    item_id: ItemId,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE... | JSON",
            help="price=3 brand=acme tags='[\"red\"]', or one JSON object; null deletes a key.",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the old.")
    ] = False,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Merge values into an item's metadata; its picture and vector stay."""
    metadata = _metadata(values)
    with _options.connect(server) as client:
        item = client.update_metadata(item_id, metadata, replace=replace, collection=collection)
    _print(item, json)
    return _exit.DONE


def delete(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="The items.", show_default=False)
    ] = None,
    where: _options.Where = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: _options.Yes = False,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Delete items by id or by condition."""
    if bool(ids) == bool(where):
        raise UsageError("say what to delete: either ids or --where")
    with _options.connect(server) as client:
        if not dry_run:
            what = counted(len(ids), "item") if ids else f"all items where {where}"
            _options.confirm(f"Delete {what}?", yes)
        number = client.delete(
            ids or None,
            where=_options.where_or_none(where),
            dry_run=dry_run,
            collection=collection,
        )
    if json:
        print_json({"deleted_count": number, "dry_run": dry_run})
    else:
        say(f"{counted(number, 'item')} {'would be ' if dry_run else ''}deleted")
    return _exit.DONE


def _metadata(values: list[str]) -> dict[str, Any]:
    if len(values) == 1 and values[0].lstrip().startswith("{"):
        return _options.json_object(values[0], "the metadata")
    metadata: dict[str, Any] = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise UsageError(f"{value!r} is not KEY=VALUE")
        try:
            metadata[key] = json_module.loads(text)
        except ValueError:
            metadata[key] = text
    return metadata


def _size(item: Item) -> str:
    return f"{item.image.width}x{item.image.height}" if item.image else ""


def _print(item: Item, json: bool) -> None:
    if json:
        print_json(item)
        return
    image = item.image
    print_pairs(
        [
            ("id", item.id),
            ("size", _size(item)),
            ("type", image.media_type if image else ""),
            ("file", bytes_text(image.size_bytes) if image else ""),
            ("sha256", image.sha256 if image else ""),
            ("metadata", item.metadata or ""),
            ("stored", time_text(item.create_time)),
            ("changed", time_text(item.update_time)),
            ("vector", item.vector.tolist() if item.vector is not None else ""),
        ]
    )
