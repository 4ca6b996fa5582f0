"""Options that several commands share, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from lookalike.client.cli import _access, _settings
from lookalike.client.cli._exit import UsageError

if TYPE_CHECKING:
    from lookalike.client import Client, IndexSpec

Server: TypeAlias = Annotated[
    str,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        help=f"The server. Otherwise LOOKALIKE_ADDRESS, or {_settings.DEFAULT_ADDRESS}.",
        show_default=False,
    ),
]
CollectionName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--collection", "-c", metavar="NAME", help="The collection.", show_default="default"
    ),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Where: TypeAlias = Annotated[
    str,
    typer.Option(
        "--where",
        "-w",
        metavar="CONDITION",
        help="Only items that pass: 'price < 100 and brand = \"acme\"'.",
        show_default=False,
    ),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Failures: TypeAlias = Annotated[
    str,
    typer.Option(
        "--failures",
        metavar="FILE",
        help="Write what failed to this file (path, reason, message, by tabs) instead of stderr.",
        show_default=False,
    ),
]
AllFiles: TypeAlias = Annotated[
    bool,
    typer.Option("--all-files", help="Take every file in folders, whatever its suffix."),
]
Backend: TypeAlias = Annotated[
    str,
    typer.Option(
        "--index",
        metavar="BACKEND",
        help="auto, exact, faiss, hnswlib or a plug-in.",
        show_default=False,
    ),
]
Algorithm: TypeAlias = Annotated[
    str, typer.Option("--algorithm", help="flat, hnsw or ivf.", show_default=False)
]
M: TypeAlias = Annotated[int, typer.Option("--m", help="HNSW: neighbours of a node.")]
EfConstruction: TypeAlias = Annotated[
    int, typer.Option("--ef-construction", help="HNSW: candidates while building.")
]
EfSearch: TypeAlias = Annotated[
    int, typer.Option("--ef-search", help="HNSW: candidates while searching.")
]
Nlist: TypeAlias = Annotated[int, typer.Option("--nlist", help="IVF: number of lists.")]
Nprobe: TypeAlias = Annotated[
    int, typer.Option("--nprobe", help="IVF: lists that a search looks into.")
]
IndexOptions: TypeAlias = Annotated[
    str,
    typer.Option(
        "--index-options",
        metavar="JSON",
        help='Settings that only the backend knows: \'{"factory": "IVF256,Flat"}\'.',
        show_default=False,
    ),
]


TargetRecall: TypeAlias = Annotated[
    float,
    typer.Option(
        "--target-recall",
        metavar="SHARE",
        help="Of the true ten nearest, the share that searches have to find: 0.5 to 0.9999.",
        show_default="0.99",
    ),
]


def connect(server: str) -> Client:
    """Return a client of the server that was meant."""
    from lookalike.client import Client

    return Client(_settings.address(server), **_settings.access(_access.given()))


def where_or_none(where: str) -> str | None:
    """Return None if no condition was given: a condition that is given must be read."""
    return where if where else None


def json_object(text: str, option: str) -> dict[str, Any]:
    """Read a JSON object from an option."""
    import json

    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise UsageError(f"{option} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{option} must be a JSON object: '{{...}}'")
    return value


def index_spec(
    backend: str,
    algorithm: str,
    *,
    m: int,
    ef_construction: int,
    ef_search: int,
    nlist: int,
    nprobe: int,
    options: str,
    target_recall: float,
) -> IndexSpec | None:
    """Return the kind of index that the options describe; None if they say nothing."""
    from lookalike.client import Flat, Hnsw, IndexSpec, Ivf

    chosen: Flat | Hnsw | Ivf | None
    match algorithm or ("hnsw" if m or ef_construction or ef_search else "ivf" if nlist else ""):
        case "":
            chosen = None
        case "flat":
            chosen = Flat()
        case "hnsw":
            chosen = Hnsw(m, ef_construction, ef_search)
        case "ivf":
            chosen = Ivf(nlist, nprobe)
        case other:
            raise UsageError(f"--algorithm cannot be {other!r}; flat, hnsw or ivf")
    extra = json_object(options, "--index-options")
    if not backend and chosen is None and not extra and not target_recall:
        return None
    return IndexSpec(backend, chosen, extra, target_recall)


def confirm(question: str, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal, --yes is needed."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask on; say --yes.")
    typer.confirm(question, abort=True, err=True)
