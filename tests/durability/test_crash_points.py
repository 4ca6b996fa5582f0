"""The crash points are one list: in the source, in the table, on the page."""

from __future__ import annotations

import ast
import re
import timeit
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.backends import crashpoints

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reliability.md"
MOMENTS = ("before", "after")


def reached() -> Iterator[str]:
    """Yield the name of each call of `reach` in the product."""
    for path in [*ROOT.glob("backends/**/*.py"), *ROOT.glob("server/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id == "reach":
                [name] = node.args
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: not a literal"
                yield str(name.value)


def test_the_table_names_what_the_source_reaches() -> None:
    assert set(reached()) == set(crashpoints.NAMES)
    assert len(crashpoints.NAMES) >= 20


def test_the_page_names_what_the_table_does() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
    assert Counter(rows) == Counter(crashpoints.NAMES.items())


def test_names_say_who_what_and_when() -> None:
    for name in crashpoints.NAMES:
        assert re.fullmatch(r"[a-z]+(\.[a-z]+){1,2}", name), name


def test_nothing_happens_unless_someone_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    crashpoints.reach("store.commit.before")
    seen: list[str] = []
    crashpoints.watch(seen.append)
    crashpoints.reach("store.commit.before")
    crashpoints.watch(None)
    crashpoints.reach("store.commit.after")
    assert seen == ["store.commit.before"]


def test_a_point_costs_next_to_nothing() -> None:
    per_call = min(timeit.repeat(lambda: crashpoints.reach("x"), number=10000, repeat=5)) / 10000
    assert per_call < 2e-6


def test_only_tests_watch() -> None:
    for path in [*ROOT.glob("backends/**/*.py"), *ROOT.glob("server/**/*.py")]:
        if path.name != "crashpoints.py":
            assert "crashpoints.watch" not in path.read_text(), path
