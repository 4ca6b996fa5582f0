"""Someone else's index: installed as a package, found by its entry point, held to the suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STRANGER = ROOT / "tests" / "stranger"

USE = """
import numpy as np
from lookalike.backends.index import auto
from lookalike.backends.registry import indexes
from lookalike.backends.types import IndexSpec
spec = auto.choose(IndexSpec("axis", options={"share": 0.5}), 10, 4)
auto.check(spec, 4)
index = indexes.resolve("axis").build(spec, np.eye(4, dtype=np.float32))
print(*indexes.names(), index.search(np.eye(4, dtype=np.float32), 1).ids.ravel().tolist())
"""


def run(*command: str, path: Path | None = None, cwd: Path | None = None) -> str:
    rooms = [str(ROOT / "backends"), *([str(path)] if path else [])]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(rooms)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package into a folder of its own, as pip does, without the network."""
    pytest.importorskip("hatchling")
    source = tmp_path_factory.mktemp("source") / "stranger"
    source.mkdir()
    for name in ("pyproject.toml", "lookalike_stranger/__init__.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes((STRANGER / name).read_bytes())
    target = tmp_path_factory.mktemp("target")
    pip = [*("-m", "pip", "--disable-pip-version-check", "install", "--quiet")]
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    run(*pip, *flags, str(source))
    return target


def test_its_entry_point_makes_it_a_backend_like_any_other(installed: Path) -> None:
    said = run("-c", USE, path=installed)
    names = said.split("[")[0].split()
    assert {"axis", "exact"} <= set(names)
    assert said.strip().endswith("[0, 1, 2, 3]")


def test_its_author_runs_the_shipped_suite_on_it(installed: Path, tmp_path: Path) -> None:
    test = tmp_path / "test_axis.py"
    test.write_bytes((STRANGER / "test_axis.py").read_bytes())
    said = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(test)),
        path=installed,
        cwd=tmp_path,
    )
    passed = re.search(r"(\d+) passed", said)
    assert passed, said
    assert int(passed[1]) > 10
    assert not re.search(r"failed|error|skipped", said)


def test_an_override_without_a_reason_is_found_out(installed: Path, tmp_path: Path) -> None:
    test = tmp_path / "test_cheat.py"
    test.write_text(
        (STRANGER / "test_axis.py").read_text()
        + "\n    def test_no_queries_have_no_hits(self):\n        pass\n"
    )
    with pytest.raises(AssertionError, match="overridden without a reason: test_no_queries"):
        run(*("-m", "pytest", "-q", "--rootdir", str(tmp_path), str(test), "-k", "DO_NOT"),
            path=installed, cwd=tmp_path)  # fmt: skip
