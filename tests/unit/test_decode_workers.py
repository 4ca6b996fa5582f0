"""Decoding in processes of its own: same pixels, and no picture harms the server."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import misbehaving_worker as bad
import picture_zoo as zoo
from lookalike.backends.errors import (
    Draining,
    ImageTooCostly,
    ImageUndecodable,
    LookalikeError,
    Unavailable,
)
from lookalike.server.images import Allowance, Decoded, Workers, decode

MAX = 10_000_000
ORDINARY = {name: data for name, (data, _) in zoo.ordinary().items()}
GOOD = ORDINARY["webp"]
QUICK = Allowance(cpu_s=0.3, wall_s=1.0)


def harmful(width: int, salt: int = 0) -> bytes:
    """Return a good picture that makes the misbehaving process do harm."""
    return zoo.encode(zoo.scene(width, 8 + salt), "PNG")


@contextmanager
def workers(
    count: int = 1, allowance: Allowance = QUICK, module: str = "misbehaving_worker"
) -> Iterator[Workers]:
    made = Workers(count, allowance, module=module)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def real() -> Iterator[Workers]:
    made = Workers(2, Allowance())
    yield made
    made.close()


def answer(call: Callable[..., Decoded], data: bytes, side: int = 0) -> object:
    try:
        got = call(data, max_pixels=MAX, side=side)
    except LookalikeError as error:
        return type(error), error.message, error.metadata
    return got.image.shape, got.image.tobytes(), got.width, got.height, got.media_type


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.01)


# ------------------------------------------------------------- the same answers


@pytest.mark.parametrize("name", ORDINARY)
def test_a_process_gives_the_very_same_pixels(name: str, real: Workers) -> None:
    for side in (0, 1, 40, 150, 1000):
        assert answer(real.decode, ORDINARY[name], side) == answer(decode, ORDINARY[name], side)


@pytest.mark.parametrize("orientation", zoo.ORIENTATIONS)
def test_every_orientation_comes_out_the_same(orientation: int, real: Workers) -> None:
    data = zoo.encode(zoo.stored(zoo.scene(), orientation), "JPEG", exif=zoo.exif(orientation))
    for side in (0, 40):
        assert answer(real.decode, data, side) == answer(decode, data, side)


def test_refusals_are_the_same_to_the_word(real: Workers) -> None:
    files = [b"", b"%PDF-1.7", zoo.png(5000, 5000, 8, 0, b""), zoo.scans(200), zoo.bmp(50, 50)]
    files += [data[: len(data) * k // 7] for data in ORDINARY.values() for k in range(1, 7)]
    for data in files:
        assert answer(real.decode, data, 40) == answer(decode, data, 40)


def test_numbers_that_a_header_invents_come_through(real: Workers) -> None:
    deep = zoo.plain_tiff(np.full((8, 8), 7, np.uint8), "<", 65535)
    for data, side in ((deep, 0), (GOOD, 10**30), (ORDINARY["jpeg"], 10**30)):
        assert answer(real.decode, data, side) == answer(decode, data, side)


def test_pictures_larger_than_what_is_kept_of_shared_memory_come_out_whole(real: Workers) -> None:
    large = zoo.encode(zoo.scene(3000, 2000), "PNG", compress_level=1)
    for data in (large, GOOD, large):
        assert answer(real.decode, data) == answer(decode, data)


def test_many_threads_get_each_its_own_picture(real: Workers) -> None:
    files = [zoo.encode(zoo.scene(100 + i, 80), "WEBP", lossless=True) for i in range(24)]
    want = [answer(decode, data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: answer(real.decode, data), files * 3)) == want * 3
    assert len(real.pids) <= 2


# --------------------------------------------------------------------- harm


@pytest.mark.parametrize("width", [bad.CRASH, bad.VANISH, bad.LIE, bad.KILLED])
def test_a_picture_that_ends_its_process_fails_alone(width: int) -> None:
    with workers() as some:
        with pytest.raises(ImageUndecodable, match="ended the process"):
            some.decode(harmful(width), max_pixels=MAX)
        assert answer(some.decode, GOOD) == answer(decode, GOOD)


@pytest.mark.parametrize(("width", "seconds"), [(bad.LOOP, 0.3), (bad.SLEEP, 1.0)])
def test_a_picture_that_hangs_is_ended_in_its_time(width: int, seconds: float) -> None:
    with workers() as some:
        some.decode(GOOD, max_pixels=MAX)
        began = time.monotonic()
        with pytest.raises(ImageTooCostly, match="time") as caught:
            some.decode(harmful(width), max_pixels=MAX)
        assert time.monotonic() - began >= seconds
        assert caught.value.metadata == {"resource": "time"}
        assert answer(some.decode, GOOD) == answer(decode, GOOD)


def test_a_picture_that_takes_all_memory_leaves_its_process_alive() -> None:
    with workers() as some:
        some.decode(GOOD, max_pixels=MAX)
        pids = some.pids
        with pytest.raises(ImageTooCostly, match="memory"):
            some.decode(harmful(bad.GRAB), max_pixels=MAX)
        assert answer(some.decode, GOOD) == answer(decode, GOOD)
        assert some.pids == pids


def test_a_retry_of_a_deadly_picture_ends_no_other_process() -> None:
    with workers() as some:
        for width in (bad.CRASH, bad.LOOP):
            first = answer(some.decode, harmful(width))
            some.decode(GOOD, max_pixels=MAX)
            pids = some.pids
            assert answer(some.decode, harmful(width)) == first
            assert some.pids == pids
        with pytest.raises(ImageUndecodable):  # another picture is not taken for it
            some.decode(harmful(bad.CRASH, salt=1), max_pixels=MAX)
        assert some.pids != pids


def test_a_process_that_somebody_kills_costs_no_picture() -> None:
    with workers(2) as some, ThreadPoolExecutor(4) as pool:
        some.decode(GOOD, max_pixels=MAX)
        want = answer(decode, ORDINARY["avif"])
        done = [pool.submit(answer, some.decode, ORDINARY["avif"]) for _ in range(200)]
        for part in (50, 100, 150):  # a picture that is killed twice in a row is blamed
            done[part].result()
            wait_until(lambda: some.pids)
            os.kill(some.pids[0], signal.SIGKILL)
        assert [got for got in done if got.result() != want] == []


def test_others_are_served_while_pictures_end_their_processes() -> None:
    with workers(2) as some, ThreadPoolExecutor(4) as pool:
        harm = [harmful(bad.CRASH, salt=i) for i in range(6)]
        want = answer(decode, GOOD)
        deaths = pool.map(lambda data: answer(some.decode, data), harm)
        good = pool.map(lambda _: answer(some.decode, GOOD), range(60))
        assert all(got == want for got in good)
        assert all(isinstance(got, tuple) and got[0] is ImageUndecodable for got in deaths)


def test_what_a_process_says_reaches_no_one(capfd: pytest.CaptureFixture[str]) -> None:
    with workers() as some:
        for _ in range(3):  # more than a pipe holds: it is not held up either
            some.decode(harmful(bad.CHATTER), max_pixels=MAX)
    assert capfd.readouterr() == ("", "")


def test_a_process_may_touch_nothing_but_its_picture() -> None:
    with workers() as some:
        some.decode(harmful(bad.PEEK), max_pixels=MAX)


def test_the_server_keeps_nothing_of_dead_processes() -> None:
    with workers() as some:
        some.decode(GOOD, max_pixels=MAX)
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for i in range(4):
            answer(some.decode, harmful(bad.CRASH, salt=10 + i))
        some.decode(GOOD, max_pixels=MAX)
        assert len(os.listdir("/proc/self/fd")) == before


# ----------------------------------------------------------------- a life's end


def test_a_process_is_replaced_after_its_pictures() -> None:
    with workers(allowance=Allowance(pictures=5)) as some:
        seen = set()
        for _ in range(12):
            some.decode(GOOD, max_pixels=MAX)
            seen |= set(some.pids)
        assert len(seen) >= 2
        assert sum(map(alive, seen)) <= 1


def test_a_process_that_grew_is_replaced() -> None:
    with workers(allowance=Allowance(resident_bytes=200 * 2**20)) as some:
        some.decode(GOOD, max_pixels=MAX)
        [first] = some.pids
        for _ in range(15):
            some.decode(harmful(bad.LEAK), max_pixels=MAX)
        wait_until(lambda: not alive(first))
        assert answer(some.decode, GOOD) == answer(decode, GOOD)


def test_without_processes_decoding_is_refused_and_says_why() -> None:
    with workers(module="no_such_module") as some:
        began = time.monotonic()
        for _ in range(3):
            with pytest.raises(Unavailable, match="cannot keep processes") as caught:
                some.decode(GOOD, max_pixels=MAX)
            assert 0 < (caught.value.retry_after_s or 0) <= 30
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("name", ORDINARY)
def test_only_small_and_simple_pictures_stay_in_the_server(name: str) -> None:
    stays = name in ("jpeg", "jpeg 4:4:4", "jpeg cmyk", "jpeg ycck") or name.startswith(
        ("png", "apng")
    )
    made = Workers(1, QUICK, here_pixels=240 * 160, module="no_such_module")
    try:
        if stays:
            assert answer(made.decode, ORDINARY[name]) == answer(decode, ORDINARY[name])
            made._here_pixels -= 1
        with pytest.raises(Unavailable):
            made.decode(ORDINARY[name], max_pixels=MAX)
    finally:
        made.close()


def test_after_many_deaths_new_processes_wait_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    from lookalike.server.images import _workers

    monkeypatch.setattr(_workers, "_DEATHS", 3)
    with workers() as some:
        for i in range(3):
            answer(some.decode, harmful(bad.CRASH, salt=20 + i))
        with pytest.raises(Unavailable) as caught:
            some.decode(GOOD, max_pixels=MAX)
        assert 0 < (caught.value.retry_after_s or 0) <= 10


def test_close_leaves_no_process_and_refuses() -> None:
    with workers(2) as some, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: some.decode(GOOD, max_pixels=MAX), range(20)))
        pids = some.pids
        some.close()
        assert pids
        assert not any(map(alive, pids))
        with pytest.raises(Draining):
            some.decode(GOOD, max_pixels=MAX)


def test_close_waits_for_the_picture_in_hand() -> None:
    with workers() as some, ThreadPoolExecutor(1) as pool:
        some.decode(GOOD, max_pixels=MAX)
        pids = some.pids
        running = pool.submit(some.decode, harmful(bad.LOOP), max_pixels=MAX)
        time.sleep(0.1)
        some.close()
        assert isinstance(running.exception(), ImageTooCostly)
        assert not any(map(alive, pids))


def test_close_does_not_wait_for_a_process_that_starts() -> None:
    began = threading.active_count()
    for _ in range(3):
        Workers(1, QUICK).close()
    assert threading.active_count() == began


@pytest.mark.parametrize("width", [bad.LOOP, bad.SLEEP])
def test_no_process_outlives_a_server_that_is_killed(width: int) -> None:
    script = f"""
        import sys, threading
        sys.path[:] = {sys.path!r}
        import misbehaving_worker as bad
        from lookalike.server.images import Allowance, Workers
        some = Workers(2, Allowance(cpu_s=0.5, wall_s=1.5), module="misbehaving_worker")
        some.decode({GOOD!r}, max_pixels=10**7)
        print(*some.pids, flush=True)
        some.decode({harmful(width)!r}, max_pixels=10**7)
    """
    server = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    pids = [int(word) for word in server.stdout.readline().split()]
    time.sleep(0.1)
    server.kill()
    server.wait()
    server.stdout.close()
    assert pids
    wait_until(lambda: not any(map(alive, pids)))
