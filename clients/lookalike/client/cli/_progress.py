"""How far something is, on stderr: a bar on a terminal, else a line every 10 s."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, Any, Self

LINE_EVERY_S = 10.0


class Meter:
    """Shows counts of items. One thread only."""

    def __init__(self, total: int, *, quiet: bool, word: str) -> None:
        self._total = total
        self._word = word
        self._quiet = quiet
        self._begin = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bar, self._task = _bar(self._total, self._word)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, failed: int, *, total: int = 0, word: str = "") -> None:
        """Say that so many are done with, of which so many failed."""
        now = time.monotonic()
        self._total, self._word = total or self._total, word or self._word
        rate = done / max(now - self._begin, 1e-9)
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=done,
                total=self._total,
                description=self._word,
                rate=f"{rate:.0f}/s",
                failed=_bad(failed),
            )
        elif not self._quiet and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            left_s = max(0.0, self._total - done) / rate if rate else 0.0
            say(
                f"{self._word} {done} of {self._total}{_bad(failed)}, {rate:.0f}/s, "
                f"about {left_s:.0f} s left"
            )

    def say(self, message: str) -> None:
        """Print a line on stderr without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            say(message)


class FailureList:
    """Says what failed: in a file if one is named, else on stderr through the meter."""

    def __init__(self, path: str, meter: Meter) -> None:
        self._path = path
        self._meter = meter
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self._path:
            self._file = open(self._path, "w", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, source: str, error: Exception | None) -> None:
        """Say that `source` failed, and why."""
        reason, message = getattr(error, "reason", ""), str(error or "no reason was given")
        source, message = _printable(source), _printable(" ".join(message.split()))
        if self._file is not None:
            self._file.write(f"{source}\t{reason}\t{message}\n")
        else:
            self._meter.say(f"failed: {source}: {message} ({reason})")


def say(message: str) -> None:
    """Print a line on stderr."""
    print(message.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """Escape what would break a line, or rewrite the terminal: a file may have any name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _bad(failed: int) -> str:
    return f", {failed} failed" if failed else ""


def _bar(total: int, word: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}{task.fields[failed]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    return bar, bar.add_task(word, total=total, rate="", failed="")
