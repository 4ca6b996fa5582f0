"""What pages with pictures have in common: the frame, the style, pictures as data: URIs."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from pathlib import Path

from lookalike.client._pictures import read_file
from lookalike.client._results import ItemImage
from lookalike.client._sync import Client
from lookalike.client.errors import LookalikeError, NotFound

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
.parts { flex: 0 0 14rem; } .parts > * { margin: 0 0 1rem; }
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


def page(title: str, note: str, body: str) -> str:
    """Return a whole page; `body` is HTML, the others are text."""
    shown = f'<p class="dim">{text(note)}</p>' if note else ""
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><header><h1>{text(title)}</h1>{shown}</header>\n{body}</body></html>\n"
    )


class Thumbnails:
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


def well(uri: str, item_id: str) -> str:
    """Return the frame of an item's picture, empty if there is none."""
    picture = f'<img src="{uri}" alt="{text(item_id)}">' if uri else "no picture kept"
    return f'<div class="well">{picture}</div>'


def query_uri(picture: str | os.PathLike[str] | bytes) -> str:
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


def text(value: str) -> str:
    """Return text as HTML."""
    return html.escape(value, quote=True)
