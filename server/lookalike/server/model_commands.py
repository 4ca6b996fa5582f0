"""`lookalike model`: compares a model with the trusted way of computing. Needs no server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lookalike.backends.embed.base import CheckedEmbedder, Verdict
    from lookalike.server.config import Config

_PASSED, _FAILED, _USAGE = 0, 1, 2
_DRAWN = 64

model_app = typer.Typer(help="Look at the models.", no_args_is_help=True)


@model_app.callback()
def _group() -> None:
    """Look at the models."""


@model_app.command("verify")
def verify(
    photos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Your own photographs; some hundreds say most."),
    ] = None,
    name: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A model of the settings.")
    ] = "",
    count: Annotated[int, typer.Option(min=32, help="Photographs at most.")] = 500,
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="The server's data folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with settings.")
    ] = None,
) -> None:
    """Compare runtime and precision with transformers in fp32: 0 if they pass, 1 if not.

    What is found is kept, and the server goes by it when it starts.
    """
    from lookalike.backends.errors import LookalikeError
    from lookalike.server.config import ConfigError, Flags, load

    try:
        loaded = load(Flags({("data", "path"): data}), config)
        code = _verify(loaded.config, name, photos, count, as_json)
    except ConfigError as error:
        _say(str(error))
        code = _USAGE
    except LookalikeError as error:
        _say(error.message)
        code = _FAILED
    sys.stdout.flush()
    raise typer.Exit(code)


def _verify(config: Config, name: str, photos: Path | None, count: int, as_json: bool) -> int:
    from lookalike.backends import registry
    from lookalike.backends.embed.base import CheckedEmbedder
    from lookalike.backends.embed.drawn import drawn
    from lookalike.server.model_pictures import picture_files, pictures

    name = name or config.default_model()
    chosen = config.model_configs().get(name)
    if chosen is None:
        _say(f"there is no model {name!r}; lookalike config show lists them")
        return _USAGE
    files = []
    if photos is not None and not (files := picture_files(photos, count)):
        _say(f"{photos}: no pictures there")
        return _USAGE
    kind = registry.embedders.resolve(chosen.embedder)
    if not issubclass(kind, CheckedEmbedder):
        _say(f"the model {name!r} computes in one way only; there is nothing to compare")
        return _USAGE
    options = replace(chosen.options, extra={**chosen.options.extra, "force_precision": True})
    embedder = kind.open(options)
    try:
        if not files and embedder.numerics["precision"] == "int8":
            _say("int8 is compared on your own pictures only: say --photos DIR")
            return _USAGE
        given = pictures(files, embedder.decode_side) if files else drawn(_DRAWN)
        verdict = embedder.verify(given)
        _report(name, embedder, verdict, own=bool(files), as_json=as_json)
    finally:
        embedder.close()
    return _FAILED if verdict.faults else _PASSED


def _report(
    name: str, embedder: CheckedEmbedder, verdict: Verdict, *, own: bool, as_json: bool
) -> None:
    found = verdict.comparison.as_record()
    if as_json:
        facts: Mapping[str, Any] = {
            "model": name,
            "runtime": embedder.numerics["runtime"],
            "precision": embedder.numerics["precision"],
            "own_pictures": own,
            **found,
            "passed": not verdict.faults,
            "faults": list(verdict.faults),
        }
        print(json.dumps(facts))  # noqa: T201
        return
    numerics = f"{embedder.numerics['precision']} in {embedder.numerics['runtime']}"
    lines = [f"{name}: {numerics}, compared with transformers in fp32"]
    lines.append(f"  {'pictures':<34}{found['pictures']}{'' if own else ' (drawn)'}")
    rows = {
        "cosine, lowest": "raw_min",
        "cosine, mean": "raw_mean",
        "centred cosine, lowest": "centred_min",
        "centred cosine, mean": "centred_mean",
        "same 10 nearest": "overlap",
        "alone to in a batch, lowest": "batch_min",
        "texts, lowest cosine": "text_min",
    }
    lines += [f"  {what:<34}{found[key]:.6f}" for what, key in rows.items()]
    lines += [f"  below its bar: {fault}" for fault in verdict.faults]
    lines.append("refused" if verdict.faults else "passed")
    print("\n".join(lines))  # noqa: T201


def _say(message: str) -> None:
    print(f"lookalike-server: {message}", file=sys.stderr)  # noqa: T201
