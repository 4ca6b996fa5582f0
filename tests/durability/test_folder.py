"""A data folder or a port that cannot be used is refused at once, in one line that says why."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lookalike.client import Client, NewItem, Query, SearchResult
from lookalike.client.errors import ReadOnly
from lookalike.client.local_server import LocalServer

SERVE = (sys.executable, "-m", "lookalike.server", "serve", "--listen", "127.0.0.1:0")
AS_NOBODY = (
    "import os, sys, encodings.idna\n"
    "import lookalike.server.app, lookalike.server.config, lookalike.server.logs\n"
    "import lookalike.server.store, lookalike.backends.engine._local, apsw.ext, numpy\n"
    "from lookalike.server.__main__ import _version, main\n_version()\n"
    "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
    "sys.argv = ['lookalike-server', 'serve', '--listen', '127.0.0.1:0', *sys.argv[1:]]\n"
    "main()\n"
)
DIM = 8


def rows() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(5).standard_normal((40, DIM)).astype(np.float32)


def fill(folder: Path, *, kill: bool = False) -> None:
    """Make a data folder with some vectors, its server stopped or killed."""
    with LocalServer(folder) as server:
        with Client(server.address) as client:
            client.create_collection("v", model="none", dimension=DIM)
            client.upsert(
                [NewItem(id=f"v-{i}", vector=row) for i, row in enumerate(rows())], collection="v"
            )
        if kill:
            os.kill(server.pid, 9)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose server was stopped."""
    folder = tmp_path_factory.mktemp("stopped") / "data"
    fill(folder)
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(stopped, tmp_path / "data")


def refused(command: Sequence[str], cwd: Path | None = None) -> str:
    """Start a server that must end by itself with one line; return the line."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "LOOKALIKE_LOG__LEVEL": "error"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=cwd, timeout=60, check=False
    )
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert not done.stdout
    line = done.stderr.rstrip()
    assert line.startswith("lookalike-server: "), line
    assert "\n" not in line, line
    print(line)
    return line


def on_read_only_disk(folder: Path, *command: str) -> list[str]:
    """Return a command that runs another where a folder is mounted read-only."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
    tried = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, folder], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("this machine lets us mount nothing, not even in a namespace of our own")
    return ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', str(folder), *command]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "below"):
        line = refused([*SERVE, "--data", str(folder)])
        assert str(folder) in line
        assert "it is a file" in line


def test_a_second_server_on_a_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with LocalServer(folder) as server, Client(server.address) as client:
        for more in ((), ("--read-only",)):
            line = refused([*SERVE, "--data", str(folder), *more])
            assert str(folder) in line
            assert "another server is using this data folder" in line
        client.create_collection("v", model="none", dimension=DIM)


def test_a_second_server_on_a_port_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "one") as server, Client(server.address) as client:
        line = refused([*SERVE, "--data", str(tmp_path / "two"), "--listen", server.address])
        assert server.address in line
        assert "in use" in line
        client.collections()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = refused([*SERVE, "--data", str(tmp_path / "two"), "--listen", address])
        assert address in line


def test_a_folder_on_a_read_only_disk_is_named(folder: Path) -> None:
    line = refused(on_read_only_disk(folder, *SERVE, "--data", str(folder)))
    assert str(folder) in line
    assert "Read-only file system" in line
    assert "--read-only" in line
    line = refused(on_read_only_disk(folder, *SERVE, "--data", str(folder / "new")))
    assert str(folder / "new") in line


def test_a_folder_that_may_not_be_written_is_named(stopped: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    # pytest's own folders are closed to others, again at the start of each run.
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        folder = shutil.copytree(stopped, Path(made) / "data")
        command = [sys.executable, "-c", AS_NOBODY, "--data", str(folder)]
        line = refused(command, Path("/"))
        assert str(folder) in line
        assert "Permission denied" in line
        folder.chmod(0o777)  # the folder is anybody's, its files are not
        line = refused(command, Path("/"))
        assert str(folder) in line
        assert '"store.db"' in line
        assert "belongs to user 0, the server runs as user 65534" in line


# ------------------------------------------------------------------- read-only


def check_reading(client: Client) -> None:
    """Expect all searches to be right, and all changes to be refused."""
    answers = client.search_batch(
        [Query(vector=row, k=3, view="full") for row in rows()], collection="v"
    )
    for i, answer in enumerate(answers):
        assert isinstance(answer, SearchResult)
        assert answer[0].id == f"v-{i}"
    assert client.count(collection="v") == len(rows())
    assert [item.id for item in client.list(collection="v")][:2] == ["v-0", "v-1"]
    one = NewItem(id="new", vector=rows()[0])
    for change in (
        lambda: client.upsert([one], collection="v"),
        lambda: client.upload([one], collection="v", patience_s=0.0),
        lambda: client.upload([one], patience_s=0.0),
        lambda: client.delete(["v-1"], collection="v"),
        lambda: client.update_metadata("v-1", {"a": 1}, collection="v"),
        lambda: client.create_collection("w", model="none", dimension=DIM),
        lambda: client.delete_collection("v"),
        lambda: client.rebuild_index("v"),
    ):
        with pytest.raises(ReadOnly, match="only reads"):
            change()
    assert client.jobs() == ()
    assert client.count(collection="v") == len(rows())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_read_only_server_serves_a_folder_and_leaves_it_as_it_is(
    folder: Path, tmp_path: Path
) -> None:
    before = contents(folder)
    with LocalServer(folder, "--read-only") as server, Client(server.address) as client:
        check_reading(client)
        with LocalServer(folder, "--read-only") as second, Client(second.address) as other:
            check_reading(other)
        line = refused([*SERVE, "--data", str(folder)])
        assert "another server is using this data folder" in line
        client.backup(tmp_path / "copy.backup")
    assert contents(folder) == before
    with LocalServer(folder) as server, Client(server.address) as client:
        assert client.delete(["v-1"], collection="v") == 1


def test_a_read_only_disk_is_served(folder: Path) -> None:
    shutil.rmtree(folder / "indexes")  # to be built anew, in memory alone
    command = on_read_only_disk(folder, sys.executable, "-m", "lookalike.server", "serve")
    server = LocalServer(folder, "--read-only", command=command)
    with server, Client(server.address) as client:
        check_reading(client)


def test_a_folder_without_a_lock_file_is_served_too(folder: Path) -> None:
    (folder / "lock").unlink()
    (folder / "mark").unlink()
    before = contents(folder)
    with LocalServer(folder, "--read-only") as server, Client(server.address) as client:
        check_reading(client)
    assert contents(folder) == before


def test_what_only_a_writer_can_mend_is_not_served(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    fill(killed, kill=True)
    before = contents(killed)
    line = refused([*SERVE, "--read-only", "--data", str(killed)])
    assert str(killed) in line
    assert "still in the log" in line
    assert contents(killed) == before
    line = refused([*SERVE, "--read-only", "--data", str(tmp_path / "none")])
    assert "There is no store" in line
    assert not (tmp_path / "none").exists()
