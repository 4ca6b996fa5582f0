"""A server with libraries that are too old does not start, and says what to install."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lookalike.backends.errors import FailedPrecondition
from lookalike.server.rpc import floors

ROOT = Path(__file__).resolve().parents[2]


def older(text: str) -> str:
    """Return the version just before one."""
    numbers = [int(part) for part in text.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return ".".join(map(str, [*numbers[:-1], numbers[-1] - 1, 999]))


def test_what_is_installed_here_will_do() -> None:
    floors.check()


@pytest.mark.parametrize("name", floors.FLOORS)
def test_an_older_library_is_refused_and_the_floor_is_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = floors.FLOORS[name].oldest
    real = floors.installed
    claimed: dict[str, str] = {}

    def found(asked: str) -> str | None:
        return claimed.get(asked) or real(asked)

    monkeypatch.setattr(floors, "installed", found)
    for claimed[name] in (older(floor), "0.1", older(floor) + "rc1"):
        with pytest.raises(FailedPrecondition, match=f"Install {name} {re.escape(floor)} or"):
            floors.check()
    for claimed[name] in (floor, floor + ".0.1", "99"):
        floors.check()


def test_floors_are_not_above_what_the_package_asks_for_without_reason() -> None:
    """Whoever installs the package as it says gets a server that starts."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = " ".join([*project["dependencies"], *project["optional-dependencies"]["server"]])
    for name, floor in floors.FLOORS.items():
        asked = re.search(rf"\b{name}>=([\d.]+)", wanted)
        assert asked, name
        if name != "protobuf":
            assert floors._numbers(asked[1]) >= floors._numbers(floor.oldest), name


def test_a_server_on_protobuf_without_its_compiled_part_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lookalike.server", "serve", "--data", str(tmp_path / "d")]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"],
        env={**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "upb" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "d").exists()
