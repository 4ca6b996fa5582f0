"""`lookalike eval index`: how much of the truth searches find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._exit import UsageError
from lookalike.client.cli._output import counted, print_json, print_pairs, print_table
from lookalike.client.cli._progress import say

if TYPE_CHECKING:
    from lookalike.client import RecallReport, SearchTimes

_COLUMNS = (
    "searched with",
    "recall",
    "95 %",
    "find themselves",
    "ms",
    "p99 ms",
    "exact ms",
    "queries",
)
_KNOBS = {"ef": "ef_search", "ef_search": "ef_search", "nprobe": "nprobe"}


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="Measure how good searches are.")
    group.callback()(_root)
    group.command("index")(index)
    app.add_typer(group, name="eval", rich_help_panel="Collections")


def _root() -> None:
    """Measure how good searches are."""


def index(
    collection: Annotated[str, typer.Argument(metavar="[COLLECTION]", help="The collection.")] = "",
    queries: Annotated[
        int, typer.Option("--queries", "-n", help="So many queries, at most 10,000.")
    ] = 256,
    k: Annotated[int, typer.Option("-k", help="Hits of each query to look at.")] = 10,
    source: Annotated[
        str,
        typer.Option(
            metavar="both|stored|recent",
            help="Vectors of stored items, vectors searched for lately, or half of each.",
        ),
    ] = "both",
    ef_search: _options.EfSearch = 0,
    nprobe: _options.Nprobe = 0,
    sweep: Annotated[
        str,
        typer.Option(
            metavar="ef=N,N,...|nprobe=N,N,...",
            help="Try out several values, with the same stored items.",
            show_default=False,
        ),
    ] = "",
    at_least: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Exit code 1 if the recall is less; with --sweep, if all of them are.",
            show_default=False,
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="What the stored items are drawn by.")] = 0,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="For each measurement.")
    ] = 600.0,
    json: _options.Json = False,
    server: _options.Server = "",
) -> int:
    """Measure how much of the truth searches find, by comparing with every item.

    Of a sample of queries: the share of the true nearest that is found (recall) with its
    95 % confidence interval, the share of items that find themselves, and the time a search
    takes inside the server, by the index and comparing with all.
    """
    reports: list[RecallReport] = []
    with _options.connect(server) as client:
        for knobs in _knobs(sweep, ef_search, nprobe):
            one = client.measure_recall(
                collection,
                query_count=queries,
                k=k,
                queries=source,  # type: ignore[arg-type]  # checked where it is read
                seed=seed,
                timeout_s=timeout_s,
                **knobs,
            )
            reports.append(one)
            if json:
                print_json(one)
    if not json:
        _show(reports)
    return _exit.FAILED if at_least and _best(reports) < at_least else _exit.DONE


def _knobs(sweep: str, ef_search: int, nprobe: int) -> list[dict[str, int]]:
    """Return what to search with, one measurement each."""
    base = {"ef_search": ef_search, "nprobe": nprobe}
    if not sweep:
        return [base]
    name, _, values = sweep.partition("=")
    try:
        return [{**base, _KNOBS[name]: int(value)} for value in values.split(",")]
    except (KeyError, ValueError):
        raise UsageError(f"--sweep cannot be {sweep!r}; ef=16,32,64 or nprobe=4,8,16") from None


def _best(reports: Sequence[RecallReport]) -> float:
    return max(one.estimate.recall if one.estimate is not None else 0.0 for one in reports)


def _show(reports: Sequence[RecallReport]) -> None:
    last = reports[-1]
    if all(one.estimate is None for one in reports):
        say(
            "there is nothing to measure: no query to ask, or no item to find "
            f"({counted(last.item_count, 'item')})"
        )
        return
    print_table(_COLUMNS, [_row(one) for one in reports])
    print_pairs(
        [
            ("target", f"{last.target_recall:g}"),
            ("items", last.item_count),
            *(
                (
                    "segment",
                    f"{s.live_count} of {s.count} in {s.backend} {s.settings or ''}".rstrip(),
                )
                for s in last.segments
            ),
        ]
    )


def _row(one: RecallReport) -> list[Any]:
    recall, itself = one.estimate, one.self_match
    knobs = {"ef_search": one.ef_search, "nprobe": one.nprobe}
    asked = " ".join(f"{name}={value}" for name, value in knobs.items() if value)
    return [
        f"{asked or 'as by itself'}{', exactly' if one.exact else ''}",
        f"{recall.recall:.4f}" if recall else "",
        f"{recall.low:.4f} to {recall.high:.4f}" if recall else "",
        f"{itself.rate:.4f}" if itself else "",
        _mean(one.index_times),
        f"{one.index_times.p99_ms:.3f}" if one.index_times else "",
        _mean(one.exact_times),
        f"{one.stored_query_count} stored, {one.recent_query_count} recent",
    ]


def _mean(times: SearchTimes | None) -> str:
    return f"{times.mean_ms:.3f}" if times else ""
