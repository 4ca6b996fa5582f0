from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from client.cli_run import Run
from client.fake_server import FakeServer
from lookalike.client import cli
from lookalike.v1 import index_service_pb2

ENVIRONMENT = {**os.environ, "PYTHONPATH": ":".join(p for p in sys.path if p), "COLUMNS": "100"}


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "lookalike.client.cli", *map(str, args)]


# -------------------------------------------------------------------- usage


def test_help_is_there_for_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for name in (
        "index", "search", "explain", "duplicates", "facets", "embed", "collections", "items",
        "jobs", "serve", "health",
    ):  # fmt: skip
        assert name in out
        if name != "serve":
            assert run(name, "-h")[0] == 0
    assert run()[0] == 0


def test_help_needs_neither_grpc_nor_numpy() -> None:
    code = (
        "import sys; from lookalike.client import cli; cli.run(['search', '--help']); "
        "print([m for m in ('grpc', 'numpy', 'google.protobuf') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"lookalike \S+\n", out)


def test_a_mistyped_command_is_suggested(run: Run) -> None:
    code, out, err = run("serch", "x")
    assert (code, out) == (2, "")
    assert "search" in err


@pytest.mark.parametrize(
    "args",
    [
        ["search"],
        ["search", "a.jpg", "--text", "b"],
        ["search", "--nonsense"],
        ["index"],
        ["embed", "x"],
        ["items", "delete"],
        ["items", "delete", "a", "--where", "x = 1", "--yes"],
        ["items", "set-metadata", "a", "no-equals"],
        ["collections", "create", "a", "--algorithm", "magic"],
        ["collections", "create", "a", "--index-options", "[1]"],
        ["items", "delete", "a"],
        ["collections", "delete", "a"],
    ],
)
def test_what_cannot_be_meant_exits_2_in_a_line_or_two(run: Run, args: list[str]) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert 1 <= len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    "args", [["info"], ["search", "--text", "a"], ["health"], ["items", "count"], ["index", "."]]
)
def test_no_server_exits_4_and_says_how_to_start_one(
    run: Run, args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_ADDRESS", "127.0.0.1:1")
    code, out, err = run(*args)
    assert (code, out) == (4, "")
    assert err.splitlines()[-1] == (
        "lookalike: No server answers at 127.0.0.1:1; start one with: lookalike serve"
    )


def test_the_option_wins_over_the_environment(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_ADDRESS", "127.0.0.1:1")
    assert run("info", "--server", server.address)[0] == 0


def test_what_is_not_there_exits_5(run: Run) -> None:
    for args in (["items", "get", "x"], ["jobs", "show", "x"], ["collections", "show", "x"]):
        code, _, err = run(*args)
        assert code == 5
        assert err.startswith("lookalike: There is no")


def test_a_defect_is_a_line_and_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lookalike.client.Client.info", lambda self: 1 / 0)
    code, _, err = run("info")
    assert code == 1
    assert "ZeroDivisionError" in err
    assert len(err.splitlines()) == 1
    monkeypatch.setenv("LOOKALIKE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        run("info")


def test_a_bad_condition_is_shown_with_a_caret(run: Run) -> None:
    code, _, err = run("items", "count", "--where", "price < acme")
    assert code == 2
    assert err.splitlines()[-1].strip() == "^"


# -------------------------------------------------------------------- index


def test_a_folder_is_indexed_and_found(run: Run, server: FakeServer, photos: Path) -> None:
    code, out, err = run("index", photos)
    assert (code, out) == (0, "")
    assert "2 created" in err
    assert {i for _, i in server.items} == {"a.jpg", "sub/b.png"}
    code, out, _ = run("index", photos, "--json", "--all-files")
    assert json.loads(out)["unchanged"] == 2
    assert json.loads(out)["created"] == 1
    code, out, _ = run("search", photos / "a.jpg", "-k", "1")
    assert code == 0
    head, hit = out.splitlines()
    assert head.split() == ["score", "id"]  # this collection's metric is not cosine: no words
    assert hit.split() == ["1.000", "a.jpg"]


def test_failures_are_listed_and_exit_3(run: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"bad picture")
    (photos / "gone.jpg").symlink_to("nothing")
    code, out, err = run("index", photos)
    assert (code, out) == (3, "")
    assert f"failed: {photos}/bad.jpg: The picture is damaged. (IMAGE_UNDECODABLE)" in err
    assert "gone.jpg" in err
    assert "2 failed" in err
    list_ = tmp_path / "failures.tsv"
    code, _, err = run("index", photos, "--failures", list_)
    assert code == 3
    assert "failed: " not in err
    lines = sorted(line.split("\t") for line in list_.read_text().splitlines())
    assert [line[0] for line in lines] == [f"{photos}/bad.jpg", f"{photos}/gone.jpg"]
    assert lines[0][1] == "IMAGE_UNDECODABLE"
    assert run("index", photos, "-q")[2].count("\n") == 2


def test_an_id_prefix_and_a_collection_are_passed_on(
    run: Run, server: FakeServer, photos: Path
) -> None:
    assert run("index", photos, "--id-prefix", "p/", "-c", "other", "--quiet") == (0, "", "")
    assert set(server.items) == {("other", "p/a.jpg"), ("other", "p/sub/b.png")}


def test_paths_are_attached_when_asked_for(run: Run, server: FakeServer, photos: Path) -> None:
    assert run("index", photos, "-q", "--id-prefix", "p/", "--attach-path")[0] == 0
    code, out, _ = run("items", "get", "p/sub/b.png", "--json")
    assert code == 0
    assert json.loads(out)["metadata"] == {"name": "b.png", "folder": "sub"}
    assert run("index", photos, "-q")[0] == 0
    assert json.loads(run("items", "get", "a.jpg", "--json")[1])["metadata"] == {}


def test_two_files_of_one_id_are_refused(run: Run, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"another")
    code, _, err = run("index", photos, other)
    assert code == 2
    assert "--id-prefix" in err
    assert run("index", photos, photos)[0] == 0


def test_names_come_from_stdin(
    run: Run, server: FakeServer, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = f"{photos}/a.jpg\0{photos}/c.txt\0".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names)))
    assert run("index", "-0", "-", "-q")[0] == 0
    assert {i for _, i in server.items} == {f"{photos}/a.jpg", f"{photos}/c.txt"}


def test_an_empty_folder_is_told(run: Run, tmp_path: Path) -> None:
    code, _, err = run("index", tmp_path)
    assert code == 0
    assert "--all-files" in err


def test_ctrl_c_stops_after_what_is_under_way(server: FakeServer, tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i:03}.jpg").write_bytes(b"%d" % i)
    server.script.ack_delay_s = 0.03
    process = subprocess.Popen(
        command("index", tmp_path, "--server", server.address),
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 30
    while len(server.items) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping after what is under way" in err
    assert f"{len(server.items)} created" in err
    assert 5 <= len(server.items) < 200


def test_a_terminal_sees_a_bar(server: FakeServer, tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i:03}.jpg").write_bytes(b"%d" % i)
    server.script.ack_delay_s = 0.01
    primary, secondary = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command("index", tmp_path, "--server", server.address), stderr=secondary, env=environment
    )
    os.close(secondary)
    seen = b""
    while True:
        try:
            piece = os.read(primary, 4096)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    os.close(primary)
    assert process.wait(30) == 0
    assert b"/60" in seen
    assert b"60 created" in seen


# ---------------------------------------------- collections, items, jobs, server


def test_items_are_listed_shown_changed_and_deleted(run: Run, photos: Path) -> None:
    run("index", photos)
    assert run("items")[1].splitlines()[1].split()[:3] == ["a.jpg", "4x3", "image/png"]
    assert run("items", "list", "--ids")[1] == "a.jpg\nsub/b.png\n"
    assert run("items", "list", "--ids", "-n", "1")[1] == "a.jpg\n"
    assert json.loads(run("items", "list", "--json")[1].splitlines()[0])["id"] == "a.jpg"
    assert run("items", "count")[1] == "2\n"
    _, out, _ = run(
        "items", "set-metadata", "a.jpg", "price=3", "brand=acme", 'tags=["x"]', "--json"
    )
    assert json.loads(out)["metadata"] == {"brand": "acme", "price": 3, "tags": ["x"]}
    assert run("items", "set-metadata", "a.jpg", '{"n": null}')[0] == 0
    assert "acme" in run("items", "get", "a.jpg")[1]
    assert len(json.loads(run("items", "get", "a.jpg", "--vector", "--json")[1])["vector"]) == 8
    assert run("items", "delete", "a.jpg", "--dry-run")[2] == "1 item would be deleted\n"
    assert run("items", "delete", "a.jpg", "-y")[2] == "1 item deleted\n"
    assert run("items", "count", "--json")[1] == '{"count": 1}\n'


def test_a_stored_picture_is_written(run: Run, photos: Path, tmp_path: Path) -> None:
    run("index", photos)
    assert run("items", "image", "a.jpg", "-o", tmp_path / "t.png")[0] == 0
    assert (tmp_path / "t.png").read_bytes() == b"one"


def test_collections_are_made_shown_and_deleted(run: Run) -> None:
    assert run("collections", "create", "new", "--m", "8", "--index", "faiss")[0] == 0
    assert run("collections", "create", "new")[0] == 1
    assert "new" in run("collections")[1]
    made = json.loads(run("collections", "show", "new", "--json")[1])
    assert made["index"] == {
        "backend": "faiss",
        "algorithm": {"m": 8, "ef_construction": 0, "ef_search": 0},
        "options": {},
        "target_recall": 0.0,
    }
    assert run("collections", "show", "new")[1].startswith("name")
    assert len(run("collections", "list", "--json")[1].splitlines()) == 2
    assert run("collections", "delete", "new", "--yes")[0] == 0
    assert run("collections", "create", "x", "--metric", "hamming")[0] == 1


def test_a_file_name_neither_breaks_lines_nor_rewrites_the_terminal(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    (photos / "a\n\x1b[31mb.jpg").write_bytes(b"bad picture")
    _, _, err = run("index", photos)
    assert "\x1b" not in err
    assert f"failed: {photos}/a\\n\\x1b[31mb.jpg: " in err
    list_ = tmp_path / "failures.tsv"
    run("index", photos, "--failures", list_)
    (line,) = list_.read_text().splitlines()
    assert line.split("\t")[0] == f"{photos}/a\\n\\x1b[31mb.jpg"


def test_what_cannot_be_meant_is_refused_before_any_work(run: Run, photos: Path) -> None:
    assert run("items", "list", "-n", "-3")[0] == 2
    code, _, err = run("embed", photos, "-o", photos / "nope" / "v.npz")
    assert code == 1
    assert f"{photos}/nope: No such file" in err
    code, out, err = run("demo", "--photos", photos / "nope", "--out", photos / "demo")
    assert (code, out) == (2, "")
    assert "there is no folder" in err
    assert not (photos / "demo").exists()


def test_deletes_ask_on_a_terminal_and_fail_without_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("collections", "create", "new")
    code, _, err = run("collections", "delete", "new")
    assert code == 2
    assert "--yes" in err
    for answer, expected in (("n\n", 1), ("y\n", 0)):
        stdin: Any = io.StringIO(answer)
        monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("collections", "delete", "new")[0] == expected


def test_jobs_are_followed_to_their_end(run: Run) -> None:
    assert run("rebuild")[0] == 0
    assert "jobs watch job-1" in run("rebuild", "--no-wait")[2]
    assert "job-1" in run("jobs")[1]
    states = [
        json.loads(x)["state"] for x in run("jobs", "watch", "job-1", "--json")[1].splitlines()
    ]
    assert states == ["running", "succeeded"]
    assert "cancelled" in run("jobs", "cancel", "job-1")[1]
    assert "rebuild_index" in run("jobs", "show", "job-1")[1]


def test_health_exits_4_while_the_server_is_not_ready(run: Run, server: FakeServer) -> None:
    assert run("health")[:2] == (0, "serving\n")
    server.health = b"\x08\x02"
    code, out, err = run("health")
    assert (code, out) == (4, "not_serving\n")
    assert "not ready" in err
    assert run("health", "--wait", "0.1")[0] == 4


def test_what_the_server_is_is_told(run: Run) -> None:
    assert "0.0.0-fake" in run("info")[1]
    assert json.loads(run("info", "--json")[1])["limits"]["max_batch_size"] == 256
    assert "fake" in run("models")[1]


# -------------------------------------------------------------------- serve


def test_serve_and_config_become_the_server(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []

    def execv(path: str, args: list[str]) -> None:
        calls.append(args)
        raise SystemExit(0)

    monkeypatch.setattr("os.execv", execv)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for args in (
        ["serve", "--data", "x", "--whatever=1"],
        ["config", "show", "--origin"],
    ):
        with pytest.raises(SystemExit):
            cli.run(args)
        assert calls.pop() == [sys.executable, "-m", "lookalike.server", *args]


def test_without_the_server_the_cure_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = run("serve")
    assert code == 1
    assert "pip install 'lookalike[server]'" in err
    assert len(err.splitlines()) == 1


def test_a_reader_that_goes_away_is_no_traceback(server: FakeServer) -> None:
    for i in range(3000):
        server.store("", index_service_pb2.ItemInput(id=f"{i:05}" + "x" * 60), 1)
    listing = command("items", "list", "--ids", "--server", server.address)
    process = subprocess.Popen(
        listing, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 1
