"""`lookalike embed PATH... --out FILE`: vectors without storing anything."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.client.cli import _exit, _options, _settings
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._progress import FailureList, Meter, say

if TYPE_CHECKING:
    from lookalike.client import Client
    from lookalike.client._files import FoundFile
    from lookalike.client._vectors import FloatMatrix
    from lookalike.client.errors import LookalikeError


def add_to(app: typer.Typer) -> None:
    app.command("embed", rich_help_panel="Pictures")(embed)


def embed(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Folders (with all below) and files; - for stdin."),
    ],
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write: .npz or .parquet."),
    ],
    shard_size: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="NUMBER",
            help="Write FILE-00000, FILE-00001, ... of so many vectors each; what they hold "
            "already is not embedded again. 0: one file, at the end.",
        ),
    ] = 0,
    part: Annotated[
        str,
        typer.Option(
            metavar="I/N", help="Take only the I-th of N parts of the files.", show_default=False
        ),
    ] = "",
    server: Annotated[
        str,
        typer.Option(
            "--server",
            metavar="HOST:PORT,...",
            help="The server, or several of one model, which share the work. Otherwise "
            "LOOKALIKE_ADDRESS, or a private server.",
            show_default=False,
        ),
    ] = "",
    embedder: Annotated[
        str,
        typer.Option(help="Embedder of the private server: builtin, clip.", show_default=False),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            help="The server's model by name; for a private server, a checkpoint's folder.",
            show_default=False,
        ),
    ] = "",
    all_files: _options.AllFiles = False,
    failures: _options.Failures = "",
    quiet: _options.Quiet = False,
    json: _options.Json = False,
) -> int:
    """Turn pictures into vectors, (n, dim) float32, by the ids that `index` would give them.

    In an .npz file they are `vectors`, in the order of `ids`; in a Parquet file the
    columns `vector` and `id`. Without --server and LOOKALIKE_ADDRESS, a private server
    works for the duration.
    """
    from lookalike.client.cli._bulk_embed import BulkEmbed
    from lookalike.client.cli._output import counted, print_json
    from lookalike.client.cli._sources import found_files
    from lookalike.client.cli._vector_files import VectorFiles

    if embedder and _settings.has_address(server):
        raise UsageError("--embedder is for a private server; leave out --server")
    if not (folder := Path(out).parent).is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    gathered = VectorFiles(Path(out), shard_size)
    files = _of_part(found_files(paths, all_files=all_files), part)
    before = len(files)
    files = [file for file in files if file.id not in gathered.done]
    known, new, bad, dimension = before - len(files), 0, 0, 0
    with _servers(server, embedder, model) as (clients, name):
        with Meter(len(files), quiet=quiet, word="embed") as meter:
            with FailureList(failures, meter) as failed:

                def keep(ids: Sequence[str], vectors: FloatMatrix, fingerprint: str) -> None:
                    nonlocal new, dimension
                    new, dimension = new + len(ids), int(vectors.shape[1])
                    gathered.add(ids, vectors, fingerprint)

                def on_failure(file: FoundFile, error: LookalikeError) -> None:
                    nonlocal bad
                    bad += 1
                    failed.add(str(file.path), error)

                def on_done(count: int) -> None:
                    meter.update(new + bad, bad)

                if files:
                    BulkEmbed(clients, name, keep=keep, failed=on_failure, done=on_done).run(files)
    gathered.finish()
    told = {"count": new, "failed": bad, "dimension": dimension, "file": out}
    if shard_size:
        told |= {"files": [str(path) for path in gathered.written], "known": known}
    if json:
        print_json(told)
    elif not quiet:
        where = counted(len(gathered.written), "new file") if shard_size else out
        there = f", {known} were there" if shard_size else ""
        say(f"{counted(new, 'vector')} of {dimension} numbers in {where}, {bad} failed{there}")
    return _exit.SOME_FAILED if bad else _exit.DONE


def _of_part(files: list[FoundFile], part: str) -> list[FoundFile]:
    """Keep the files of one part: the same ones on whatever machine."""
    if not part:
        return files
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part, re.ASCII)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError("--part is I/N, with I from 1 to N: 3/8 is the third of eight parts")
    return [f for f in files if zlib.crc32(os.fsencode(f.id)) % count == number - 1]


@contextlib.contextmanager
def _servers(server: str, embedder: str, model: str) -> Iterator[tuple[list[Client], str]]:
    """Give clients, and the model's name to ask them for."""
    if _settings.has_address(server):
        addresses = [one.strip() for one in _settings.address(server).split(",")]
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(_options.connect(one)) for one in addresses if one], model
        return
    import tempfile

    from lookalike.client import Client, LocalServer

    options = ["--embedder", embedder] if embedder else []
    options += ["--model", model] if model else []
    with tempfile.TemporaryDirectory(prefix="lookalike-embed-") as data:
        with LocalServer(Path(data), *options) as private, Client(private.address) as client:
            yield [client], ""
