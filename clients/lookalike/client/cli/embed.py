"""`lookalike embed PATH... --out FILE.npz`: vectors without storing anything."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
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
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE.npz", help="Where to write.")],
    server: _options.Server = "",
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
    """Turn pictures into vectors: `ids` and `vectors` (n, dim) float32 in one .npz file.

    Without --server and LOOKALIKE_ADDRESS, a private server works for the duration.
    """
    from lookalike.client.cli._bulk_embed import BulkEmbed
    from lookalike.client.cli._output import counted, print_json
    from lookalike.client.cli._sources import found_files

    if embedder and _settings.has_address(server):
        raise UsageError("--embedder is for a private server; leave out --server")
    if not (folder := Path(out).parent).is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    files = found_files(paths, all_files=all_files)
    bad = done = 0
    with _server(server, embedder, model) as (client, name):
        with Meter(len(files), quiet=quiet, word="embed") as meter:
            with FailureList(failures, meter) as failed:

                def on_failure(file: FoundFile, error: LookalikeError) -> None:
                    nonlocal bad
                    bad += 1
                    failed.add(str(file.path), error)

                def on_done(count: int) -> None:
                    nonlocal done
                    done += count
                    meter.update(done, bad)

                bulk = BulkEmbed(client, name, failed=on_failure, done=on_done)
                ids, vectors = bulk.run(files)
    _write(out, ids, vectors)
    dimension = int(vectors.shape[1])
    if json:
        print_json({"count": len(ids), "failed": bad, "dimension": dimension, "file": out})
    elif not quiet:
        say(f"{counted(len(ids), 'vector')} of {dimension} numbers in {out}, {bad} failed")
    return _exit.SOME_FAILED if bad else _exit.DONE


@contextlib.contextmanager
def _server(server: str, embedder: str, model: str) -> Iterator[tuple[Client, str]]:
    """Give a client, and the model's name to ask it for."""
    if _settings.has_address(server):
        with _options.connect(server) as client:
            yield client, model
        return
    import tempfile

    from lookalike.client import Client, LocalServer

    options = ["--embedder", embedder] if embedder else []
    options += ["--model", model] if model else []
    with tempfile.TemporaryDirectory(prefix="lookalike-embed-") as data:
        with LocalServer(Path(data), *options) as private, Client(private.address) as client:
            yield client, ""


def _write(out: str, ids: list[str], vectors: FloatMatrix) -> None:
    """Write the file in one step: what is there is old or whole."""
    import numpy as np

    path = Path(out)
    half = path.with_name(path.name + ".part")
    try:
        with half.open("wb") as file:
            np.savez(file, ids=np.array(ids, dtype=np.str_), vectors=vectors)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
