"""A real server whose decoding processes are harmed by pictures, over the wire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import hostile_zoo
import misbehaving_worker as bad
import picture_zoo as zoo
from lookalike.client import Client, NewItem
from lookalike.client.local_server import LocalServer

HARMFUL = f"""
import functools, sys
sys.path[:] = {sys.path!r}
import lookalike.server.app as app
app.Workers = functools.partial(app.Workers, module="misbehaving_worker")
from lookalike.server.__main__ import main
sys.argv = ["lookalike-server", *sys.argv[1:]]
main()
"""


@dataclass
class Running:
    client: Client
    pid: int
    log: Path

    @property
    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(word) for task in tasks for word in task.read_text().split()]


@contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch, start: list[str]) -> Iterator[Running]:
    monkeypatch.setenv("LOOKALIKE_DECODE__HERE_PIXELS", "0")
    monkeypatch.setenv("LOOKALIKE_LOG__LEVEL", "debug")
    log = folder / "log"
    command = ["sh", "-c", 'log=$1; shift; exec "$@" 2>>"$log"', "sh", str(log)]
    with LocalServer(
        folder / "data", command=[*command, sys.executable, *start, "serve"]
    ) as server, Client(server.address) as client:  # fmt: skip
        client.wait_ready()
        yield Running(client, server.pid, log)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.02)


def test_harm_hits_the_pictures_that_do_it_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm = {
        bad.CRASH: "IMAGE_UNDECODABLE",
        bad.VANISH: "IMAGE_UNDECODABLE",
        bad.LOOP: "IMAGE_TOO_COSTLY",
        bad.GRAB: "IMAGE_TOO_COSTLY",
    }
    items = {f"harm-{w}": zoo.encode(zoo.scene(w, 24), "PNG") for w in harm}
    good = {f"good-{i}": zoo.encode(zoo.scene(60 + i, 40), "PNG") for i in range(20)}
    monkeypatch.setenv("LOOKALIKE_LIMITS__MAX_DECODE_MS", "500")
    with running(tmp_path, monkeypatch, ["-c", HARMFUL]) as server:
        both = [NewItem(id=name, image=data) for name, data in (items | good).items()]
        report = server.client.upload(both)
        found = {result.id: result.error.reason for result in report.failures if result.error}
        assert found == {f"harm-{w}": reason for w, reason in harm.items()}
        assert report.created == len(good)
        assert server.client.count() == len(good)
        hit = server.client.search(image=good["good-7"], k=1)[0]
        assert hit.score > 0.999
        children = server.children
        assert children
        assert server.client.upload(both).unchanged == len(good)
    assert all(map(gone, children))


def test_hostile_files_leave_the_server_and_its_log_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = list(hostile_zoo.cases())
    with running(tmp_path, monkeypatch, ["-m", "lookalike.server"]) as server:
        server.client.embed(images=[zoo.encode(zoo.scene(), "WEBP")])
        children = set(server.children)
        report = server.client.upload(NewItem(id=case.name, image=case.data) for case in cases)
        answers = {result.id: result.error.reason for result in report.failures if result.error}
        wrong = [case.name for case in cases if answers.get(case.name, "OK") not in case.answers]
        assert wrong == []
        assert children <= set(server.children), "a process ended"
    log = server.log.read_text()
    for word in ("TIFFRead", "JPEGLib", "ZIPDecode", "Traceback", "libpng"):
        assert word not in log
    assert all(" lookalike" in line or " server" in line for line in log.splitlines())


def test_without_processes_pictures_are_decoded_in_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_DECODE__WORKERS", "0")
    with running(tmp_path, monkeypatch, ["-m", "lookalike.server"]) as server:
        server.client.embed(images=[zoo.encode(zoo.scene(), "WEBP")])
        assert server.children == []


def test_a_killed_server_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, monkeypatch, ["-m", "lookalike.server"]) as server:
        server.client.embed(images=[zoo.encode(zoo.scene(), "WEBP")])
        children = server.children
        assert children
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: all(map(gone, children)))


def test_the_terminal_interrupts_the_server_not_its_processes() -> None:
    """Ctrl-C goes to a whole group of processes; the server finishes what is under way."""
    script = (
        "import os, signal, time\n"
        "from lookalike.server.images import Allowance, Workers\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "some = Workers(1, Allowance())\n"
        "while not some.pids: time.sleep(0.05)\n"
        "pids = some.pids\n"
        "os.killpg(0, signal.SIGINT)\n"
        "os.kill(pids[0], signal.SIGTERM)\n"
        "time.sleep(0.3)\n"
        "assert open(f'/proc/{pids[0]}/stat').read().split()[2] in 'SR'\n"
        "some.close()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=env, start_new_session=True, check=True)
