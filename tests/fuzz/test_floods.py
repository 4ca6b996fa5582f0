"""A port that is flooded: the server stays, others are served, its memory is bounded."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fuzz import floods, frames
from fuzz.outside import MIB, Control, Outside, server

SHORT = 10
LONG = 200
MOST_MEANWHILE = 400 * MIB
MOST_AFTER = 96 * MIB
"""Over all floods together: the allocator keeps 16 MiB in each of its four arenas, full of
holes or not (heap.py), which took 64.2 once with both processors busy."""
MOST_THREADS = 192
"""gRPC's pool makes them when it first needs them, and keeps them."""
CALM_S = 20.0


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with server(tmp_path_factory.mktemp("flooded")) as running:
        yield running


@pytest.fixture(scope="module")
def before(outside: Outside) -> tuple[int, int]:
    """Memory and descriptors of a server that has served somebody."""
    with Control(outside.address):
        time.sleep(0.5)
    process = outside.process
    return process.rss, process.files


def calm(outside: Outside, files: int) -> None:
    """Wait until what was thrown away is forgotten."""
    end = time.monotonic() + CALM_S
    while outside.process.files > files and time.monotonic() < end:
        time.sleep(0.05)


def flooded(outside: Outside, before: tuple[int, int], name: str, much: int) -> None:
    rss, files = before
    with Control(outside.address, pause_s=0.02) as control:
        began = time.monotonic()
        floods.ALL[name](outside.port, much)
        took = time.monotonic() - began
        time.sleep(0.1)
        while not control.times:
            time.sleep(0.05)
    process = outside.process
    most = process.peak
    assert process.alive, outside.log()[-2000:]
    calm(outside, files + 4)
    print(
        f"{name}: {took:.2f} s, memory {rss / MIB:.0f}, {most / MIB:.0f}, {process.rss / MIB:.0f} "
        f"MiB, {process.threads} threads; "
        f"others {statistics.median(control.times) * 1e3:.1f} ms, {len(control.times)} times, "
        f"at most {max(control.times) * 1e3:.0f} ms, {control.refused} refused"
    )
    assert control.wrong == []
    assert most - rss <= MOST_MEANWHILE
    assert process.rss - rss <= MOST_AFTER
    assert process.files <= files + 4
    assert process.threads <= MOST_THREADS
    log = outside.log()
    assert "Traceback" not in log
    assert len(log) < 4 * MIB, "strangers fill the log"


@pytest.mark.parametrize("name", floods.ALL)
def test_floods_harm_nobody(outside: Outside, before: tuple[int, int], name: str) -> None:
    flooded(outside, before, name, SHORT)


@pytest.mark.prove
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", floods.ALL)
def test_great_floods_harm_nobody(outside: Outside, before: tuple[int, int], name: str) -> None:
    flooded(outside, before, name, int(os.environ.get("PROVE_FLOODS", LONG)))


def test_frames_made_by_hand_are_understood(outside: Outside) -> None:
    """A right call by the same means is answered: the floods get as far as that."""
    with frames.Connection(outside.port) as peer:
        peer.call(frames.headers(frames.CHECK), frames.message())
        answer = peer.drain(1.0)
    assert frames.message(b"\x08\x01") in answer


@pytest.mark.parametrize("path", [frames.SEARCH, frames.GET, frames.CHECK])
def test_calls_that_never_go_on_take_nobodys_place(outside: Outside, path: str) -> None:
    """More of them than there are threads; after a moment, searches find one all the same."""
    block = frames.headers(path)
    with ExitStack() as stack, Control(outside.address, pause_s=10) as control:
        for _ in range(4):
            peer = stack.enter_context(frames.Connection(outside.port))
            for _ in range(100):
                begun = frames.frame(frames.HEADERS, frames.END_HEADERS, peer.stream(), block)
                peer.send(begun)
        time.sleep(1.0)
        for _ in range(3):
            control.check_all()
            assert control.client.health("") == "serving"
    assert control.wrong == []
    assert control.refused <= 2
