"""`lookalike keys`: makes, lists and revokes API keys in their file. Needs no server."""

from __future__ import annotations

import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from lookalike.backends.errors import InvalidArgument, LookalikeError
from lookalike.server.keys import SCOPES, ApiKey, add_key, make_key, read_keys, revoke_key

_FAILED = 1
_USAGE = 2
_SPAN = re.compile(r"([1-9][0-9]{0,4})([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}

keys_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)

_File = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", help="The keys file. Otherwise access.keys_file of the settings."
    ),
]
_ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="A TOML file with settings.")
]


@keys_app.command("create")
def create(
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="read, write (reads, too) or admin (everything).")
    ] = "read",
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection",
            "-c",
            metavar="NAME",
            help="Only for this collection; may be repeated. Otherwise for all.",
        ),
    ] = None,
    expires: Annotated[
        str,
        typer.Option(
            metavar="WHEN", help="12h, 90d, 52w, or a day like 2030-12-31 (UTC). Otherwise never."
        ),
    ] = "",
    note: Annotated[str, typer.Option(help="Who it is for; lists show it.")] = "",
    keys: _File = None,
    config: _ConfigFile = None,
) -> None:
    """Make a key and print it. It is shown this once: the file has only its hash."""
    path = _path(keys, config)
    now = time.time()
    try:
        if scope not in SCOPES:
            raise InvalidArgument(f"--scope cannot be {scope!r}; {', '.join(SCOPES)}")
        text, key = make_key(
            SCOPES[scope],
            now=now,
            collections=collection or (),
            expires=read_time(expires, now) if expires else 0.0,
            note=note,
        )
        add_key(path, key)
    except LookalikeError as error:
        raise _failed(error) from None
    _say(
        f"key {key.id} may {scope}; it is in force within a second. Keep it, it is not shown again:"
    )
    typer.echo(text)


@keys_app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    keys: _File = None,
    config: _ConfigFile = None,
) -> None:
    """List the keys: id, scope, collections, times and note, never the keys themselves."""
    now = time.time()
    try:
        found = read_keys(_path(keys, config))
    except LookalikeError as error:
        raise _failed(error) from None
    rows = [_row(key, now) for key in found]
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    table = [list(_row(ApiKey("", "", SCOPES["read"]), now)), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


@keys_app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="What lookalike keys list shows.")],
    keys: _File = None,
    config: _ConfigFile = None,
) -> None:
    """Revoke a key for good. Servers refuse it within a second, also on open streams."""
    try:
        key = revoke_key(_path(keys, config), key_id, time.time())
    except LookalikeError as error:
        raise _failed(error) from None
    _say(f"key {key.id} is revoked")


def read_time(text: str, now: float) -> float:
    """Return when a key expires, in seconds since the epoch. Raises InvalidArgument."""
    if span := _SPAN.fullmatch(text):
        return now + int(span[1]) * _SECONDS[span[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(
            f"--expires cannot be {text!r}; 12h, 90d, 52w or 2030-12-31"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment.timestamp() <= now:
        raise InvalidArgument(f"--expires {text}: is over already")
    return moment.timestamp()


def _row(key: ApiKey, now: float) -> dict[str, str]:
    return {
        "id": key.id,
        "scope": key.scope.name.lower(),
        "collections": ",".join(key.collections) or "all",
        "state": key.state(now),
        "created": _shown(key.created),
        "expires": _shown(key.expires) or "never",
        "note": key.note,
    }


def _shown(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%MZ}" if moment else ""


def _path(named: Path | None, config: Path | None) -> Path:
    """Return the file that is meant: the one named, or the one of the settings."""
    if named is not None:
        return named
    from lookalike.server.config import ConfigError, Flags, load

    try:
        found = load(Flags({}), config).config.access.keys_file
    except ConfigError as error:
        _say(str(error))
        raise typer.Exit(_USAGE) from None
    if not found:
        _say("say which file with --keys FILE, or set access.keys_file")
        raise typer.Exit(_USAGE)
    return Path(found)


def _failed(error: LookalikeError) -> typer.Exit:
    _say(error.message)
    return typer.Exit(_USAGE if isinstance(error, InvalidArgument) else _FAILED)


def _say(message: str) -> None:
    print(f"lookalike: {message}", file=sys.stderr)  # noqa: T201
