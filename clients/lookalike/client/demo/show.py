"""The demo: a real server, a gallery or one's own photographs, and searches in them."""

from __future__ import annotations

import contextlib
import random
import shlex
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lookalike.client import Client, SearchResult, UploadProgress
from lookalike.client.contact_sheet import Section, contact_sheet
from lookalike.client.demo.gallery import render_gallery
from lookalike.client.local_server import LocalServer
from lookalike.client.meaning import RULE_OF_THUMB, meaning_of

_SELF_SEARCHES = 20
_SELF_SCORE = 0.999


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo did, for those who check it."""

    stored: int
    failed: int
    images_per_s: float
    found_themselves: int
    asked_for_themselves: int
    sheet: Path


@dataclass(frozen=True, slots=True)
class _Query:
    title: str
    picture: Path
    result: SearchResult


def run_demo(console: Console, out: Path, photos: Path | None, *, seed: int = 7) -> DemoResult:
    """Show lookalike at work; write pictures and contact sheet to `out`.

    With `photos` the pictures of that folder take the place of the rendered gallery.
    The server keeps its data in a temporary folder that goes with it. Raises
    LookalikeError.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lookalike-demo-") as data:
        console.print("[bold]1.[/] starting a server on a free port of this machine ...")
        with LocalServer(Path(data)) as server, Client(server.address) as client:
            model = client.info().default_model
            console.print(f"   ready on {server.address}, embedder {model!r}\n")
            folder, metadata = _pictures(console, out, photos, seed)
            console.print("[bold]3.[/] streaming them in; each is durable before it is counted")
            stored, failed, rate = _upload(console, client, folder, metadata)
            asked, found = _find_themselves(console, client, folder, seed)
            queries = _search(client, folder, metadata, seed)
            for query in queries:
                _print(console, query)
            console.print(f"   {RULE_OF_THUMB}\n", style="dim")
            sheet = out / "contact-sheet.html"
            sections = [Section(q.title, q.picture, q.result) for q in queries]
            sheet.write_text(contact_sheet(client, sections), encoding="utf-8")
    _next_steps(console, folder, sheet)
    return DemoResult(stored, failed, rate, found, asked, sheet)


def _pictures(
    console: Console, out: Path, photos: Path | None, seed: int
) -> tuple[Path, dict[str, dict[str, object]]]:
    """Return the folder of the pictures and what is known of each by id."""
    if photos is not None:
        console.print(f"[bold]2.[/] taking the pictures of {photos}\n")
        return photos, {}
    console.print("[bold]2.[/] rendering a gallery: objects in several views, lights and colours")
    started = time.perf_counter()
    folder = out / "gallery"
    pictures = render_gallery(folder, seed=seed)
    seconds = time.perf_counter() - started
    console.print(f"   {len(pictures)} pictures in {folder} ({seconds:.1f} s)\n")
    return folder, {p.id: dict(p.metadata) for p in pictures}


def _upload(
    console: Console, client: Client, folder: Path, metadata: dict[str, dict[str, object]]
) -> tuple[int, int, float]:
    def attach(path: Path) -> dict[str, object] | None:
        return metadata.get(path.relative_to(folder).as_posix())

    with _bar(console) as (bar, task):

        def show(progress: UploadProgress) -> None:
            bar.update(task, completed=progress.done_count)

        bar.update(task, total=sum(1 for p in folder.rglob("*") if p.is_file()))
        report = client.upload(folder, metadata=attach, progress=show)
        bar.update(task, total=report.total, completed=report.total)
    rate = report.total / report.seconds
    console.print(
        f"   {report.stored} stored, {report.failed} failed, {report.seconds:.1f} s, "
        f"[bold]{rate:.0f} pictures/s[/] (read, decoded, embedded, committed, findable)"
    )
    for failure in report.failures[:5]:
        console.print(f"   skipped {failure.source}: {failure.error}")
    console.print()
    return report.stored, report.failed, rate


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[tuple[Progress, object]]:
    columns = (
        TextColumn("  "),
        BarColumn(40),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        yield bar, bar.add_task("")


def _find_themselves(console: Console, client: Client, folder: Path, seed: int) -> tuple[int, int]:
    """Ask with stored files for themselves; return how many were asked, and found first."""
    ids = [item.id for item in client.list(view="id")]
    chosen = random.Random(seed).sample(ids, min(_SELF_SEARCHES, len(ids)))
    found = 0
    for item_id in chosen:
        hits = client.search(image=folder / item_id, k=5, view="id")
        same = [hit for hit in hits if hit.score >= _SELF_SCORE]
        found += any(hit.id == item_id for hit in same)
    console.print(
        f"[bold]4.[/] {found} of {len(chosen)} random pictures find themselves first, "
        f"with a score of {_SELF_SCORE} or more\n"
    )
    return len(chosen), found


def _search(
    client: Client, folder: Path, metadata: dict[str, dict[str, object]], seed: int
) -> list[_Query]:
    """Search by picture, by example and with a filter."""
    if not metadata:
        ids = [item.id for item in client.list(view="id")]
        chosen = random.Random(seed + 1).sample(ids, min(3, len(ids)))
        return [_Query(f"by example: {i}", folder / i, client.search(like=i, k=6)) for i in chosen]
    copies = [i for i, m in metadata.items() if m.get("kind") == "copy"]
    renders = [i for i, m in metadata.items() if m.get("kind") == "render"]
    copy = next((i for i in copies if metadata[i].get("transform") == "crop"), copies[0])
    example = renders[len(renders) // 2]
    cheap = f"price < 30 and object = '{metadata[example]['object']}'"
    return [
        _Query(
            f"by picture: {copy}, a {metadata[copy]['transform']} copy",
            folder / copy,
            client.search(image=folder / copy, where="kind = 'render'", k=6),
        ),
        _Query(f"by example: like {example}", folder / example, client.search(like=example, k=6)),
        _Query(
            f"with a filter: like {example}, where {cheap}",
            folder / example,
            client.search(like=example, where=cheap, k=6),
        ),
    ]


def _print(console: Console, query: _Query) -> None:
    table = Table(title=query.title, title_justify="left", title_style="bold", box=None)
    table.add_column("score", justify="right")
    table.add_column("which means")
    table.add_column("picture")
    for hit in query.result:
        table.add_row(f"{hit.score:.3f}", meaning_of(hit.score), hit.id)
    console.print(table)
    info = query.result.info
    console.print(f"   {info.total_ms:.1f} ms in the server\n", style="dim")


def _next_steps(console: Console, folder: Path, sheet: Path) -> None:
    some = next((p for p in sorted(folder.rglob("*")) if p.is_file()), folder)
    lookalike = ".venv/bin/lookalike" if Path(".venv/bin/lookalike").exists() else "lookalike"
    console.print(f"[bold]5.[/] the results as a page: {sheet.resolve().as_uri()}\n")
    console.print("[bold]Next[/], with a server of your own:")
    for command in (
        f"{lookalike} serve",
        f"{lookalike} index {shlex.quote(str(folder))}",
        f"{lookalike} search {shlex.quote(str(some))} --open",
    ):
        console.print(f"   {command}", highlight=False, soft_wrap=True)
