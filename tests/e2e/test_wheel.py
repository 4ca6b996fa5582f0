"""The wheel holds all that is needed: it runs without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from pathlib import Path
import lookalike.client
from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer
site, pictures = Path(sys.argv[1]), Path(sys.argv[2])
assert Path(lookalike.client.__file__).is_relative_to(site), lookalike.client.__file__
with LocalServer(pictures.parent / "data") as server, Client(server.address) as client:
    report = client.upload(pictures)
    assert report.created == 3, report
    hit = client.search(image=pictures / "p-1.jpg", k=1)[0]
    assert (hit.id, hit.score > 0.999) == ("p-1.jpg", True), hit
print("the wheel works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=ROOT, check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    return next(out.glob("lookalike-*.whl"))


def test_the_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[1] for n in names if n.startswith("lookalike/")} == {
        "v1", "backends", "server", "client", "web",
    }  # fmt: skip
    assert {n.split("/")[0] for n in names if ".dist-info/" not in n} == {"lookalike"}
    for needed in (
        "lookalike/v1/search_service.proto",
        "lookalike/v1/search_service_pb2.pyi",
        "lookalike/backends/testing/index.py",
        "lookalike/server/store/schema/0001_items.sql",
        "lookalike/client/py.typed",
    ):
        assert needed in names


def test_the_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    from made_pictures import jpeg

    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # what pip does with a pure wheel
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        (pictures / f"p-{i}.jpg").write_bytes(jpeg(i))
    # The libraries by path, not as a site folder: its .pth would lead to the checkout.
    path = os.pathsep.join([str(site), sysconfig.get_paths()["purelib"]])
    done = subprocess.run(
        [sys._base_executable, "-c", RUN, str(site), str(pictures)],  # type: ignore[attr-defined]
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the wheel works" in done.stdout
