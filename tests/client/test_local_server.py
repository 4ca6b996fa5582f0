from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from lookalike.client.errors import ServerUnavailable
from lookalike.client.local_server import LocalServer


def fake(tmp_path: Path, body: str) -> list[str]:
    program = tmp_path / "program.py"
    program.write_text("import sys, time, signal\n" + body)
    return [sys.executable, str(program)]


READY = 'print("lookalike 1.2.3 ready on 127.0.0.1:4711 (builtin)", flush=True)\n'


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_waits_for_the_ready_line_and_stops_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "note"
    body = (
        'print("starting", flush=True)\n'
        f"open({str(note)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))\n" + READY + "time.sleep(60)\n"
    )
    before = set(threading.enumerate())  # other tests' servers may run beside this one
    with LocalServer(tmp_path / "d", "--x", command=fake(tmp_path, body)) as server:
        assert server.address == "127.0.0.1:4711"
        pid = server.pid
        assert is_alive(pid)
    assert not is_alive(pid)
    assert server.pid == 0
    assert note.read_text() == f"--data {tmp_path / 'd'} --listen 127.0.0.1:0 --x"
    assert not [
        thread
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith("lookalike-server")
    ]


def test_a_server_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    body = 'sys.stderr.write("the port is taken\\n"); sys.exit(1)\n'
    with pytest.raises(ServerUnavailable, match="ended before it was ready") as caught:
        LocalServer(tmp_path, command=fake(tmp_path, body)).start()
    assert "the port is taken" in caught.value.message


def test_a_server_that_never_gets_ready_is_given_up_and_stopped(tmp_path: Path) -> None:
    body = 'sys.stderr.write("loading\\n"); sys.stderr.flush(); time.sleep(60)\n'
    server = LocalServer(tmp_path, command=fake(tmp_path, body), start_timeout_s=1.0)
    with pytest.raises(ServerUnavailable, match=r"not ready after 1 s[\s\S]*loading"):
        server.start()
    assert server.pid == 0


def test_one_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY + "time.sleep(60)\n"
    server = LocalServer(tmp_path, command=fake(tmp_path, body))
    server.start()
    pid, begin = server.pid, time.monotonic()
    server.stop(grace_s=0.3)
    assert not is_alive(pid)
    assert time.monotonic() - begin < 10
    server.stop()


def test_one_that_writes_a_lot_is_not_held_up(tmp_path: Path) -> None:
    flood = 'for _ in range(3000): print("x" * 100); sys.stderr.write("y" * 100 + "\\n")\n'
    with LocalServer(tmp_path, command=fake(tmp_path, flood + READY + flood)) as server:
        assert server.address


def test_it_may_be_killed_from_outside(tmp_path: Path) -> None:
    with LocalServer(tmp_path, command=fake(tmp_path, READY + "time.sleep(60)\n")) as server:
        os.kill(server.pid, 9)
