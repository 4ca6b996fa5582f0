"""The hits of a search on stdout, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lookalike.client.cli._progress import say

if TYPE_CHECKING:
    from pathlib import Path

    from lookalike.client import Hit, SearchResult


def print_hits(result: SearchResult, *, is_cosine: bool) -> None:
    """Print a table; of the columns, those that have something to say."""
    from lookalike.client.cli._output import print_table
    from lookalike.client.meaning import chance_of, meaning_of_hit

    if not result.hits:
        say("nothing was found")
        return
    columns: list[tuple[str, list[Any]]] = [
        ("score", [hit.score for hit in result]),
        ("id", [hit.id for hit in result]),
        ("which means", [meaning_of_hit(hit, is_cosine=is_cosine) for hit in result]),
        ("by chance", [chance_of(hit.false_match_rate) for hit in result]),
        ("copies", [hit.duplicate_count or "" for hit in result]),
        ("metadata", [hit.metadata for hit in result]),
    ]
    shown = [(name, cells) for name, cells in columns if any(c or c == 0 for c in cells)]
    rows: list[Sequence[Any]] = list(zip(*(cells for _, cells in shown), strict=True))
    print_table([name for name, _ in shown], rows)


def hit_object(hit: Hit, *, folds: bool) -> dict[str, Any]:
    """Return a hit as one JSON object; what was not asked for is left out."""
    shown: dict[str, Any] = {"id": hit.id, "score": hit.score, "metadata": hit.metadata}
    if hit.tier:
        shown["tier"] = hit.tier.value
    if hit.false_match_rate is not None:
        shown["false_match_rate"] = hit.false_match_rate
    if folds:
        shown |= {"duplicate_count": hit.duplicate_count, "duplicate_ids": hit.duplicate_ids}
    return shown


def write_page(page: str, file: str, name: str) -> Path:
    """Write a page to a file, or to a new one in a temporary folder; say where."""
    import tempfile
    from pathlib import Path

    path = Path(file) if file else Path(tempfile.mkdtemp(prefix="lookalike-")) / name
    path.write_text(page, encoding="utf-8")
    say(f"the results as a page: {path}")
    return path


def show_page(page: Path) -> None:
    """Open a page in a browser."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser was found; open {page} yourself")
