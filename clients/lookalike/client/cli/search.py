"""`lookalike search`: by picture, by words, by example."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._progress import say

if TYPE_CHECKING:
    from pathlib import Path

    from lookalike.client import Client, SearchResult


def add_to(app: typer.Typer) -> None:
    app.command("search", rich_help_panel="Pictures")(search)


def search(
    picture: Annotated[
        str, typer.Argument(metavar="[PICTURE]", help="A picture; - for one on stdin.")
    ] = "",
    text: Annotated[
        str, typer.Option("--text", "-t", help="Search by words.", show_default=False)
    ] = "",
    like: Annotated[
        str, typer.Option(metavar="ID", help="Search by a stored item.", show_default=False)
    ] = "",
    where: _options.Where = "",
    k: Annotated[int, typer.Option("--k", "-k", help="At most this many hits.")] = 10,
    min_score: Annotated[
        float | None, typer.Option(help="Only hits with this score.", show_default=False)
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every item.")] = False,
    ef_search: _options.EfSearch = 0,
    nprobe: _options.Nprobe = 0,
    html: Annotated[
        str, typer.Option(metavar="FILE", help="Write a page with pictures.", show_default=False)
    ] = "",
    open_page: Annotated[bool, typer.Option("--open", help="Show that page.")] = False,
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Find what looks like a picture, like words (--text) or like an item (--like)."""
    if sum(map(bool, (picture, text, like))) != 1:
        raise UsageError("say what to look for: PICTURE, --text or --like")
    query: dict[str, Any] = {"text": text} if text else {"like": like}
    if picture:
        query = {"image": _picture(picture)}
    with _options.connect(server) as client:
        result = client.search(
            **query,
            where=_options.where_or_none(where),
            k=k,
            min_score=min_score,
            exact=exact,
            ef_search=ef_search,
            nprobe=nprobe,
            collection=collection,
        )
        needs_meaning = not text and (html or open_page or not json)
        has_meanings = bool(needs_meaning and client.collection(collection).metric == "cosine")
        _print(result, json, has_meanings)
        if html or open_page:
            title = f"like {picture or like}" if not text else f"“{text}”"
            page = _sheet(client, title, query, result, collection, has_meanings, html)
            if open_page:
                _show(page)
    return _exit.DONE


def _picture(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    from pathlib import Path

    from lookalike.client._pictures import read_file
    from lookalike.client.errors import FileUnreadable

    try:
        return read_file(Path(name))
    except FileUnreadable as error:
        error.field = "picture"
        raise


def _print(result: SearchResult, json: bool, has_meanings: bool) -> None:
    from lookalike.client.cli._output import print_json, print_table
    from lookalike.client.meaning import meaning_of

    if json:
        for hit in result:
            print_json({"id": hit.id, "score": hit.score, "metadata": hit.metadata})
        return
    if not result.hits:
        say("nothing was found")
        return
    columns = ["score", "id", *(["which means"] if has_meanings else []), "metadata"]
    rows = [
        [hit.score, hit.id, *([meaning_of(hit.score)] if has_meanings else []), hit.metadata]
        for hit in result
    ]
    if not any(hit.metadata for hit in result):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    print_table(columns, rows)


def _sheet(
    client: Client,
    title: str,
    query: dict[str, Any],
    result: SearchResult,
    collection: str,
    has_meanings: bool,
    file: str,
) -> Path:
    import tempfile
    from pathlib import Path

    from lookalike.client.contact_sheet import Section, contact_sheet

    section = Section(
        title,
        query.get("image"),
        result,
        collection=collection,
        has_meanings=has_meanings,
        like=query.get("like", ""),
    )
    page = contact_sheet(client, [section])
    path = Path(file) if file else Path(tempfile.mkdtemp(prefix="lookalike-")) / "search.html"
    path.write_text(page, encoding="utf-8")
    say(f"the results as a page: {path}")
    return path


def _show(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser was found; open {page} yourself")
