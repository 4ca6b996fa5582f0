"""Files indexed with their paths, against a real server: filtered, counted and grouped by them."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lookalike.client import Client
from lookalike.client.cli import run
from lookalike.client.local_server import LocalServer
from made_pictures import jpeg

LONG = "n" * 240
"""A file system takes names of 255 bytes."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with LocalServer(tmp_path_factory.mktemp("folders") / "data") as server:
        yield server.address


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("photos")
    names = ["top.jpg", "shoes/1.jpg", "shoes/2.jpg", "shoes/red/3.jpg", "boots/4.jpg"]
    for i, name in enumerate([*names, f"long/{LONG}.jpg"]):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(jpeg(i))
    return top


def cli(address: str, *args: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, {"LOOKALIKE_ADDRESS": address}):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(arg) for arg in args])
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def lines(address: str, *args: str | Path) -> list[dict[str, Any]]:
    code, out, err = cli(address, *args, "--json")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_folders_are_filtered_counted_and_grouped_by(address: str, photos: Path) -> None:
    collection = ("-c", "all")
    cli(address, "collections", "create", "all")
    [done] = lines(address, "index", photos, "--attach-path", *collection)
    assert (done["created"], done["failed"]) == (6, 0)
    [again] = lines(address, "index", photos, "--attach-path", *collection)
    assert again["unchanged"] == 6

    def found(where: str) -> set[str]:
        query = photos / "top.jpg"
        return {
            hit["id"]
            for hit in lines(address, "search", query, "-k", "9", "--where", where, *collection)
        }

    assert found('folder = "shoes"') == {"shoes/1.jpg", "shoes/2.jpg"}
    below = {"shoes/1.jpg", "shoes/2.jpg", "shoes/red/3.jpg"}
    assert found('folder = "shoes" or folder starts with "shoes/"') == below
    assert found('folder = "."') == {"top.jpg"}
    assert found('name in ("3.jpg", "4.jpg")') == {"shoes/red/3.jpg", "boots/4.jpg"}
    assert found(f'name = "{LONG}.jpg"') == {f"long/{LONG}.jpg"}

    facets = cli(address, "facets", "folder", "--json", *collection)[1]
    assert '"shoes"' in facets
    assert '"boots"' in facets
    hits = lines(
        address, "search", photos / "top.jpg", "-k", "9", "--group-by", "folder", *collection
    )
    assert len(hits) == 5


def test_paths_are_attached_to_what_is_there_already(address: str, photos: Path) -> None:
    collection = ("-c", "later")
    cli(address, "collections", "create", "later")
    [done] = lines(address, "index", photos, *collection)
    assert done["created"] == 6
    [done] = lines(address, "index", photos, "--attach-path", *collection)
    assert (done["updated"], done["failed"]) == (6, 0)
    with Client(address) as client:
        assert client.count(collection="later") == 6
        assert client.get("boots/4.jpg", collection="later").metadata == {
            "name": "4.jpg",
            "folder": "boots",
        }


def test_a_folder_may_be_named_by_dots_links_and_bytes(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "1.jpg").write_bytes(jpeg(20))
    (tmp_path / "link").symlink_to("real")
    with contextlib.suppress(OSError):  # a file system may take UTF-8 names only
        (tmp_path / "real" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg(21))
    monkeypatch.chdir(tmp_path / "real" / "deep")
    for i, root in enumerate(["..", "../../link", str(tmp_path / "link"), "../deep/.."]):
        collection = f"dots-{i}"
        cli(address, "collections", "create", collection)
        [done] = lines(address, "index", root, "--attach-path", "-c", collection)
        assert done["failed"] == 0
        with Client(address) as client:
            item = client.get("deep/1.jpg", collection=collection)
            assert item.metadata == {"name": "1.jpg", "folder": "deep"}
            for item in client.list(collection=collection):
                assert item.metadata["folder"] in ("deep", ".")
    lines(
        address, "index", "1.jpg", "../deep/../../link/deep/1.jpg", "--attach-path", "-c", "dots-0"
    )
    with Client(address) as client:
        folders = {item.id: item.metadata["folder"] for item in client.list(collection="dots-0")}
    assert folders["1.jpg"] == "."
    assert folders["../deep/../../link/deep/1.jpg"] == "../../link/deep"
