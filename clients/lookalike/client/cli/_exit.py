"""Exit codes, and the way from an error to one of them and to a line on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from lookalike.client.cli import _settings
from lookalike.client.errors import (
    CollectionNotFound,
    FileUnreadable,
    FilterInvalid,
    KeyExpired,
    KeyInvalid,
    KeyMissing,
    LookalikeError,
    NotFound,
    ServerUnavailable,
)

DONE, FAILED, USAGE, SOME_FAILED, NOT_REACHED, NOT_FOUND, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class UsageError(Exception):
    """What was asked for cannot be meant; the message says what could be."""


def code_of(error: LookalikeError) -> int:
    """Return the exit code of an error."""
    match error:
        case ServerUnavailable():
            return NOT_REACHED
        case NotFound():
            return NOT_FOUND
        case FilterInvalid():
            return USAGE
        case _:
            return FAILED


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command; every error becomes a line or two on stderr and an exit code."""
    try:
        return command() or DONE
    except LookalikeError as error:
        return _say(_with_cure(error), code_of(error))
    except UsageError as error:
        return _say(str(error), USAGE)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Who read our output has gone; Python would complain once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _say(what, FAILED)
    except Exception as error:
        if type(error).__name__ == "Abort":  # of typer: a question that was not answered
            return _say("stopped, nothing was changed", FAILED)
        if callable(getattr(error, "format_message", None)):
            return _usage(error)
        return _defect(error)


def _usage(error: Exception) -> int:
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "lookalike")
    return _say(f"{message}\nsee: {path} --help", getattr(error, "exit_code", USAGE))


def _defect(error: Exception) -> int:
    if _settings.wants_traceback():
        raise error
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return _say(
        f"a defect of lookalike itself ({what}); LOOKALIKE_TRACEBACK=1 shows where, "
        "which is worth a report",
        FAILED,
    )


def _with_cure(error: LookalikeError) -> str:
    if isinstance(error, FileUnreadable) and error.field == "picture":
        return (
            f"{error.message}\nto search with words: lookalike search --text ..., "
            "or text:... among several"
        )
    if isinstance(error, CollectionNotFound):
        return f"{error.message}\nto make one: lookalike collections create NAME"
    if isinstance(error, KeyMissing | KeyInvalid | KeyExpired):
        return f"{error.message}\nto make one, where the server runs: lookalike keys create"
    return error.message


def _say(message: str, code: int) -> int:
    print(f"lookalike: {message}", file=sys.stderr)
    return code
