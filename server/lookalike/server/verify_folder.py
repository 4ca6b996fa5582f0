"""`verify --data DIR`: a data folder that no server uses is opened and checked."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Final

from lookalike.backends.errors import DataLoss, FailedPrecondition, LookalikeError
from lookalike.server.config import Config
from lookalike.server.library import Library
from lookalike.server.models import Models
from lookalike.server.store import Store
from lookalike.server.verifying import Event, Finding, Progress, Severity, Summary, Verifier

WELL, FOUND = 0, 1
_CHECK: Final = "database"


def verify_folder(config: Config, collection: str, probe_count: int) -> Iterator[Event]:
    """Open a data folder as a server would, and check it; the last event is a summary.

    What is derived is built anew where it is of no use. A store that cannot be opened is
    a finding. Raises FailedPrecondition (no data there, a server uses it).
    """
    path = config.data.path
    if not any((path / name).exists() for name in ("store.db", "mark")):
        raise FailedPrecondition(
            "There is no data folder of lookalike there; name another with --data."
        )
    with ExitStack() as closing:
        try:
            store = Store.open(path)
        except DataLoss as error:
            yield Finding(Severity.LOST, _CHECK, "", "", error.message)
            yield Summary(0, 0, 0, 0, 0, 1)
            return
        closing.callback(store.close)
        models = Models(config.model_configs(), config.default_model(), max_waiting=1)
        closing.callback(models.close)
        library = Library(
            store,
            models,
            data=path,
            default_index=config.index.spec(),
            engine=config.engine.name,
            engine_options=config.engine.options,
            limits=config.limits,
        )
        try:
            library.start()
        except DataLoss as error:  # of a collection's own row
            yield Finding(Severity.LOST, _CHECK, "", "", error.message)
            yield Summary(store.seq(), 0, 0, 0, 0, 1)
            return
        closing.callback(library.close)
        library.wait_ready()
        yield from Verifier(library, store, alone=True).verify(collection, probe_count)


def report(config: Config, collection: str, probe_count: int, *, as_json: bool, quiet: bool) -> int:
    """Check a folder and print what is found; return the exit code, 0 if all is well."""
    logging.basicConfig(level=logging.CRITICAL)  # what the log would say is a finding
    code = WELL
    for event in verify_folder(config, collection, probe_count):
        if isinstance(event, Finding):
            code = FOUND
        if as_json and not isinstance(event, Progress):
            _print(json.dumps({_name(event): _plain(event)}, ensure_ascii=False))
        elif isinstance(event, Finding):
            _print(_finding(event))
        if isinstance(event, Summary) and not quiet:
            _say(_sentence(event))
        elif isinstance(event, Progress) and not quiet and sys.stderr.isatty():
            _say(_progress(event))
    return code


def explain(error: LookalikeError) -> str:
    """Return what to tell of a folder that cannot be checked."""
    if "another server" in error.message:
        return (
            "a server is using this data folder; ask it: lookalike verify --server HOST:PORT, "
            "or stop it"
        )
    return error.message


def _print(text: str) -> None:
    print(text.encode("utf-8", "backslashreplace").decode(), flush=True)  # noqa: T201


def _say(text: str) -> None:
    print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)  # noqa: T201


def _name(event: Event) -> str:
    return type(event).__name__.lower()


def _plain(event: Event) -> dict[str, object]:
    fields = asdict(event)
    if isinstance(event, Finding):
        fields["severity"] = event.severity.name.lower()
    return fields


def _progress(event: Progress) -> str:
    where = f"{event.collection}: " if event.collection else ""
    of = f" {event.done} of {event.total}" if event.total else ""
    return f"{where}{event.phase}{of}"


def _finding(event: Finding) -> str:
    place = " ".join(repr(part) for part in (event.collection, event.item_id) if part)
    return f"{event.severity.name.lower()}: {event.check} {place}".rstrip() + f": {event.message}"


def _sentence(event: Summary) -> str:
    found = _counted(event.findings, "finding") if event.findings else "all is well"
    return (
        f"{found}: {_counted(event.items, 'item')} in "
        f"{_counted(event.collections, 'collection')}, {event.reached} of {event.probed} searched "
        f"for found themselves, at change {event.seq}"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
