"""Results on stdout: tables for people, one JSON object a line for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON object as one line; results become objects with their fields' names."""
    print(json.dumps(_plain(value), ensure_ascii=False, separators=(", ", ": ")))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table: fitted to a terminal, or whole and aligned where there is none.

    Columns of numbers are aligned right. Control characters are shown as "?", for they
    could rewrite the terminal.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    rights = [_is_numeric(cells, i) for i in range(len(columns))]
    if sys.stdout.isatty():
        _print_rich(columns, cells, rights)
        return
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    for row in [list(columns), *cells]:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, rights, strict=True)
        )
        print("  ".join(padded).rstrip())


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, one a line; those without a value are left out."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in ("", None)]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}")


def time_text(when: datetime | None) -> str:
    """Return a time as people read it, to the second, in UTC."""
    return when.strftime("%Y-%m-%d %H:%M:%S") if when is not None else ""


def bytes_text(count: float) -> str:
    """Return a number of bytes as people read it."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} {units[0]}" if units[0] == "B" else f"{count:.1f} {units[0]}"


def counted(number: int, noun: str) -> str:
    """Return "1 item", "2 items"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _print_rich(
    columns: Sequence[str], cells: Sequence[Sequence[str]], rights: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, right in zip(columns, rights, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def _is_numeric(cells: Sequence[Sequence[str]], column: int) -> bool:
    texts = [row[column] for row in cells if row[column]]
    return bool(texts) and all(t.replace(".", "", 1).lstrip("-").isdigit() for t in texts)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}"
        case datetime():
            return time_text(value)
        case dict() | list() | tuple():
            text = json.dumps(_plain(value), ensure_ascii=False) if value else ""
        case _:
            text = str(value)
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(field) for name, field in fields if field is not None}
    match value:
        case dict():
            return {str(key): _plain(field) for key, field in value.items()}
        case list() | tuple():
            return [_plain(field) for field in value]
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case Exception():
            return {"reason": getattr(value, "reason", ""), "message": str(value)}
        case _ if hasattr(value, "tolist"):
            return value.tolist()
        case _:
            return value
