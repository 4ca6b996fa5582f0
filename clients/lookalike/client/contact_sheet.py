"""Search results as one HTML file that needs nothing else: pictures inside, dark or light."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

from lookalike.client._answer_calls import Part
from lookalike.client._answers import Hit, SearchResult
from lookalike.client._sheet import Thumbnails, page, query_uri, text, well
from lookalike.client._sync import Client
from lookalike.client.meaning import JUDGED, RULE_OF_THUMB, chance_of, meaning_of_hit


@dataclass(frozen=True, slots=True)
class Section:
    """One search: what was asked with, and what was found."""

    title: str
    picture: str | os.PathLike[str] | bytes | None
    """The query's picture: a path or the bytes of a file; None for other queries."""
    result: SearchResult
    collection: str = ""
    has_meanings: bool = True
    """Whether the scores are cosines of pictures, so that words fit them."""
    like: str = ""
    """The id of the item that was asked with, whose thumbnail is then shown."""
    parts: Sequence[Part] = ()
    """What was asked with, if it was several things at once."""


def contact_sheet(
    client: Client, sections: Sequence[Section], *, title: str = "What looks alike"
) -> str:
    """Return the page; the thumbnails are asked from the server, each one once.

    Raises LookalikeError if the server cannot be reached. Pictures that are not there any
    more, or were never kept, have an empty frame.
    """
    thumbnails = Thumbnails(client)
    body = "".join(_section(section, thumbnails) for section in sections)
    return page(title, _note(sections), body)


def _note(sections: Sequence[Section]) -> str:
    is_judged = any(hit.tier for section in sections for hit in section.result)
    is_rough = any(section.has_meanings and not _is_judged(section) for section in sections)
    return " ".join([RULE_OF_THUMB] * is_rough + [JUDGED] * is_judged)


def _is_judged(section: Section) -> bool:
    return bool(section.result.hits) and all(hit.tier for hit in section.result)


def _section(section: Section, thumbnails: Thumbnails) -> str:
    info = section.result.info
    exactly = "compared with every item" if info.exact else "by the index"
    facts = f"{len(section.result)} found, {exactly}, {info.total_ms:.1f} ms in the server"
    cards = "".join(
        _card(rank, hit, section, thumbnails) for rank, hit in enumerate(section.result, 1)
    )
    found = f'<ol class="hits">{cards}</ol>' if cards else "<p>Nothing was found.</p>"
    return (
        f"<section><h2>{text(section.title)}</h2>"
        f'<div class="row">{_query(section, thumbnails)}{found}</div>'
        f'<p class="dim">{text(facts)}</p></section>\n'
    )


def _query(section: Section, thumbnails: Thumbnails) -> str:
    if section.parts:
        figures = [_part(part, section, thumbnails) for part in section.parts]
        return f'<div class="parts">{"".join(figures)}</div>'
    uri = query_uri(section.picture) if section.picture is not None else ""
    if not uri and section.like:
        uri = thumbnails.uri(section.like, section.collection)
    return _figure(uri, "the query") if uri else ""


def _part(part: Part, section: Section, thumbnails: Thumbnails) -> str:
    sign = f"{'-' if part.weight < 0 else '+'} {abs(part.weight):g} x"
    if part.text is not None:
        return f'<p class="query">{sign} “{text(part.text)}”</p>'
    uri = ""
    if isinstance(part.image, str | os.PathLike | bytes):
        uri = query_uri(part.image)
    elif part.like is not None:
        uri = thumbnails.uri(part.like, section.collection)
    return _figure(uri, sign) if uri else f'<p class="query">{sign} {text(part.like or "")}</p>'


def _figure(uri: str, caption: str) -> str:
    shown = f'<figcaption class="dim">{text(caption)}</figcaption>'
    return f'<figure class="query"><img src="{uri}" alt="{text(caption)}">{shown}</figure>'


def _card(rank: int, hit: Hit, section: Section, thumbnails: Thumbnails) -> str:
    meaning = meaning_of_hit(hit, is_cosine=section.has_meanings)
    words = f'<span class="dim">{text(meaning)}</span>' if meaning else ""
    meter = ""
    if section.has_meanings:
        meter = f'<meter min="0" max="1" value="{max(0.0, min(1.0, hit.score)):.3f}"></meter>'
    return (
        f"<li>{well(thumbnails.uri(hit.id, section.collection), hit.id)}"
        f'<div class="text"><div class="score"><b>{hit.score:.3f}</b>{words}</div>{meter}'
        f"<div>{rank}. {text(hit.id)}</div>{_more(hit)}</div></li>"
    )


def _more(hit: Hit) -> str:
    """Return what is known of some hits only."""
    facts = []
    if hit.false_match_rate is not None:
        facts.append(f"by chance: {chance_of(hit.false_match_rate)}")
    if hit.duplicate_count:
        word = "copy" if hit.duplicate_count == 1 else "copies"
        facts.append(f"{hit.duplicate_count} {word} not shown")
    shown = f'<div class="dim">{text("; ".join(facts))}</div>' if facts else ""
    if hit.metadata:
        metadata = json.dumps(hit.metadata, ensure_ascii=False, indent=1)
        summary = '<summary class="dim">metadata</summary>'
        shown += f"<details>{summary}<pre>{text(metadata)}</pre></details>"
    return shown
