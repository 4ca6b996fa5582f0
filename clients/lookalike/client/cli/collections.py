"""`lookalike collections` and `lookalike rebuild`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._output import (
    bytes_text,
    counted,
    print_json,
    print_pairs,
    print_table,
    time_text,
)
from lookalike.client.cli._progress import say

if TYPE_CHECKING:
    from lookalike.client import Collection, IndexSpec

DEFAULT_TARGET_RECALL = 0.99
_SHOWN_RATES = (1e-2, 1e-3, 1e-4)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The collection.")]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="List, make, show and delete collections.")
    group.callback(invoke_without_command=True)(_root)
    group.command("list")(list_)
    group.command("create")(create)
    group.command("show")(show)
    group.command("delete")(delete)
    app.add_typer(group, name="collections", rich_help_panel="Collections")
    app.command("rebuild", rich_help_panel="Collections")(rebuild)


def _root(
    context: typer.Context, server: _options.Server = "", json: _options.Json = False
) -> int | None:
    if context.invoked_subcommand is None:
        return list_(server, json)
    if server or json:
        raise UsageError("put options behind the command: collections list --json")
    return None


def list_(server: _options.Server = "", json: _options.Json = False) -> int:
    """List the collections by name."""
    with _options.connect(server) as client:
        found = client.collections()
    if json:
        for one in found:
            print_json(one)
    elif not found:
        say("no collections yet; lookalike index PATH makes the first one")
    else:
        columns = ["name", "items", "model", "dimension", "metric", "state"]
        rows = [[c.name, c.item_count, c.model, c.dimension, c.metric, c.state] for c in found]
        print_table(columns, rows)
    return _exit.DONE


def create(
    name: Name,
    description: Annotated[str, typer.Option(help="A remark.", show_default=False)] = "",
    model: Annotated[
        str, typer.Option(help="The model; none = vectors are brought along.", show_default=False)
    ] = "",
    metric: Annotated[str, typer.Option(help="cosine, dot or l2.")] = "cosine",
    keep: Annotated[
        str, typer.Option("--keep", help="Pictures to keep: none, thumbnail or original.")
    ] = "thumbnail",
    dimension: Annotated[
        int, typer.Option(help="Numbers of a vector; only with --model none.", show_default=False)
    ] = 0,
    indexed_field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="A metadata field to filter by fast; may be given 16 times.",
            show_default=False,
        ),
    ] = None,
    index: _options.Backend = "",
    algorithm: _options.Algorithm = "",
    m: _options.M = 0,
    ef_construction: _options.EfConstruction = 0,
    ef_search: _options.EfSearch = 0,
    nlist: _options.Nlist = 0,
    nprobe: _options.Nprobe = 0,
    index_options: _options.IndexOptions = "",
    target_recall: _options.TargetRecall = 0.0,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Do not fail if it is there just so.")
    ] = False,
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Make an empty collection."""
    spec = _options.index_spec(
        index,
        algorithm,
        m=m,
        ef_construction=ef_construction,
        ef_search=ef_search,
        nlist=nlist,
        nprobe=nprobe,
        options=index_options,
        target_recall=target_recall,
    )
    with _options.connect(server) as client:
        made = client.create_collection(
            name,
            description=description,
            model=model,
            metric=metric,
            index=spec,
            dimension=dimension,
            image_retention=keep,
            indexed_fields=indexed_field or [],
            exist_ok=exist_ok,
        )
    if json:
        print_json(made)
    else:
        say(f"{made.name} is there, with the model {made.model} and {made.metric}")
    return _exit.DONE


def show(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The collection.")] = "",
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Describe a collection and its index."""
    with _options.connect(server) as client:
        found = client.collection(name)
    if json:
        print_json(found)
    else:
        print_pairs(_pairs(found))
    return _exit.DONE


def _pairs(one: Collection) -> list[tuple[str, Any]]:
    status = one.index_status
    segments = [
        f"{s.live_count} of {s.count} in {s.backend} {s.settings or ''}".rstrip()
        for s in status.segments
    ]
    return [
        ("name", one.name),
        ("description", one.description),
        ("state", one.state),
        ("items", one.item_count),
        (
            "damaged",
            f"{one.damaged_item_count}; lookalike verify names them"
            if one.damaged_item_count
            else "",
        ),
        ("model", one.model),
        ("dimension", one.dimension),
        ("metric", one.metric),
        ("keeps", one.image_retention),
        ("index", _index_text(one.index)),
        ("indexed", f"{status.indexed_count} (the others are compared one by one)"),
        *(("segment", segment) for segment in segments),
        ("recall", recall_text(one)),
        ("building", status.building or None),
        ("memory", bytes_text(status.memory_bytes) if status.memory_bytes else ""),
        ("fields", ", ".join(one.indexed_fields)),
        *(("by chance", line) for line in _calibration_lines(one)),
        ("made", time_text(one.create_time)),
        ("fingerprint", one.model_fingerprint),
    ]


def recall_text(one: Collection) -> str:
    """Say what the server knows of the recall of its searches; empty if it is exact."""
    found, target = one.index_status.recall, one.index.target_recall or DEFAULT_TARGET_RECALL
    if found is None:
        return f"not measured yet, target {target:g}" if _is_approximate(one) else ""
    when = time_text(found.measure_time)
    return f"{found.recall:.4f} ({found.low:.4f} to {found.high:.4f}), target {target:g}, {when}"


def _is_approximate(one: Collection) -> bool:
    return any(s.backend != "exact" for s in one.index_status.segments)


def _calibration_lines(one: Collection) -> list[str]:
    """Say what unrelated items score, at the rates that people think in."""
    from lookalike.client.meaning import chance_of

    known = one.calibration
    if known is None:
        return []
    return [
        f"{chance_of(rate)} unrelated pairs scores {score:.3f} or more"
        for rate, score in zip(known.false_match_rates, known.scores, strict=False)
        if any(math.isclose(rate, wanted, rel_tol=1e-3) for wanted in _SHOWN_RATES)
    ]


def _index_text(spec: IndexSpec) -> str:
    algorithm = type(spec.algorithm).__name__.lower() if spec.algorithm is not None else ""
    return " ".join(part for part in (spec.backend or "auto", algorithm) if part)


def delete(
    name: Name,
    yes: _options.Yes = False,
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="Do not fail if there is none.")
    ] = False,
    server: _options.Server = "",
) -> int:
    """Delete a collection with all its items."""
    _options.confirm(f"Delete the collection {name!r} with all its items?", yes)
    with _options.connect(server) as client:
        count = client.delete_collection(name, missing_ok=missing_ok)
    say(f"{name} is gone, and {counted(count, 'item')} with it")
    return _exit.DONE


def rebuild(
    collection: Annotated[str, typer.Argument(metavar="[COLLECTION]", help="The collection.")] = "",
    index: _options.Backend = "",
    algorithm: _options.Algorithm = "",
    m: _options.M = 0,
    ef_construction: _options.EfConstruction = 0,
    ef_search: _options.EfSearch = 0,
    nlist: _options.Nlist = 0,
    nprobe: _options.Nprobe = 0,
    index_options: _options.IndexOptions = "",
    target_recall: _options.TargetRecall = 0.0,
    reembed: Annotated[
        bool, typer.Option("--reembed", help="Embed all pictures anew; needs kept originals.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is done.")] = True,
    quiet: _options.Quiet = False,
    json: _options.Json = False,
    server: _options.Server = "",
) -> int:
    """Build an index anew, if wanted of another kind; the old one answers meanwhile."""
    from lookalike.client.cli.jobs import follow

    spec = _options.index_spec(
        index,
        algorithm,
        m=m,
        ef_construction=ef_construction,
        ef_search=ef_search,
        nlist=nlist,
        nprobe=nprobe,
        options=index_options,
        target_recall=target_recall,
    )
    with _options.connect(server) as client:
        job = client.rebuild_index(collection, index=spec, reembed=reembed)
        if wait:
            return follow(client, job.id, quiet=quiet, json=json)
    if json:
        print_json(job)
    else:
        say(f"it is under way; watch it with: lookalike jobs watch {job.id}")
    return _exit.DONE
