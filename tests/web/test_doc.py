"""Every curl line of docs/web.md is run, and every call and status in its tables exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lookalike.client import Client, NewItem
from lookalike.web.errors import STATUS
from lookalike.web.openapi import document
from made_pictures import jpeg
from web.running import Page

TEXT = (Path(__file__).parents[2] / "docs/web.md").read_text()
LINES = re.findall(r"^    (curl .*)$", TEXT, re.MULTILINE)


def test_there_are_lines_to_run() -> None:
    assert len(LINES) >= 5


def test_the_lines_run(page: Page, server: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    for name in ("cat", "1", "2"):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg(sum(name.encode())))
    with Client(server) as client:
        client.upsert([NewItem(id="cats/1.jpg", image=jpeg(700))])
        try:
            for line in LINES:
                command = line.replace("curl ", "curl -sS --fail-with-body ", 1)
                command = command.replace("localhost:8080", f"localhost:{page.port}")
                done = subprocess.run(
                    command, shell=True, cwd=tmp_path, capture_output=True, timeout=30, check=False
                )
                assert done.returncode == 0, (line, done.stdout, done.stderr)
                assert b'"failed":1' not in done.stdout
            assert (tmp_path / "thumbnail.jpg").read_bytes().startswith(b"\xff\xd8")
        finally:
            client.delete(["cats/1.jpg", "1.jpg", "2.jpg"])


def test_the_tables_are_true() -> None:
    paths = document()["paths"]
    for path in re.findall(r"`(?:GET |POST )?(/(?:v1/|healthz|readyz)[^`]*)`", TEXT):
        assert path in paths, path
    for path in paths:
        assert f"{path}`" in TEXT, path
    for code in STATUS:
        assert code in TEXT, code
        assert str(STATUS[code]) in TEXT, code
