"""`lookalike web` and `lookalike serve --web`: processes that start, say so, and end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lookalike.client.cli.web import PageOptions, take_web_options
from lookalike.client.local_server import READY_LINE
from web.running import READY, Page

LOOKALIKE = [sys.executable, "-m", "lookalike.client.cli"]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        data: bytes = answer.read()
        return data


def test_the_page_is_light_and_names_no_other_place(page: Page) -> None:
    html = get(page.url).decode()
    sources = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
    assert {"/static/app.js", "/static/page.css"} <= set(sources)
    total = len(html.encode())
    for source in set(sources):
        text = get(page.url.rstrip("/") + source).decode()
        total += len(text.encode())
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), source
    assert total < 150_000
    assert "http://" not in html
    assert "style=" not in html
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"\son\w+=", html)


def test_the_command_becomes_the_page(server: str) -> None:
    command = [*LOOKALIKE, "web", "--server", server, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = READY.match(process.stdout.readline())
        assert ready is not None
        assert json.loads(get(ready[1] + "readyz")) == {"status": "ready"}
        process.terminate()
        assert process.wait(15) in (0, -signal.SIGTERM)


def test_an_address_that_is_taken_is_told_in_a_line(page: Page, server: str) -> None:
    command = [*LOOKALIKE, "web", "--server", server, "--listen", f"127.0.0.1:{page.port}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "--listen" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_page_that_lives_while_stdin_does_ends_with_it(server: str) -> None:
    with Page(server, "--while-stdin") as page:
        assert page.process.stdin is not None
        page.process.stdin.close()
        assert page.process.wait(15) == 0


class Pair:
    """`lookalike serve --web` on free ports."""

    def __init__(self, data: Path) -> None:
        options = ["--web", "--web-listen=127.0.0.1:0", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*LOOKALIKE, "serve", *options, "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        server = READY_LINE.match(self.process.stdout.readline())
        page = READY.match(self.process.stdout.readline())
        assert server is not None
        assert page is not None
        self.address, self.url = server["address"], page[1]

    def end(self) -> str:
        _, said = self.process.communicate(timeout=45)
        return said


def is_there(url: str) -> bool:
    try:
        get(url + "healthz")
    except OSError:
        return False
    return True


def await_gone(url: str) -> bool:
    deadline = time.monotonic() + 15
    while is_there(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_there(url)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_and_page_start_and_stop_together(tmp_path: Path, number: signal.Signals) -> None:
    pair = Pair(tmp_path / "data")
    try:
        assert json.loads(get(pair.url + "readyz")) == {"status": "ready"}
        pair.process.send_signal(number)
        said = pair.end()
    finally:
        pair.process.kill()
    assert pair.process.returncode == 0, said
    assert "Traceback" not in said
    assert not is_there(pair.url)


def test_a_page_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "data")
    children = Path(f"/proc/{pair.process.pid}/task/{pair.process.pid}/children").read_text()
    pair.process.kill()
    try:
        assert await_gone(pair.url)
    finally:
        for child in map(int, children.split()):  # the server goes on: who killed, cleans up
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        pair.end()


def test_options_of_the_page_are_taken_and_the_rest_left() -> None:
    rest = ["serve", "--data", "d", "--listen", "a:1"]
    assert take_web_options(rest) == (rest, None)
    given = [*rest, "--web-listen", "b:2", "--web-name=x", "--web-name", "y"]
    options = ["--listen", "b:2", "--name", "x", "--name", "y"]
    assert take_web_options(given) == (rest, PageOptions("", options, False))
    assert take_web_options([*rest, "--web"]) == (rest, PageOptions("", [], False))
    given = [
        *rest,
        "--web-ca",
        "f",
        "--insecure",
        "--web-server=grpcs://h:1",
        "--web-api-key-file=k",
    ]
    page = PageOptions("grpcs://h:1", ["--api-key-file", "k", "--ca", "f"], True)
    assert take_web_options(given) == ([*rest, "--insecure"], page)
