"""`lookalike info`, `lookalike health`, `lookalike models`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.client.cli import _exit, _options
from lookalike.client.cli._output import (
    bytes_text,
    print_json,
    print_pairs,
    print_table,
    time_text,
)
from lookalike.client.cli._progress import say
from lookalike.client.cli.collections import recall_text

if TYPE_CHECKING:
    from lookalike.client import Limits, Model


def add_to(app: typer.Typer) -> None:
    app.command("models", rich_help_panel="Server")(models)
    app.command("info", rich_help_panel="Server")(info)
    app.command("health", rich_help_panel="Server")(health)


def models(server: _options.Server = "", json: _options.Json = False) -> int:
    """List the models that the server can embed with."""
    with _options.connect(server) as client:
        found = client.models()
    if json:
        for one in found:
            print_json(one)
        return _exit.DONE
    columns = ["name", "dimension", "embeds", "default", "loaded", "device", "computes"]
    rows = [
        [m.name, m.dimension, ", ".join(m.modalities), m.is_default, m.loaded, m.device, _how(m)]
        for m in found
    ]
    print_table(columns, rows)
    return _exit.DONE


def _how(model: Model) -> str:
    return " ".join(part for part in (model.precision, model.runtime, model.parity) if part)


def info(server: _options.Server = "", json: _options.Json = False) -> int:
    """Say what the server is: version, models, limits; and the recall of its searches."""
    with _options.connect(server) as client:
        found = client.info()
        collections = () if json else client.collections()
    if json:
        print_json(found)
        return _exit.DONE
    print_pairs(
        [
            ("version", found.version),
            ("ready", found.ready),
            ("up since", time_text(found.start_time)),
            ("model", found.default_model),
            ("engine", found.engine),
            ("indexes", ", ".join(found.backends)),
            ("embedded", f"{found.embedding.inputs} inputs in {found.embedding.batches} batches"),
            ("embedded before", f"{found.embedding.reused} pictures"),
            *_limit_pairs(found.limits),
            *((f"recall of {one.name}", recall_text(one)) for one in collections),
        ]
    )
    return _exit.DONE


def _limit_pairs(limits: Limits) -> Iterator[tuple[str, str | int]]:
    """Yield all limits by the names of the server's configuration; not what it does not tell."""
    for field in dataclasses.fields(limits):
        value = getattr(limits, field.name)
        if value:
            shown = bytes_text(value) if field.name.endswith("_bytes") else value
            yield f"limits.{field.name}", shown


def health(
    live: Annotated[
        bool, typer.Option("--live", help="Ask only whether it lives, not whether it is ready.")
    ] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Wait so long until it is ready.")
    ] = 0.0,
    server: _options.Server = "",
    json: _options.Json = False,
) -> int:
    """Ask whether the server is ready: 0 if it is, 4 if not, for health checks."""
    from lookalike.client import Health
    from lookalike.client._sync import SEARCH_SERVICE

    with _options.connect(server) as client:
        if wait_s:
            client.wait_ready(wait_s)
        state = client.health("" if live else SEARCH_SERVICE)
    if json:
        print_json({"status": state.value})
    else:
        print(state.value)
    if state is Health.SERVING:
        return _exit.DONE
    say("lookalike: the server answers, and is not ready yet")
    return _exit.NOT_REACHED
