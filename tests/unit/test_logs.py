"""The log says what went wrong and where, and nothing of what callers sent."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from lookalike.backends.errors import ItemNotFound
from lookalike.server.logs import JsonFormatter, TextFormatter

SECRET = "canary-5be1"


def raised() -> BaseException:
    """Return an exception with causes, the words of all of which are secret."""
    try:
        try:
            raise FileNotFoundError(2, SECRET, f"/srv/{SECRET}")
        except OSError as error:
            raise ItemNotFound(SECRET, id=SECRET) from error
    except ItemNotFound:
        try:
            raise ValueError(f"cannot embed {SECRET}")
        except ValueError as error:
            return error


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    cause = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("grpc._server", logging.ERROR, "", 0, message, args, cause)
    made.created = 1_700_000_000.5
    return made


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_of_an_exception_the_log_has_names_and_places_and_no_words(
    kind: type[TextFormatter | JsonFormatter],
) -> None:
    error = raised()
    line = kind().format(record(f"Exception calling application: {error}", error=error))
    assert SECRET not in line
    assert "Traceback" not in line
    assert "/" not in line.replace("\\n", "")
    for word in ("ValueError", "ItemNotFound ITEM_NOT_FOUND", "No such file or directory"):
        assert word in line
    assert "test_logs:" in line
    assert "raised" in line


def test_an_exception_among_the_words_is_told_by_its_name() -> None:
    line = TextFormatter().format(record("it failed: %s", ValueError(SECRET)))
    assert line.endswith("it failed: ValueError")


def test_who_configures_it_gets_the_words_and_the_traceback() -> None:
    error = raised()
    entry = json.loads(JsonFormatter(words=True).format(record("failed: %s", error, error=error)))
    assert entry["message"].endswith(SECRET)
    assert "Traceback (most recent call last)" in entry["cause"]


ENDS = {
    "a thread": "t = threading.Thread(target=fail, name='worker'); t.start(); t.join()",
    "a finalizer": "class F:\n  __del__ = lambda self: fail()\nF()",
    "a warning": "warnings.warn(SECRET)",
    "the main thread": "fail()",
}


@pytest.mark.parametrize("how", ENDS)
def test_what_python_would_print_goes_into_the_log(how: str) -> None:
    code = (
        "import threading, warnings\nfrom lookalike.server import logs\n"
        f"SECRET = {SECRET!r}\nlogs.configure('debug', 'text')\n"
        f"def fail():\n  raise ValueError(SECRET)\n{ENDS[how]}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == ""
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr
    assert ("UserWarning at" if how == "a warning" else "ValueError") in done.stderr
    assert "server.logs: " in done.stderr
