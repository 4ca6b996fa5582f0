"""`lookalike embed` of many pictures: shards, parts, several servers, what is cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.cli_run import Run
from client.fake_server import FakeServer, vector_of
from lookalike.v1 import embed_service_pb2

PICTURES = 70


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(PICTURES):
        (folder / f"{i:03}.jpg").write_bytes(b"picture %d" % i)
    return folder


def shards(folder: Path, suffix: str = "npz") -> list[str]:
    return sorted(path.name for path in folder.glob(f"v-*.{suffix}"))


def read(folder: Path) -> dict[str, np.ndarray]:
    """Return the vectors of all shards; none may be there twice."""
    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("v-*.npz")):
        with np.load(path) as file:
            for item_id, vector in zip(file["ids"].tolist(), file["vectors"], strict=True):
                assert item_id not in found
                found[item_id] = vector
    return found


def embeds(server: FakeServer) -> int:
    return sum(isinstance(call, embed_service_pb2.EmbedRequest) for call in server.seen.calls)


def check(folder: Path, many: Path) -> None:
    found = read(folder)
    assert sorted(found) == sorted(path.name for path in many.iterdir())
    for name, vector in found.items():
        assert np.allclose(vector, vector_of((many / name).read_bytes()))


def test_shards_are_full_but_for_the_last_and_hold_every_picture_once(
    run: Run, tmp_path: Path, many: Path
) -> None:
    code, out, _ = run("embed", many, "-o", tmp_path / "v.npz", "--shard-size", 30, "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["count"], told["known"], len(told["files"])) == (PICTURES, 0, 3)
    assert shards(tmp_path) == ["v-00000.npz", "v-00001.npz", "v-00002.npz"]
    check(tmp_path, many)


def test_what_shards_hold_is_not_embedded_again(
    run: Run, server: FakeServer, tmp_path: Path, many: Path
) -> None:
    args = ("embed", many, "-o", tmp_path / "v.npz", "--shard-size", 30)
    run(*args)
    (tmp_path / "v-00001.npz").unlink()
    (many / "new.jpg").write_bytes(b"new")
    code, out, _ = run(*args, "--json")
    assert code == 0
    assert json.loads(out)["count"] == 31
    assert json.loads(out)["known"] == PICTURES - 30
    check(tmp_path, many)
    calls = embeds(server)
    code, out, _ = run(*args, "--json")
    assert (code, json.loads(out)["count"]) == (0, 0)
    assert embeds(server) == calls


def test_a_run_that_is_cut_off_leaves_whole_shards_that_the_next_goes_on_from(
    run: Run, tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("embed", many, "-o", tmp_path / "v.npz", "--shard-size", 20)
    real = os.replace
    written: list[Any] = []

    def replace(old: Any, new: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(new)
        real(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        assert run(*args)[0] == 130
    assert shards(tmp_path) == ["v-00000.npz", "v-00001.npz"]
    assert list(tmp_path.glob("*.part")) == []
    assert run(*args)[0] == 0
    check(tmp_path, many)


def test_vectors_of_another_model_are_not_mixed_in(run: Run, tmp_path: Path, many: Path) -> None:
    np.savez(
        tmp_path / "v-00000.npz",
        ids=np.array(["old.jpg"]),
        vectors=np.zeros((1, 8), np.float32),
        fingerprint=np.array("other/1"),
    )
    code, _, err = run("embed", many, "-o", tmp_path / "v.npz", "--shard-size", 30)
    assert code == 2
    assert "another model" in err


def test_a_file_that_is_no_shard_is_a_line(run: Run, tmp_path: Path, many: Path) -> None:
    (tmp_path / "v-00000.npz").write_bytes(b"nothing")
    code, _, err = run("embed", many, "-o", tmp_path / "v.npz", "--shard-size", 30)
    assert code == 2
    assert "v-00000.npz" in err


def test_parts_are_disjoint_and_together_everything(run: Run, tmp_path: Path, many: Path) -> None:
    for i in range(1, 4):
        part = tmp_path / str(i)
        part.mkdir()
        assert (
            run("embed", many, "-o", part / "v.npz", "--shard-size", 50, "--part", f"{i}/3")[0] == 0
        )
        assert 10 < len(read(part)) < 40
    found = [name for i in range(1, 4) for name in read(tmp_path / str(i))]
    assert len(found) == len(set(found)) == PICTURES


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_a_part_that_there_is_not_is_a_line(
    run: Run, tmp_path: Path, many: Path, part: str
) -> None:
    code, _, err = run("embed", many, "-o", tmp_path / "v.npz", f"--part={part}")
    assert code == 2
    assert "--part is I/N" in err


def test_several_servers_share_the_work(
    run: Run, server: FakeServer, tmp_path: Path, many: Path
) -> None:
    for i in range(400):
        (many / f"more-{i}.jpg").write_bytes(b"more %d" % i)
    other = FakeServer()
    try:
        addresses = f"{server.address},{other.address}"
        out = tmp_path / "v.npz"
        code, _, err = run("embed", many, "-o", out, "--shard-size", 500, "--server", addresses)
    finally:
        other.stop()
    assert code == 0, err
    check(tmp_path, many)
    assert embeds(server) > 2
    assert embeds(other) > 2


def test_a_server_that_is_not_there_leaves_its_work_to_the_others(
    run: Run, server: FakeServer, tmp_path: Path, many: Path
) -> None:
    other = FakeServer()
    gone = other.address
    other.stop()
    out = tmp_path / "v.npz"
    code, _, err = run(
        "embed", many, "-o", out, "--shard-size", 500, "--server", f"{gone},{server.address}"
    )
    assert code == 0, err
    check(tmp_path, many)


def test_another_ending_is_a_line(run: Run, tmp_path: Path, many: Path) -> None:
    code, _, err = run("embed", many, "-o", tmp_path / "v.csv")
    assert code == 2
    assert ".npz or .parquet" in err


def test_without_pyarrow_parquet_says_what_to_do(
    run: Run, tmp_path: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, _, err = run("embed", many, "-o", tmp_path / "v.parquet")
    assert code == 2
    assert "pip install pyarrow" in err


def test_parquet_has_the_same_vectors_and_can_be_gone_on_with(
    run: Run, tmp_path: Path, many: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    args = ("embed", many, "-o", tmp_path / "v.parquet", "--shard-size", 30)
    assert run(*args)[0] == 0
    assert shards(tmp_path, "parquet") == ["v-00000.parquet", "v-00001.parquet", "v-00002.parquet"]
    (tmp_path / "v-00002.parquet").unlink()
    code, out, _ = run(*args, "--json")
    assert (code, json.loads(out)["count"]) == (0, PICTURES - 60)
    rows = 0
    for path in sorted(tmp_path.glob("v-*.parquet")):
        table = parquet.read_table(path)
        rows += len(table)
        for item_id, vector in zip(
            table["id"].to_pylist(), table["vector"].to_pylist(), strict=True
        ):
            assert np.allclose(vector, vector_of((many / item_id).read_bytes()))
    assert rows == PICTURES
