"""`lookalike demo`: a real server, a gallery or one's own photographs, and searches in them."""

from __future__ import annotations

import random
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._progress import FailureList, Meter

if TYPE_CHECKING:
    from lookalike.client import Client, SearchResult, WriteResult
    from lookalike.client._files import FoundFile

_SELF_SEARCHES = 20
_SELF_SCORE = 0.999
_HITS = 5
_SEED = 7


def add_to(app: typer.Typer) -> None:
    app.command("demo", rich_help_panel="Server")(demo)


def demo(
    photos: Annotated[
        str,
        typer.Option(metavar="DIR", help="Your own photographs in place of the rendered gallery."),
    ] = "",
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Where the gallery and the contact sheet go.")
    ] = "demo",
    quiet: _options.Quiet = False,
) -> int:
    """Show lookalike at work: a real server, pictures streamed in, searches, a contact sheet.

    The server's data is in a temporary folder and goes with it.
    """
    from lookalike.client import Client, LocalServer

    if photos and not Path(photos).is_dir():
        raise _exit.UsageError(f"there is no folder {photos}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lookalike-demo-") as data:
        _step(1, "start a server on a free port of this machine")
        with LocalServer(Path(data)) as server, Client(server.address) as client:
            _note(f"ready on {server.address}, embedder {client.info().default_model!r}")
            gallery = _own(Path(photos)) if photos else _rendered(folder)
            failed = _upload(client, gallery, quiet)
            lost = _find_themselves(client, gallery)
            queries = _search(client, gallery)
            for query in queries:
                _show(query)
            sheet = _write_sheet(client, queries, folder)
    _say_what_next(gallery, sheet, time.perf_counter() - started)
    if lost:
        return _exit.FAILED
    return _exit.SOME_FAILED if failed else _exit.DONE


@dataclass(frozen=True, slots=True)
class _Gallery:
    """The pictures of the demo, and what is known of each by its id."""

    folder: Path
    files: list[FoundFile]
    metadata: Mapping[str, Mapping[str, Any]]

    def path(self, item_id: str) -> Path:
        return next(file.path for file in self.files if file.id == item_id)


@dataclass(frozen=True, slots=True)
class _Query:
    title: str
    result: SearchResult
    picture: Path | None = None
    like: str = ""


def _own(folder: Path) -> _Gallery:
    from lookalike.client.cli._sources import found_files

    _step(2, f"take the pictures of {folder}")
    files = found_files([str(folder)], all_files=False)
    if not files:
        raise _exit.UsageError(f"there are no pictures in {folder}; name a folder that has some")
    _note(f"{len(files)} pictures")
    return _Gallery(folder, files, {})


def _rendered(out: Path) -> _Gallery:
    from lookalike.client.cli._sources import found_files
    from lookalike.client.demo.gallery import render_gallery

    _step(2, "render a gallery: things in several views, lights and colours, and altered copies")
    folder = out / "gallery"
    started = time.perf_counter()
    pictures = render_gallery(folder, seed=_SEED)
    _note(f"{len(pictures)} pictures in {folder} ({time.perf_counter() - started:.1f} s)")
    known = {picture.id: picture.metadata for picture in pictures}
    files = [f for f in found_files([str(folder)], all_files=False) if f.id in known]
    return _Gallery(folder, files, known)


def _upload(client: Client, gallery: _Gallery, quiet: bool) -> int:
    """Stream the pictures in; return how many failed."""
    _step(3, "stream them in; each is durable and findable before it is counted")
    ids = {file.path: file.id for file in gallery.files}
    with Meter(len(gallery.files), quiet=quiet, word="upload") as meter:
        with FailureList("", meter) as failures:

            def on_result(result: WriteResult) -> None:
                if result.error is not None:
                    failures.add(result.source or result.id, result.error)

            report = client.upload(
                gallery.files,
                metadata=lambda path: gallery.metadata.get(ids[path]),
                progress=lambda now: meter.update(now.done_count, now.failed_count),
                on_result=on_result,
            )
    stored = client.count()
    _note(
        f"{stored} stored and durable, {report.failed} failed, "
        f"{report.total - report.failed - stored} lost: "
        f"{report.total / report.seconds:.0f} pictures/s from file to acknowledgement"
    )
    return report.failed


def _find_themselves(client: Client, gallery: _Gallery) -> int:
    """Ask with stored files for themselves; return how many were not found first."""
    ids = [item.id for item in client.list(view="id")]
    chosen = random.Random(_SEED).sample(ids, min(_SELF_SEARCHES, len(ids)))
    found = 0
    for item_id in chosen:
        best = client.search(image=gallery.path(item_id), k=1, view="id")[0]
        found += best.id == item_id and best.score >= _SELF_SCORE
    _step(4, "search")
    _note(
        f"{found} of {len(chosen)} pictures drawn at random find themselves first "
        f"with a score of {_SELF_SCORE} or more"
    )
    return len(chosen) - found


def _search(client: Client, gallery: _Gallery) -> list[_Query]:
    """Search by picture, by example and with a filter."""
    known = gallery.metadata
    if not known:
        ids = [item.id for item in client.list(view="id")]
        chosen = random.Random(_SEED + 1).sample(ids, min(3, len(ids)))
        return [_Query(f"like {i}", client.search(like=i, k=_HITS), like=i) for i in chosen]
    copy = next(i for i, m in known.items() if str(m.get("transform", "")).startswith("crop"))
    example = next(i for i, m in known.items() if m["kind"] == "render" and i != copy)
    thing = known[example]["object"]
    path = gallery.path(copy)
    where = f"price < 200 and object != '{thing}' and kind = 'render'"
    return [
        _Query(
            f"by picture: {copy}, among the renders",
            client.search(image=path, where="kind = 'render'", k=_HITS),
            picture=path,
        ),
        _Query(f"by example: like {example}", client.search(like=example, k=_HITS), like=example),
        _Query(
            f"with a filter: like {example}, where {where}",
            client.search(like=example, where=where, k=_HITS),
            like=example,
        ),
    ]


def _show(query: _Query) -> None:
    from lookalike.client.cli._output import print_table
    from lookalike.client.meaning import meaning_of

    print(f"\n   {query.title}")
    print_table(
        ["score", "which means", "picture"],
        [[hit.score, meaning_of(hit.score), hit.id] for hit in query.result],
    )


def _write_sheet(client: Client, queries: list[_Query], folder: Path) -> Path:
    from lookalike.client.contact_sheet import Section, contact_sheet
    from lookalike.client.meaning import RULE_OF_THUMB

    print(f"\n   {RULE_OF_THUMB}\n")
    sections = [Section(q.title, q.picture, q.result, like=q.like) for q in queries]
    sheet = folder / "contact-sheet.html"
    sheet.write_text(contact_sheet(client, sections), encoding="utf-8")
    return sheet


def _say_what_next(gallery: _Gallery, sheet: Path, seconds: float) -> None:
    _step(5, f"look at the results as a page: {sheet.resolve().as_uri()}")
    command = shlex.quote(sys.argv[0]) if "/" in sys.argv[0] else "lookalike"
    print(f"\nThe demo took {seconds:.1f} s. Next, with a server of your own:")
    for line in (
        f"{command} serve",
        f"{command} index {shlex.quote(str(gallery.folder))}",
        f"{command} search {shlex.quote(str(gallery.files[0].path))} --open",
    ):
        print(f"   {line}")


def _step(number: int, what: str) -> None:
    print(f"{number}. {what}", flush=True)


def _note(what: str) -> None:
    print(f"   {what}", flush=True)
