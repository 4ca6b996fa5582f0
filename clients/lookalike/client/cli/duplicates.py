"""`lookalike duplicates`: items that show the same. Nothing is ever deleted here."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._output import bytes_text, counted, print_json, print_table
from lookalike.client.cli._progress import Meter, say

if TYPE_CHECKING:
    from lookalike.client import Client, DuplicateGroup, DuplicateProgress

_KINDS = MappingProxyType(
    {"exact": "exact", "same": "same_picture", "same_picture": "same_picture", "near": "near"}
)


def add_to(app: typer.Typer) -> None:
    app.command("duplicates", rich_help_panel="Pictures")(duplicates)


def duplicates(
    kind: Annotated[
        str, typer.Option(help="exact (the same file), same (the same picture) or near.")
    ] = "same",
    where: _options.Where = "",
    list_: Annotated[
        bool,
        typer.Option("--list", help="Only the ids of all but the one worth keeping, one a line."),
    ] = False,
    zeros: Annotated[
        bool, typer.Option("-0", help="With --list: ids end with NUL, for xargs -0.")
    ] = False,
    html: Annotated[
        str, typer.Option(metavar="FILE", help="Write a page with pictures.", show_default=False)
    ] = "",
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    quiet: _options.Quiet = False,
    json: _options.Json = False,
) -> int:
    """Find items that show the same, over a whole collection.

    In each group the one worth keeping comes first: the largest picture, then the oldest
    item. Nothing is deleted; --list is made for scripts that do, and is printed only when
    the whole collection was compared.
    """
    if kind not in _KINDS:
        raise UsageError(f"--kind cannot be {kind!r}; exact, same or near")
    if list_ and json:
        raise UsageError("say either --list or --json")
    if zeros and not list_:
        raise UsageError("-0 is for --list")
    with _options.connect(server) as client:
        groups = _find(client, _KINDS[kind], where, collection, quiet=quiet, json=json)
        if html:
            from lookalike.client.cli._hits import write_page
            from lookalike.client.duplicate_sheet import duplicate_sheet

            write_page(duplicate_sheet(client, groups, collection=collection), html, "")
    if list_:
        for item_id in spare_ids(groups):
            print(item_id, end="\0" if zeros else "\n")
    elif not json:
        _print(groups)
    if not quiet:
        say(_sentence(groups))
    return _exit.DONE


def _find(
    client: Client, kind: Any, where: str, collection: str, *, quiet: bool, json: bool
) -> list[DuplicateGroup]:
    """Return all groups; with `json`, print each as it comes."""
    groups = []
    with Meter(0, quiet=quiet, word="compare") as meter:

        def progress(now: DuplicateProgress) -> None:
            meter.update(now.done_count, 0, total=now.total_count)

        for group in client.find_duplicates(
            kind=kind,
            where=_options.where_or_none(where),
            progress=progress,
            collection=collection,
        ):
            groups.append(group)
            if json:
                print_json(group)
    return groups


def spare_ids(groups: Sequence[DuplicateGroup]) -> list[str]:
    """Return the ids of all members but those worth keeping, each once.

    One that is worth keeping in any group is never among them, and of every group at
    least the first member is left.
    """
    kept = {group.ids[0] for group in groups if group.ids}
    spare = (item_id for group in groups for item_id in group.ids[1:])
    return [item_id for item_id in dict.fromkeys(spare) if item_id not in kept]


def _print(groups: Sequence[DuplicateGroup]) -> None:
    from lookalike.client.meaning import meaning_of_duplicate

    rows = []
    for number, group in enumerate(groups, 1):
        for member in group.members:
            image = member.image
            rows.append(
                [
                    number,
                    member.id,
                    meaning_of_duplicate(member.kind),
                    member.score if member.kind else "",
                    f"{image.width}x{image.height}" if image else "",
                    bytes_text(image.size_bytes) if image else "",
                ]
            )
    if rows:
        print_table(["group", "id", "which is", "score", "size", "file"], rows)


def _sentence(groups: Sequence[DuplicateGroup]) -> str:
    if not groups:
        return "no duplicates"
    spare = len(spare_ids(groups))
    return f"{counted(len(groups), 'group')}, {counted(spare, 'item')} more than needed"
