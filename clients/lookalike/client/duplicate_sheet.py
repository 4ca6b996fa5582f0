"""Groups of duplicates as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from lookalike.client._answers import DuplicateGroup, DuplicateMember
from lookalike.client._results import ImageInfo
from lookalike.client._sheet import Thumbnails, page, text, well
from lookalike.client._sync import Client
from lookalike.client.meaning import meaning_of_duplicate

MOST_GROUPS = 500
"""A page with more pictures would open in no browser."""


def duplicate_sheet(
    client: Client,
    groups: Sequence[DuplicateGroup],
    *,
    collection: str = "",
    title: str = "Duplicates",
) -> str:
    """Return the page of at most 500 groups; in each the member worth keeping is first.

    The thumbnails are asked from the server. Raises LookalikeError if it cannot be
    reached; pictures that were never kept have an empty frame.
    """
    thumbnails = Thumbnails(client)
    shown = groups[:MOST_GROUPS]
    body = "".join(
        _group(number, group, thumbnails, collection) for number, group in enumerate(shown, 1)
    )
    note = f"{len(groups)} groups; the first of each is the one worth keeping."
    if len(shown) < len(groups):
        note += f" Only the first {len(shown)} groups are shown."
    return page(title, note, body or "<p>There are none.</p>")


def _group(number: int, group: DuplicateGroup, thumbnails: Thumbnails, collection: str) -> str:
    cards = "".join(_card(member, thumbnails, collection) for member in group.members)
    return (
        f"<section><h2>{number}. {len(group.members)} pictures</h2>"
        f'<ol class="hits">{cards}</ol></section>\n'
    )


def _card(member: DuplicateMember, thumbnails: Thumbnails, collection: str) -> str:
    worth = "<b>keep</b>"
    if member.kind:
        meaning = text(meaning_of_duplicate(member.kind))
        worth = f'<b>{member.score:.3f}</b><span class="dim">{meaning}</span>'
    return (
        f"<li>{well(thumbnails.uri(member.id, collection), member.id)}"
        f'<div class="text"><div class="score">{worth}</div>'
        f'<div>{text(member.id)}</div><div class="dim">{_facts(member.image)}</div></div></li>'
    )


def _facts(image: ImageInfo | None) -> str:
    if image is None:
        return ""
    return f"{image.width} x {image.height}, {image.size_bytes / 1024:.0f} KiB"
