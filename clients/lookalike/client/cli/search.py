"""`lookalike search` and `lookalike explain`: by picture, by words, by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._hits import hit_object, print_hits, show_page, write_page
from lookalike.client.cli._progress import say
from lookalike.client.cli._query import Operand, parse_query, query_of, read_region, title_of

if TYPE_CHECKING:
    from lookalike.client import Client, Explanation, Region, SearchResult


def add_to(app: typer.Typer) -> None:
    app.command("search", rich_help_panel="Pictures")(search)
    app.command("explain", rich_help_panel="Pictures")(explain)


Box = Annotated[
    str,
    typer.Option(
        "--region",
        metavar="L,T,W,H",
        help="Only this part of the picture: left, top, width, height in fractions of it.",
        show_default=False,
    ),
]


def search(
    things: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[THING [+|- THING]...]",
            help="A picture (- for one on stdin), words, or like:ID; several with + and - "
            "between them, 2:THING counts twice; text:WORDS for words that look like a file.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        str, typer.Option("--text", "-t", help="Search by words.", show_default=False)
    ] = "",
    like: Annotated[
        str, typer.Option(metavar="ID", help="Search by a stored item.", show_default=False)
    ] = "",
    region: Box = "",
    where: _options.Where = "",
    k: Annotated[int, typer.Option("--k", "-k", help="At most this many hits.")] = 10,
    min_score: Annotated[
        float | None, typer.Option(help="Only hits with this score.", show_default=False)
    ] = None,
    false_match_rate: Annotated[
        float | None,
        typer.Option(
            "--false-match-rate",
            metavar="RATE",
            help="Only hits that at most this share of unrelated pictures would match too: 0.01.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="Say of each hit what it is worth, and by chance.")
    ] = False,
    diversity: Annotated[
        float, typer.Option(help="0 to 1: variety in place of more of the same.")
    ] = 0.0,
    group_by: Annotated[
        str,
        typer.Option(metavar="FIELD", help="One hit for each value of it.", show_default=False),
    ] = "",
    group_limit: Annotated[
        int, typer.Option(help="So many hits for each value.", show_default="1")
    ] = 0,
    fold: Annotated[
        bool, typer.Option("--fold", help="Count near-duplicates of a hit, do not list them.")
    ] = False,
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
    """Find what looks like a picture, like words, like an item, or like all of these.

    lookalike search "a red shoe" + 2:shoe.jpg - boots.jpg
    """
    operands = _operands(things or [], text, like)
    box = read_region(region)
    if box is not None and (len(operands) > 1 or operands[0].kind == "text"):
        raise UsageError("--region is a part of one picture: search PICTURE --region 0,0,0.5,0.5")
    query = query_of(operands)
    with _options.connect(server) as client:
        result = client.search(
            **query,
            region=box,
            where=_options.where_or_none(where),
            k=k,
            min_score=min_score,
            max_false_match_rate=false_match_rate,
            judge=judge,
            diversity=diversity,
            group_by=group_by,
            group_limit=group_limit,
            fold_duplicates=fold,
            exact=exact,
            ef_search=ef_search,
            nprobe=nprobe,
            collection=collection,
        )
        has_page = bool(html or open_page)
        can_mean = len(operands) == 1 and operands[0].kind != "text"
        asks_metric = can_mean and (has_page or not json)
        is_cosine = bool(asks_metric and client.collection(collection).metric == "cosine")
        _print(result, json=json, folds=fold, is_cosine=is_cosine, judge=judge)
        if has_page:
            page = _sheet(client, operands, query, result, collection, is_cosine)
            path = write_page(page, html, "search.html")
            if open_page:
                show_page(path)
    return _exit.DONE


def _operands(things: Sequence[str], text: str, like: str) -> list[Operand]:
    if sum(map(bool, (any(things), text, like))) != 1:
        raise UsageError("say what to look for: a picture or words, --text or --like")
    if text:
        return [Operand("text", text)]
    return [Operand("like", like)] if like else parse_query(things)


def _print(result: SearchResult, *, json: bool, folds: bool, is_cosine: bool, judge: bool) -> None:
    if json:
        from lookalike.client.cli._output import print_json

        for hit in result:
            print_json(hit_object(hit, folds=folds))
    else:
        print_hits(result, is_cosine=is_cosine)
    if judge and result.hits and not any(hit.tier for hit in result):
        say(
            "no hit was judged: that takes one picture or item to search by, and a collection "
            "with enough items to tell"
        )


def _sheet(
    client: Client,
    operands: Sequence[Operand],
    query: dict[str, Any],
    result: SearchResult,
    collection: str,
    is_cosine: bool,
) -> str:
    from lookalike.client.contact_sheet import Section, contact_sheet

    section = Section(
        title_of(operands),
        query.get("image"),
        result,
        collection=collection,
        has_meanings=is_cosine,
        like=query.get("like", ""),
        parts=query.get("parts", ()),
    )
    return contact_sheet(client, [section])


def explain(
    thing: Annotated[
        str,
        typer.Argument(metavar="THING", help="A picture, - for one on stdin, like:ID, or words."),
    ],
    item_id: Annotated[str, typer.Argument(metavar="ID", help="The item that it is like.")],
    region: Box = "",
    collection: _options.CollectionName = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Say why an item is like a picture: which regions of the two agree.

    Boxes are left, top, width, height in fractions of each picture, the strongest first.
    With words and a CLIP: where in the item's picture they fit best.
    """
    (operand,) = parse_query([thing])
    if operand.kind == "text" and region:
        raise UsageError("--region is a part of a picture; words have none")
    query, box = query_of([operand]), read_region(region)
    with _options.connect(server) as client:
        found = client.explain(item_id, **query, region=box, collection=collection)
    if json:
        from lookalike.client.cli._output import print_json

        print_json(found)
    else:
        _print_explanation(found, has_picture=operand.kind != "text")
    return _exit.DONE


def _print_explanation(found: Explanation, *, has_picture: bool) -> None:
    from lookalike.client.cli._output import print_table
    from lookalike.client.meaning import meaning_of_tier

    print(", ".join(filter(None, (f"score {found.score:.3f}", meaning_of_tier(found.tier)))))
    if not found.matches:
        say("no region agrees more than the others")
        return
    if not has_picture:
        print_table(
            ["strength", "in the item"], [[m.strength, _box(m.item_region)] for m in found.matches]
        )
        return
    rows = [[m.strength, _box(m.query_region), _box(m.item_region)] for m in found.matches]
    print_table(["strength", "in the picture", "in the item"], rows)


def _box(region: Region) -> str:
    return ",".join(f"{side:.2f}" for side in region)
