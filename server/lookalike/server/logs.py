"""How log lines look, and what is kept out of them. Only `__main__` configures logging.

The words of an exception may hold what a caller sent, a path or a key; those of a
plug-in nobody knows. So the log says which exception it was and where in the code,
and not its words, unless it is configured to.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal

from lookalike.backends.errors import LookalikeError

_log = logging.getLogger(__name__)
_MOST_FRAMES = 50
_MOST_CAUSES = 5


class _Formatter(logging.Formatter):
    """What both formats share. With `words`, exceptions as Python prints them."""

    def __init__(self, *, words: bool = False) -> None:
        super().__init__()
        self._words = words

    def said(self, record: logging.LogRecord) -> str:
        """Return the message; exceptions in it by their names alone."""
        message = record.getMessage()
        if self._words:
            return message
        given = record.args if isinstance(record.args, tuple) else ()
        raised = [record.exc_info[1]] if record.exc_info else []
        for error in (*raised, *(arg for arg in given if isinstance(arg, BaseException))):
            if error is not None and str(error):
                message = message.replace(str(error), type(error).__name__)
        return message

    def formatException(self, ei: Any) -> str:
        """Return what was raised, and where."""
        return super().formatException(ei) if self._words else "\n".join(_where(ei[1]))


class TextFormatter(_Formatter):
    """`time LEVEL logger message`, one line for people; a cause follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        name = record.name.removeprefix("lookalike.")
        line = f"{_time(record)} {record.levelname} {name}: {_one_line(self.said(record))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(_Formatter):
    """One JSON object a line; `key=value` words of the message are fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = self.said(record)
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        for word in message.split():
            key, equals, value = word.partition("=")
            if equals and key.isidentifier():
                entry.setdefault(key, value)
        if record.exc_info:
            entry["cause"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str, style: Literal["text", "json"], *, words: bool = False) -> None:
    """Send the log to stderr: ours from `level` on, others' from warnings on.

    What Python itself would print there, of threads that end with an exception and of
    warnings, goes into the log, too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((JsonFormatter if style == "json" else TextFormatter)(words=words))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("lookalike").setLevel(level.upper())
    # For each header that is not UTF-8 it writes the header, a key perhaps, and a traceback.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
    threading.excepthook = _thread_ended
    sys.unraisablehook = _unraisable
    sys.excepthook = _uncaught
    warnings.showwarning = _warned


def _where(error: BaseException | None) -> Iterator[str]:
    """Yield the names of an exception and of its causes, each with the lines that raised it."""
    for _ in range(_MOST_CAUSES):
        if error is None:
            return
        kind = type(error)
        name = kind.__qualname__
        if kind.__module__ not in ("builtins", "lookalike.backends.errors"):
            name = f"{kind.__module__}.{name}"
        if isinstance(error, LookalikeError):
            name += f" {error.reason}"
        elif isinstance(error, OSError) and isinstance(error.errno, int):
            name += f" {os.strerror(error.errno)}"
        yield f"  {name}"
        yield from _frames(error.__traceback__)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    """Yield "module:line function", the innermost last."""
    lines = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        module = traceback.tb_frame.f_globals.get("__name__", "?")
        lines.append(f"    {module}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    yield from lines[-_MOST_FRAMES:]


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "?"
        _log.error("a thread ended with an exception thread=%s", name, exc_info=args.exc_value)


def _unraisable(args: Any) -> None:  # sys.UnraisableHookArgs is for type checkers only
    _log.error("an exception could not be raised", exc_info=args.exc_value)


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    _log.critical("the server ends with an exception", exc_info=error)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    _log.warning("a library warns %s at %s:%d", category.__name__, PurePath(filename).name, lineno)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    """Keep a message on its line, whatever a caller put into it."""
    return text.replace("\r", "\\r").replace("\n", "\\n")
