"""What the pages show is run: Python blocks, command lines, the examples."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.pages import DOCS, ROOT, blocks
from lookalike.client import Client
from lookalike.client.cli import run

pytestmark = pytest.mark.xdist_group("docs")
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in DOCS.glob("*.md"))]
WITH_PYTHON = [page for page in PAGES if blocks(ROOT / page, "python")]
WITH_COMMANDS = [
    page for page in PAGES if any("lookalike " in block.text for block in blocks(ROOT / page, "sh"))
]


def test_the_pages_with_code_are_found() -> None:
    assert {"docs/quickstart.md", "docs/client.md", "docs/protocol.md"} <= set(WITH_PYTHON)
    assert {"docs/quickstart.md", "docs/cli.md"} <= set(WITH_COMMANDS)


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_on_the_page_runs(page: str, reader: str) -> None:
    """All blocks of a page, in order, in one namespace."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks(ROOT / page, "python"):
        source = "\n" * (block.line - 1) + block.text.replace("localhost:50051", reader)
        exec(compile(source, page, "exec"), namespace)  # noqa: S102 - that is the test


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_on_the_page_run(page: str, reader: str) -> None:
    """Every line of an `sh` block that begins with `lookalike`; "# exits N" for N but 0."""
    with Client(reader) as client:
        client.upload("photos")
    for block in blocks(ROOT / page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            command, _, comment = line.partition("  # exits ")
            words = shlex.split(command, comments=True)
            if words and words[0] == "lookalike":
                assert run(words[1:]) == int(comment or 0), line


@pytest.mark.parametrize(
    ("example", "arguments", "said", "code"),
    [
        ("index_folder.py", ["new-photos", "from-example"], "1 new, 0 changed, 0 as they were", 1),
        ("search_by_picture.py", ["photos/one.jpg", "searched"], "1.000  one.jpg", 0),
        ("own_vectors.py", [], "kept as sent: True", 0),
        ("filters.py", [], "sneaker", 0),
        ("watch_rebuild.py", ["searched"], "4 items in faiss", 0),
    ],
)
def test_the_example_runs(
    example: str, arguments: list[str], said: str, code: int, reader: str
) -> None:
    with Client(reader) as client:
        client.create_collection("searched", exist_ok=True)
        client.upload("photos", collection="searched")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / example), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout


def test_all_examples_are_run() -> None:
    marks = test_the_example_runs.pytestmark  # type: ignore[attr-defined]
    cases = next(mark.args[1] for mark in marks if mark.name == "parametrize")
    files = {path.name for path in Path(ROOT / "examples").glob("*.py")}
    assert files == {case[0] for case in cases}


def test_the_index_on_the_page_passes_the_suite(tmp_path: Path) -> None:
    """The page's index and its test, installed beside lookalike as a stranger's package is."""
    _, index, suite = blocks(DOCS / "backends.md", "python")
    (tmp_path / "plain_index.py").write_text(index.text)
    (tmp_path / "test_plain.py").write_text(suite.text)
    entry = blocks(DOCS / "backends.md", "toml")[0].text
    about = tmp_path / "plain_index-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-index\nVersion: 1\n")
    claims = "l2 or file or row or equal"  # a third of them: the whole suite is run elsewhere
    group, line = entry.strip().splitlines()
    name = group.split('"')[1]
    (about / "entry_points.txt").write_text(f"[{name}]\n{line.replace(chr(34), '')}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", claims],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_the_embedder_on_the_page_passes_the_suite(tmp_path: Path) -> None:
    """The page's embedder under the shipped suite, patches included."""
    (tmp_path / "tiles.py").write_text(blocks(DOCS / "backends.md", "python")[0].text)
    (tmp_path / "test_tiles.py").write_text(
        "from lookalike.backends.testing.embed import EmbedderConformance\n"
        "from tiles import Tiles\n\n\n"
        "class TestTiles(EmbedderConformance):\n"
        "    embedder_cls = Tiles\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
