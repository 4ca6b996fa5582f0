"""Search results as one HTML file that needs nothing else: pictures inside, dark or light."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.client._answers import Hit, SearchResult
from lookalike.client._pictures import read_file
from lookalike.client._results import ItemImage
from lookalike.client._sync import Client
from lookalike.client.errors import LookalikeError, NotFound
from lookalike.client.meaning import RULE_OF_THUMB, meaning_of

_QUERY_SIDE = 320
"""Longest side of the query's picture, px; the hits are thumbnails of at most 256."""
_LARGEST_UNSCALED = 2 * 2**20
"""A query picture that cannot be made smaller (no Pillow) is put in up to so many bytes."""
_MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]+")
_BY_MAGIC = {
    b"\xff\xd8": "image/jpeg",
    b"\x89P": "image/png",
    b"RI": "image/webp",
    b"GI": "image/gif",
}

_STYLE = """
:root { color-scheme: light dark; --page: #f6f6f4; --card: #fff; --ink: #1c1c1a; --dim: #6f6f6a;
  --line: #e3e3de; --mark: #3a6ea5; --well: #ecece8; }
@media (prefers-color-scheme: dark) { :root { --page: #161617; --card: #202022; --ink: #ededeb;
  --dim: #9b9b96; --line: #333336; --mark: #7fb0e6; --well: #2a2a2d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem); max-width: 90rem;
  background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.05rem; margin: 0 0 1rem; }
.dim { color: var(--dim); font-size: .85rem; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.query { flex: 0 0 14rem; margin: 0; }
.query img { width: 100%; border-radius: 10px; outline: 2px solid var(--mark); outline-offset: 3px; }
.hits { flex: 1 1 24rem; display: grid; gap: 1rem; list-style: none; margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
.hits li { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; min-width: 0; }
.well { display: grid; place-items: center; aspect-ratio: 1; background: var(--well);
  color: var(--dim); }
.well img { width: 100%; height: 100%; object-fit: contain; display: block; }
.text { padding: .6rem .8rem .8rem; overflow-wrap: anywhere; }
.score { display: flex; justify-content: space-between; gap: .5rem; }
.score b { font-variant-numeric: tabular-nums; white-space: nowrap; }
meter { width: 100%; height: .5rem; accent-color: var(--mark); }
details { margin-top: .3rem; } pre { white-space: pre-wrap; margin: .3rem 0 0; font-size: .75rem; }
"""


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


def contact_sheet(
    client: Client, sections: Sequence[Section], *, title: str = "What looks alike"
) -> str:
    """Return the page; the thumbnails are asked from the server, each one once.

    Raises LookalikeError if the server cannot be reached. Pictures that are not there any
    more, or were never kept, have an empty frame.
    """
    thumbnails = _Thumbnails(client)
    body = "".join(_section(section, thumbnails) for section in sections)
    note = f'<p class="dim">{_text(RULE_OF_THUMB)}</p>' if _any_meaning(sections) else ""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{_text(title)}</h1>{note}</header>\n{body}</body></html>\n"
    )


class _Thumbnails:
    """The data: URIs of items' thumbnails; "" for items that have none."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._uris: dict[tuple[str, str], str] = {}

    def uri(self, item_id: str, collection: str) -> str:
        key = (collection, item_id)
        if key not in self._uris:
            try:
                self._uris[key] = _uri(self._client.image(item_id, collection=collection))
            except NotFound:
                self._uris[key] = ""
        return self._uris[key]


def _any_meaning(sections: Sequence[Section]) -> bool:
    return any(section.has_meanings for section in sections)


def _section(section: Section, thumbnails: _Thumbnails) -> str:
    info = section.result.info
    exactly = "compared with every item" if info.exact else "by the index"
    facts = f"{len(section.result)} found, {exactly}, {info.total_ms:.1f} ms in the server"
    cards = "".join(
        _card(rank, hit, section, thumbnails) for rank, hit in enumerate(section.result, 1)
    )
    found = f'<ol class="hits">{cards}</ol>' if cards else "<p>Nothing was found.</p>"
    return (
        f"<section><h2>{_text(section.title)}</h2>"
        f'<div class="row">{_query(section, thumbnails)}{found}</div>'
        f'<p class="dim">{_text(facts)}</p></section>\n'
    )


def _query(section: Section, thumbnails: _Thumbnails) -> str:
    uri = _query_uri(section.picture) if section.picture is not None else ""
    if not uri and section.like:
        uri = thumbnails.uri(section.like, section.collection)
    if not uri:
        return ""
    caption = '<figcaption class="dim">the query</figcaption>'
    return f'<figure class="query"><img src="{uri}" alt="the query">{caption}</figure>'


def _card(rank: int, hit: Hit, section: Section, thumbnails: _Thumbnails) -> str:
    uri = thumbnails.uri(hit.id, section.collection)
    picture = f'<img src="{uri}" alt="{_text(hit.id)}">' if uri else "no picture kept"
    meaning, meter = "", ""
    if section.has_meanings:
        meaning = f'<span class="dim">{_text(meaning_of(hit.score))}</span>'
        meter = f'<meter min="0" max="1" value="{max(0.0, min(1.0, hit.score)):.3f}"></meter>'
    metadata = ""
    if hit.metadata:
        shown = json.dumps(hit.metadata, ensure_ascii=False, indent=1)
        summary = '<summary class="dim">metadata</summary>'
        metadata = f"<details>{summary}<pre>{_text(shown)}</pre></details>"
    return (
        f'<li><div class="well">{picture}</div><div class="text">'
        f'<div class="score"><b>{hit.score:.3f}</b>{meaning}</div>{meter}'
        f"<div>{rank}. {_text(hit.id)}</div>{metadata}</div></li>"
    )


def _query_uri(picture: str | os.PathLike[str] | bytes) -> str:
    """Return the query's picture, made small where Pillow is there to do it."""
    try:
        data = picture if isinstance(picture, bytes) else read_file(Path(picture))
    except LookalikeError:  # it was there when it was asked with
        return ""
    small = _scaled(data)
    if small is not None:
        return _uri(ItemImage(small, "image/jpeg"))
    media_type = _BY_MAGIC.get(data[:2], "")
    if not media_type or len(data) > _LARGEST_UNSCALED:
        return ""
    return _uri(ItemImage(data, media_type))


def _scaled(data: bytes) -> bytes | None:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(data)) as file:
            file.draft("RGB", (_QUERY_SIDE, _QUERY_SIDE))
            picture = ImageOps.exif_transpose(file).convert("RGBA")
        picture.thumbnail((_QUERY_SIDE, _QUERY_SIDE))
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        out = io.BytesIO()
        white.save(out, "JPEG", quality=85)
        return out.getvalue()
    except Exception:  # Pillow raises anything on odd files; the sheet is still worth having
        return None


def _uri(image: ItemImage) -> str:
    is_known = _MEDIA_TYPE.fullmatch(image.media_type)
    media_type = image.media_type if is_known else "application/octet-stream"
    return f"data:{media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def _text(text: str) -> str:
    return html.escape(text, quote=True)
