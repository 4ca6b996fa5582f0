"""How log lines look. Only `__main__` configures logging."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal


class TextFormatter(logging.Formatter):
    """`time LEVEL logger message`, one line for people; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        name = record.name.removeprefix("lookalike.")
        line = f"{_time(record)} {record.levelname} {name}: {_one_line(record.getMessage())}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `key=value` words of the message are fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = record.getMessage()
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
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send the log to stderr: ours from `level` on, others' from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("lookalike").setLevel(level.upper())
    # For each header that is not UTF-8 it writes the header, a key perhaps, and a traceback.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(text: str) -> str:
    """Keep a message on its line, whatever a caller put into it."""
    return text.replace("\r", "\\r").replace("\n", "\\n")
