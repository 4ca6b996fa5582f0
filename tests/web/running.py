"""The page's own process, for as long as a `with`."""

from __future__ import annotations

import re
import subprocess
import sys
from types import TracebackType
from typing import Self

READY = re.compile(r"^lookalike page ready on (http://\S+/)")


class Page:
    """`python -m lookalike.web` on a free port; `url` ends with a slash."""

    def __init__(self, server: str, *args: str) -> None:
        self._command = [sys.executable, "-m", "lookalike.web", "--server", server]
        self._command += ["--listen", "127.0.0.1:0", *args]
        self.url = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        ready = READY.match(self.process.stdout.readline())
        assert ready is not None, "the page ended before it was ready"
        self.url = ready[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.terminate()
        assert self.process.wait(15) in (0, -15)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rsplit(":", 1)[1])
