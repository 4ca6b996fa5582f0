"""A real browser for tests: Debian's chromium, driven by Playwright, offline but for us."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WAIT_MS = 20_000
_DROP = """
async ([selector, files]) => {
  const data = new DataTransfer();
  for (const [name, kind, text] of files) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    data.items.add(new File([bytes], name, {type: kind}));
  }
  const target = document.querySelector(selector);
  for (const type of ["dragenter", "dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}
"""
_PASTE = """
([name, kind, text]) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  data.items.add(new File([bytes], name, {type: kind}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}
"""


def find_chromium() -> str:
    """Return the browser, or skip the test with a sentence."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("needs a browser: apt install chromium")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Run the browser; skips the test where it or Playwright is missing."""
    pytest.importorskip("playwright", reason="needs pip install playwright")
    executable = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(ARGS))
        yield running
        running.close()


class Visit:
    """One visitor: a tab, and what it asked for and complained about."""

    def __init__(self, running: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context: BrowserContext = running.new_context(**options)
        self.tab: Page = self.context.new_page()
        self.tab.set_default_timeout(WAIT_MS)
        self.requested: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requested.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )

    def open(self, link: str = "") -> Page:
        """Go to the page and wait until the collection is shown."""
        self.tab.goto(self.url + link)
        self.until("document.querySelector('#status').dataset.state")
        return self.tab

    def until(self, expression: str) -> None:
        """Wait until it holds; Playwright's own way is refused by the page's policy."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.tab.evaluate(expression):
            assert time.monotonic() < deadline, f"never came true: {expression}"
            time.sleep(0.02)

    def drop(self, *files: Path, on: str = "body") -> None:
        """Drop files as a hand does it."""
        self.tab.evaluate(_DROP, [on, [_packed(file) for file in files]])

    def paste(self, file: Path) -> None:
        """Paste a picture."""
        self.tab.evaluate(_PASTE, _packed(file))

    def hits(self) -> list[str]:
        """The ids of the shown hits, once there are any that belong to a search."""
        self.until(
            "document.querySelector('.card .score') && !document.querySelector('.grid.stale')"
            " && !document.querySelector('.busy.on')"
        )
        ids: list[str] = self.tab.eval_on_selector_all(
            ".card", "cards => cards.map(card => card.dataset.id)"
        )
        return ids

    def close(self) -> None:
        """Close the tab; no test may end with an error on the console or a foreign request."""
        self.context.close()
        assert not self.complaints, self.complaints
        foreign = [
            url for url in self.requested if not url.startswith((self.url, "blob:" + self.url))
        ]
        assert not foreign, foreign


def _packed(file: Path) -> list[str]:
    kind = "image/png" if file.suffix == ".png" else "image/jpeg"
    return [file.name, kind, base64.b64encode(file.read_bytes()).decode()]


def axe_source() -> str:
    """Return axe-core's script from a folder outside of the project, or skip the test."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike-tests"
    script = cache / "node_modules/axe-core/axe.min.js"
    if not script.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("needs axe-core, which npm can fetch: apt install npm")
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "axe-core@4"]
        done = subprocess.run(command, cwd=cache, capture_output=True, timeout=60, check=False)
        if done.returncode or not script.is_file():
            pytest.skip("needs axe-core, which could not be fetched")
    return script.read_text()
