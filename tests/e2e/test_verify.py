"""`lookalike verify`, and what a real server process makes of a damaged folder."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lookalike.client import Client, NewItem, Query, SearchResult, VerifyFinding, VerifyProgress
from lookalike.client.errors import CollectionNotFound, DataLoss, InvalidArgument
from lookalike.client.local_server import LocalServer
from made_pictures import jpeg

DIM = 12
COUNT = 300
VECTORS = np.random.default_rng(3).normal(size=(COUNT, DIM)).astype(np.float32)
IDS = [f"v-{i}" for i in range(COUNT)]


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as they were while a server ran (`killed`) and after it stopped (`stopped`)."""
    folder = tmp_path_factory.mktemp("verify")
    with LocalServer(folder / "live") as server, Client(server.address) as client:
        client.upsert([NewItem(f"p-{i}", jpeg(i)) for i in range(4)])
        client.create_collection("vectors", model="none", dimension=DIM, index="faiss")
        items = [NewItem(i, vector=v) for i, v in zip(IDS, VECTORS, strict=True)]
        for start in range(0, COUNT, 100):
            client.upsert(items[start : start + 100], collection="vectors")
        job = client.rebuild_index("vectors")
        *_, last = client.watch_job(job.id)
        assert last.state == "succeeded"
        check_with_client(client)
        shutil.copytree(folder / "live", folder / "killed")
    shutil.copytree(folder / "live", folder / "stopped")
    return folder


def check_with_client(client: Client) -> None:
    told: list[VerifyProgress] = []
    found = client.verify(progress=told.append)
    assert found
    assert (found.collection_count, found.item_count) == (2, COUNT + 4)
    assert (found.probed_count, found.reached_count) == (COUNT + 4, COUNT + 4)
    assert found.findings == ()
    assert client.verify("vectors", probe_count=7).probed_count == 7
    assert client.verify("vectors", probe_count=-1).probed_count == COUNT
    with pytest.raises(CollectionNotFound):
        client.verify("nothing")
    for count in (0, -2):
        with pytest.raises(InvalidArgument):
            client.verify(probe_count=count)


@pytest.fixture
def data(states: Path, tmp_path: Path) -> Path:
    shutil.copytree(states / "stopped", tmp_path / "data")
    return tmp_path / "data"


def lookalike(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lookalike.client.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def harm(data: Path, sql: str) -> None:
    db = sqlite3.connect(data / "store.db")
    db.execute(sql)
    db.commit()
    db.close()


HARM = "UPDATE items SET seq = seq + 1 WHERE id IN ('v-7', 'p-1')"


def test_a_sound_folder_is_well_and_one_in_use_is_the_servers(data: Path) -> None:
    done = lookalike("verify", "--data", data)
    assert (done.returncode, done.stdout) == (0, "")
    assert f"all is well: {COUNT + 4} items in 2 collections" in done.stderr
    with LocalServer(data) as server:
        done = lookalike("verify", "--data", data)
        assert done.returncode == 1
        assert "--server" in done.stderr
        done = lookalike("verify", "--server", server.address, "--probes", "20")
        assert (done.returncode, done.stdout) == (0, "")
        assert "24 of 24 searched for" in done.stderr


def test_findings_have_names_and_cures_on_both_ways(data: Path) -> None:
    harm(data, HARM)
    offline = lookalike("verify", "--data", data, "--json", "--quiet")
    with LocalServer(data) as server, Client(server.address) as client:
        online = lookalike("verify", "--server", server.address, "--json", "--quiet")
        shown = lookalike("verify", "--server", server.address)
        heard: list[VerifyFinding] = []
        found = client.verify(on_finding=heard.append)
        assert not found
        assert list(found.findings) == heard
        assert {(f.collection, f.item_id) for f in heard} == {
            ("default", "p-1"),
            ("vectors", "v-7"),
        }
        assert client.collection("vectors").damaged_item_count == 1
        assert client.collection("vectors").item_count == COUNT - 1
        with pytest.raises(DataLoss, match="v-7"):
            client.get("v-7", collection="vectors")
        assert client.delete(["v-7"], collection="vectors") == 1
        assert client.upsert([NewItem("p-1", jpeg(1))])[0].error is None
        assert client.verify()
    for done in (offline, online):
        assert (done.returncode, done.stderr) == (1, "")
        *findings, summary = map(json.loads, done.stdout.splitlines())
        assert summary["summary"]["findings"] == len(findings) == 2
        assert {f["finding"]["item_id"] for f in findings} == {"v-7", "p-1"}
        for finding in findings:
            assert finding["finding"]["severity"] == "lost"
            assert finding["finding"]["check"] == "item"
            assert "Store it again, or delete it." in finding["finding"]["message"]
    assert offline.stdout == online.stdout
    assert shown.returncode == 1
    assert "v-7" in shown.stdout
    assert "2 findings" in shown.stderr


def test_a_folder_that_cannot_be_opened_is_a_finding(data: Path) -> None:
    (data / "store.db").write_bytes((data / "store.db").read_bytes()[:9000])
    done = lookalike("verify", "--data", data, "--json")
    assert done.returncode == 1
    finding, summary = map(json.loads, done.stdout.splitlines())
    assert finding["finding"]["check"] == "database"
    assert "estore a backup" in finding["finding"]["message"]
    assert summary["summary"]["findings"] == 1


def test_wrong_usage_is_told(tmp_path: Path) -> None:
    for args in (
        ("--data", str(tmp_path), "--server", "x:1"),
        ("--probes", "0"),
        ("--config", "x.toml"),
    ):
        assert lookalike("verify", *args).returncode == 2
    nothing = lookalike("verify", "--data", tmp_path)
    assert nothing.returncode == 1
    assert "no data folder" in nothing.stderr
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------- a server on a damaged folder


def change(path: Path, at: float, size: int = 1) -> None:
    data = bytearray(path.read_bytes())
    place = int(at * len(data))
    data[place : place + size] = bytes(b ^ 0x10 for b in data[place : place + size])
    path.write_bytes(data)


def of_index(data: Path, name: str) -> Path:
    [file] = data.glob(f"indexes/2/{name}")
    return file


DERIVED: dict[str, Callable[[Path], None]] = {
    "manifest": lambda data: change(of_index(data, "manifest.json"), 0.5),
    "rows": lambda data: change(of_index(data, "segment-*/rows.bin"), 0.5),
    "index": lambda data: change(of_index(data, "segment-*/index.bin"), 0.5),
    "no mark": lambda data: (data / "mark").unlink(),
    "shared memory": lambda data: change(data / "store.db-shm", 0.0, 100),
}


@pytest.mark.parametrize("harmed", DERIVED)
def test_a_server_answers_the_same_over_damage_of_what_is_derived(
    states: Path, tmp_path: Path, harmed: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(states / "killed", data)
    DERIVED[harmed](data)
    with LocalServer(data) as server, Client(server.address) as client:
        queries = [Query(vector=vector, k=1) for vector in VECTORS[::10]]
        found = client.search_batch(queries, collection="vectors")
        tops = [answer[0].id for answer in found if isinstance(answer, SearchResult)]
        assert tops == IDS[::10]
        assert client.count(collection="vectors") == COUNT
        assert client.verify()


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "log": (lambda data: change(data / "store.db-wal", 0.4), r"store\.db-wal.*backup.*mark"),
    "no log": (lambda data: (data / "store.db-wal").unlink(), "acknowledged.*backup.*mark"),
    "no database": (lambda data: (data / "store.db").unlink(), "store.db.*estore"),
    "tables": (lambda data: change(data / "store.db", 0.02, 60_000), "estore a backup"),
}


@pytest.mark.parametrize("harmed", REFUSED)
def test_a_server_does_not_start_over_damage_of_the_store(
    states: Path, tmp_path: Path, harmed: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(states / "killed", data)
    do, words = REFUSED[harmed]
    if harmed == "tables":  # while it runs, all of them may be in the log
        shutil.rmtree(data)
        shutil.copytree(states / "stopped", data)
    do(data)
    command = [sys.executable, "-m", "lookalike.server", "serve", "--data", str(data)]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done
    *_, last = done.stderr.strip().splitlines()
    assert re.search(words, last), done.stderr
    assert "Traceback" not in done.stderr
