"""What the project is made of is listed as it is pinned, and none of it is known to be bad."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNOWN = json.loads((ROOT / "scripts/known-bad.json").read_text())["known_bad"]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def pinned() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_list_of_parts_has_what_is_pinned() -> None:
    sbom = json.loads((ROOT / "sbom.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    listed = {one["name"]: one["version"] for one in sbom["components"]}
    assert listed == pinned(), "run scripts/generate-sbom"
    assert all(
        one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}" for one in sbom["components"]
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sbom["metadata"]["component"]["version"] == project["version"]


def test_references_in_the_list_lead_somewhere() -> None:
    sbom = json.loads((ROOT / "sbom.cdx.json").read_text())
    refs = {one["bom-ref"] for one in sbom["components"]}
    own = sbom["metadata"]["component"]["bom-ref"]
    assert {one["ref"] for one in sbom["dependencies"]} == refs | {own}
    assert {ref for one in sbom["dependencies"] for ref in one["dependsOn"]} <= refs
    scopes = {one["name"]: one["scope"] for one in sbom["components"]}
    assert scopes["grpcio"] == scopes["pillow"] == scopes["apsw"] == "required"
    assert scopes["pytest"] == "excluded"


@pytest.mark.parametrize("file", ["constraints.txt", "sbom.cdx.json"])
def test_nothing_that_is_pinned_is_known_to_be_bad(file: str) -> None:
    done = run("audit", ROOT / file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(pinned())} packages" in done.stdout


def last_before(version: str) -> str:
    numbers = [int(part) for part in version.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return ".".join(map(str, [*numbers[:-1], numbers[-1] - 1, 999]))


def load_audit() -> Any:
    loader = SourceFileLoader("audit", str(ROOT / "scripts" / "audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("bad", KNOWN, ids=[f"{one['package']}-{one['id']}" for one in KNOWN])
def test_each_known_flaw_is_found_up_to_its_end(
    bad: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    audit = load_audit()
    file = tmp_path / "pins.txt"

    def said(version: str) -> str:
        file.write_text(f"other==1\n{bad['package']}=={version}  # a remark\n")
        return "\n".join(audit.faults(audit.versions(file), KNOWN))

    for version in (last_before(bad["below"]), bad.get("from", "0.0.1"), bad["below"] + "rc1"):
        assert bad["id"] in said(version), version
    for version in (bad["below"], bad["below"] + ".1", *bad.get("not", ())):
        assert bad["id"] not in said(version), version


def test_a_bad_version_is_a_line_and_an_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "pins.txt"
    file.write_text("Python_Multipart==0.0.20\n")
    done = run("audit", file)
    assert done.returncode == 1
    assert "python-multipart 0.0.20: CVE-2026-24486" in done.stdout


def test_an_old_list_fails_where_one_asks(tmp_path: Path) -> None:
    old = tmp_path / "list.json"
    old.write_text(json.dumps({"looked_at": "2020-01-01", "known_bad": []}))
    file = ROOT / "constraints.txt"
    assert run("audit", file, "--list", old).returncode == 0
    done = run("audit", file, "--list", old, "--max-age", 90)
    assert done.returncode == 1
    assert "look for news" in done.stdout


def test_the_package_asks_for_nothing_that_is_known_to_be_bad() -> None:
    """The floors of pyproject.toml, for what the server and the page cannot do without."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = " ".join([*project["dependencies"], *extras["server"], *extras["web"]])
    for name in ("apsw", "pillow", "grpcio", "jinja2"):
        floor = re.search(rf"\b{name}>=([\d.]+)", asked)
        assert floor, name
        worst = [one["below"] for one in KNOWN if one["package"] == name and "from" not in one]
        newest = max(worst, key=lambda text: [int(n) for n in text.split(".")])
        assert [int(n) for n in floor[1].split(".")] >= [int(n) for n in newest.split(".")][:2]
