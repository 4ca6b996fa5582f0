"""Data folders of every format there ever was: opened, brought up to date, restored, imported."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import pytest

from house import House, open_house
from lookalike.backends.engine import _manifest
from lookalike.backends.errors import FailedPrecondition
from lookalike.backends.types import SearchParams
from lookalike.client._import import Archive, opened
from lookalike.server.domain import Filter, View
from lookalike.server.restore import restore
from lookalike.server.store import Store
from lookalike.server.store import _connect as connect
from lookalike.server.store import _store as store_module

GOLDEN = Path(__file__).parent
FORMATS = sorted(path.name for path in GOLDEN.glob("v*"))
MOST_BYTES = 200_000


def copy(version: str, folder: Path) -> Path:
    """Return a copy of a golden data folder."""
    return Path(shutil.copytree(GOLDEN / version / "data", folder))


def contents(house: House) -> dict[str, Any]:
    """Return what a folder has in it, as scripts/make-golden writes it."""
    found: dict[str, Any] = {}
    for record in house.store.collections():
        collection = house.library.collection(record.config.name)
        items = {}
        for item in collection.list(Filter(), "", 1000, View.FULL):
            assert item.vector is not None
            kept = {}
            for original in (False, True):
                image = house.store.image(item.key, original)
                if image is not None:
                    name = "original" if original else "thumbnail"
                    kept[name] = hashlib.sha256(image.data).hexdigest()
            items[item.id] = {
                "metadata": item.metadata,
                "vector": hashlib.sha256(item.vector.astype("<f4").tobytes()).hexdigest(),
                "sha256": item.image.sha256 if item.image else "",
                "kept": kept,
            }
        config = record.config
        assert config.index is not None
        found[config.name] = {
            "description": config.description,
            "model": config.model,
            "metric": config.metric.value,
            "dimension": config.dimension,
            "image_retention": config.retention.value,
            "indexed_fields": list(config.indexed_fields),
            "backend": config.index.backend,
            "items": items,
        }
    return found


def expected(version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / version / "contents.json").read_text())
    for collection in found.values():
        for item in collection["items"].values():
            del item["create_time"], item["update_time"]
    return found


def check(house: House, version: str) -> None:
    """Compare with what was written then; every item finds itself."""
    assert contents(house) == expected(version)
    for record in house.store.collections():
        collection = house.library.collection(record.config.name)
        keys = collection.select(Filter())
        if not len(keys):
            continue
        vectors = collection.vectors(keys)
        hits = collection.search(vectors, len(keys), None, SearchParams(exact=True))
        assert all(key in row for key, row in zip(keys, hits.ids, strict=True))
    assert house.store.count(1, Filter()) == 5


def state(folder: Path) -> Mapping[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_every_format_has_its_folder_and_it_is_small() -> None:
    wanted = [f"v{number}" for number in range(1, len(connect.migrations()) + 1)]
    assert wanted == FORMATS, "a new format: run scripts/make-golden and commit what it makes"
    for version in FORMATS:
        files = [path for path in (GOLDEN / version).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= MOST_BYTES


@pytest.mark.parametrize("version", FORMATS)
def test_a_folder_of_this_format_opens_with_all_that_it_had(version: str, tmp_path: Path) -> None:
    copy(version, tmp_path / "data")
    for _ in range(2):  # and again, once it is brought up to date
        with open_house(tmp_path / "data") as house:
            check(house, version)
            assert house.store._read("PRAGMA user_version") == [(len(connect.migrations()),)]


@pytest.mark.parametrize("version", FORMATS)
def test_snapshots_of_another_format_are_built_anew(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copy(version, tmp_path / "data")
    monkeypatch.setattr(_manifest, "FORMAT", 77)
    before = (data / "indexes" / "2" / "manifest.json").read_bytes()
    with open_house(data) as house:
        check(house, version)
        assert house.library.collection("vectors").engine.stats().recovered
    assert (data / "indexes" / "2" / "manifest.json").read_bytes() != before


@pytest.mark.parametrize("version", FORMATS)
def test_a_backup_of_this_format_is_restored(version: str, tmp_path: Path) -> None:
    parts = (GOLDEN / version / "data" / "store.db", GOLDEN / version / "trailer")
    (tmp_path / "b").write_bytes(b"".join(part.read_bytes() for part in parts))
    restore(tmp_path / "b", tmp_path / "new", indexes={}, say=print)
    with open_house(tmp_path / "new") as house:
        check(house, version)


@pytest.mark.parametrize("version", FORMATS)
def test_an_archive_of_this_format_is_read(version: str) -> None:
    wanted = expected(version)["pictures"]["items"]
    with opened(GOLDEN / version / "pictures.tar") as file:
        archive = Archive(file)
        assert archive.collection.name == "pictures"
        found = list(archive.items(reembed=False))
    assert len(found) == 2
    for item in found:
        assert item.metadata == wanted[item.id]["metadata"]
        assert isinstance(item.image, bytes)
        assert hashlib.sha256(item.image).hexdigest() == wanted[item.id]["sha256"]


# ------------------------------------------------------------------- the newer format


@pytest.mark.parametrize("version", FORMATS)
def test_a_newer_format_is_refused_and_left_as_it_is(version: str, tmp_path: Path) -> None:
    data = copy(version, tmp_path / "data")
    db = apsw.Connection(str(data / "store.db"))
    db.pragma("user_version", 1000)
    db.close()
    before = state(data)
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match=r"newer server \(version 1000"):
            Store.open(data)
    after = {name: data for name, data in state(data).items() if data}  # an empty log is nothing
    after.pop("store.db-shm", None)
    assert after == before


# ------------------------------------------------------- migrations that are interrupted

STEPS = (
    "CREATE TABLE more (a INTEGER) STRICT; INSERT INTO more SELECT key FROM items",
    "ALTER TABLE jobs ADD COLUMN remark TEXT; CREATE INDEX more_a ON more (a)",
    "DELETE FROM more WHERE a % 2; ALTER TABLE more RENAME TO fewer",
)

MIGRATE = """
import os, sys
from pathlib import Path
from lookalike.backends import crashpoints
from lookalike.server.store import Store, _store
point, count = sys.argv[2], int(sys.argv[3])
assert point in crashpoints.NAMES
scripts = [*_store.migrations(), *sys.argv[4:]]
_store.migrations = lambda: scripts
left = [count]
def reached(name):
    left[0] -= name == point
    if left[0] == 0:
        os._exit(9)
crashpoints.watch(reached)
Store.open(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("point", ["store.migrate.before", "store.migrate.after"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_migration_that_was_killed_is_gone_on_with(
    version: str, point: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = copy(version, tmp_path / "data")
    first = len(connect.migrations()) - int(version[1:])
    command = [sys.executable, "-c", MIGRATE, str(data), point, str(first + count), *STEPS]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=env, timeout=60, check=False).returncode == 9
    db = apsw.Connection(str(data / "store.db"))
    done = db.pragma("user_version") - len(connect.migrations())
    assert done == count - (point == "store.migrate.before"), "a step was half done"
    db.close()
    newer = [*connect.migrations(), *STEPS]
    monkeypatch.setattr(store_module, "migrations", lambda: newer)
    with open_house(data) as house:
        check(house, version)
        keys = [key for (key,) in house.store._read("SELECT key FROM items WHERE key % 2 = 0")]
        assert house.store._read("SELECT a FROM fewer ORDER BY a") == [(key,) for key in keys]
        assert house.store._read("SELECT remark FROM jobs") != []
