"""How the local engine builds, merges and swaps its segments."""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine_parts import (
    BrokenIndex,
    Opens,
    PlainIndex,
    SlowIndex,
    opener,
)
from lookalike.backends.engine._local import LocalEngine
from lookalike.backends.errors import (
    Cancelled,
    Unavailable,
)
from lookalike.backends.index import auto
from lookalike.backends.testing.scene import NO_KEYS, Scene
from lookalike.backends.types import Changes, IndexSpec, Vectors


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    SlowIndex.begun.clear()
    SlowIndex.go_on.clear()
    open_scene, scenes = opener(tmp_path, monkeypatch)
    yield open_scene
    SlowIndex.go_on.set()
    for scene in scenes:
        scene.engine.close()


def nothing(phase: str, done: int, total: int) -> None:
    pass


def test_a_full_delta_becomes_a_segment(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    scene.add(50)
    assert scene.engine.stats().segments == []
    scene.add(1)
    scene.settle()
    (segment,) = scene.engine.stats().segments
    assert segment["backend"] == "plain"
    assert segment["count"] == segment["live"] == 51
    assert scene.engine.stats().indexed == 51
    scene.check(10)


def test_segments_stay_few_and_lose_no_key(opens: Opens) -> None:
    scene = opens(delta_limit=10)
    most = 0
    for round_ in range(120):
        scene.add(11)
        if round_ % 3 == 0:
            scene.remove(scene.some(4))
        if round_ % 10 == 0:
            scene.settle()
        most = max(most, len(scene.engine.stats().segments))
    scene.settle()
    assert most <= 1 + np.log2(120)
    hits = scene.engine.search(scene.random(1), 5000)
    assert sorted(hits.ids[0].tolist()) == scene.truth.keys().tolist()
    scene.check(20)


def test_each_vector_is_built_in_few_times(opens: Opens) -> None:
    built: list[int] = []

    class CountedIndex(PlainIndex):
        def __init__(self, spec: IndexSpec, vectors: Vectors) -> None:
            super().__init__(spec, vectors)
            built.append(len(vectors))

    scene = opens(CountedIndex, delta_limit=10)
    for _ in range(64):
        scene.add(11)
        scene.settle()
    total = 64 * 11
    assert sum(built) <= total * (1 + np.log2(64)) / 1.5
    assert max(built) == total


def test_a_segment_with_many_dead_rows_is_built_anew(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    keys = scene.add(100)
    scene.settle()
    scene.remove(keys[:20])
    scene.settle()
    assert scene.engine.stats().segments[0]["count"] == 100
    scene.remove(keys[20:21])
    scene.settle()
    (segment,) = scene.engine.stats().segments
    assert segment["count"] == segment["live"] == 79
    scene.check(10)


def test_a_segment_without_live_rows_goes(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    keys = scene.add(100)
    scene.settle()
    scene.remove(keys)
    assert scene.engine.stats().segments == []
    scene.engine.snapshot()
    assert {path.name for path in scene.config.directory.iterdir()} == {"manifest.json"}


def test_searches_answer_while_a_segment_is_built(opens: Opens) -> None:
    scene = opens(SlowIndex, delta_limit=50)
    keys = scene.add(80)
    assert SlowIndex.begun.wait(5)
    assert scene.engine.stats().building
    scene.check(10)
    scene.add(20)
    scene.check(10)
    scene.remove(keys[5:25])
    scene.check(90)
    SlowIndex.go_on.set()
    scene.settle()
    scene.check(90)
    assert not np.isin(keys[5:25], scene.engine.search(scene.random(1), 99).ids).any()


def test_what_was_removed_during_a_build_does_not_come_back(opens: Opens) -> None:
    scene = opens(SlowIndex, delta_limit=50)
    keys = scene.add(80)
    assert SlowIndex.begun.wait(5)
    scene.remove(keys)
    SlowIndex.go_on.set()
    scene.settle()
    assert scene.engine.stats().count == 0
    assert scene.engine.search(scene.random(1), 5).ids.size == 0


def test_closing_does_not_wait_for_a_build(opens: Opens) -> None:
    scene = opens(SlowIndex, delta_limit=50)
    scene.add(80)
    assert SlowIndex.begun.wait(5)
    start = time.monotonic()
    scene.engine.close()
    assert time.monotonic() - start < 2
    assert not any(thread.name == "engine-builder" for thread in threading.enumerate())
    assert not list(scene.config.directory.glob("building-*"))
    scene.engine.close()


def test_a_rebuild_is_not_held_up_by_the_builder(opens: Opens) -> None:
    scene = opens(SlowIndex, delta_limit=50)
    scene.add(80)
    assert SlowIndex.begun.wait(5)
    scene.engine.rebuild(IndexSpec("exact"), nothing)
    (segment,) = scene.engine.stats().segments
    assert (segment["backend"], segment["live"]) == ("exact", 80)
    scene.check(10)


def test_closing_ends_a_rebuild(opens: Opens) -> None:
    scene = opens(SlowIndex, delta_limit=500)
    scene.add(80)
    errors: list[BaseException] = []

    def rebuild() -> None:
        try:
            scene.engine.rebuild(scene.config.index, nothing)
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=rebuild)
    thread.start()
    assert SlowIndex.begun.wait(5)
    scene.engine.close()
    thread.join(5)
    assert len(errors) == 1


def test_later_segments_are_of_the_spec_of_the_rebuild(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    scene.add(80)
    scene.settle()
    scene.engine.rebuild(IndexSpec("exact"), nothing)
    scene.add(81)
    scene.settle()
    assert {segment["backend"] for segment in scene.engine.stats().segments} == {"exact"}


def test_a_failed_rebuild_changes_nothing(opens: Opens) -> None:
    scene = opens(BrokenIndex, delta_limit=500)
    scene.add(80)
    with pytest.raises(RuntimeError, match="out of luck"):
        scene.engine.rebuild(scene.config.index, nothing)
    scene.check(10)
    assert scene.engine.stats().count == 80
    scene.settle()  # what the rebuild froze is left to the builder
    assert scene.check(10).exact


def test_an_index_that_cannot_be_built_costs_only_speed(
    opens: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    scene = opens(BrokenIndex, delta_limit=50)
    scene.add(80)
    scene.settle()
    assert scene.engine.stats().indexed == 0
    assert scene.check(10).exact
    assert "index not built" in caplog.text
    scene.engine.snapshot()
    scene.reopen()
    scene.check(10)


def test_segments_are_kept_without_being_asked(opens: Opens) -> None:
    """So that a crash costs no build that was finished."""
    scene = opens(delta_limit=50)
    scene.add(80)
    scene.settle()
    scene.reopen()
    assert scene.engine.stats().recovered == ""
    assert scene.engine.stats().indexed == 80


def test_rows_in_files_are_not_held_in_memory(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    scene.add(5000)
    scene.settle()
    assert scene.engine.stats().memory_bytes < 5000 * 24


@pytest.mark.parametrize("ready", [False, True])
def test_without_room_on_the_disk_it_serves_on(
    opens: Opens, caplog: pytest.LogCaptureFixture, ready: bool
) -> None:
    scene = opens(delta_limit=50)
    if ready:
        scene.add(60)
        scene.settle()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        scene.add(200)
        scene.settle()
        scene.check(10)
        held = scene.engine.snapshot()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert held == (1 if ready else 0)
    assert "trying again" in caplog.text
    assert str(scene.config.directory) not in caplog.text
    assert scene.engine.snapshot() == scene.truth.seq()
    scene.reopen()
    assert scene.engine.stats().recovered == ""
    scene.check(10)


def test_a_folder_that_cannot_be_made_costs_only_the_snapshot(opens: Opens, tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(b"a file in the way")
    scene = opens(delta_limit=50)
    scene.add(80)
    scene.settle()
    scene.check(10)
    assert scene.engine.snapshot() == 0
    scene.reopen()
    scene.check(10)


def test_files_of_a_running_build_survive_a_snapshot(opens: Opens) -> None:
    scene = opens(SlowIndex, delta_limit=50)
    scene.add(80)
    assert SlowIndex.begun.wait(5)
    scene.engine.snapshot()
    assert list(scene.config.directory.glob("building-*/rows.bin"))
    SlowIndex.go_on.set()
    scene.settle()
    scene.reopen()
    assert scene.engine.stats().indexed == 80


def test_two_engines_on_one_folder_harm_no_answer(opens: Opens) -> None:
    """An owner may open a new engine before it closes the old one."""
    scene = opens(delta_limit=50)
    scene.add(80)
    scene.settle()
    second = LocalEngine.open(scene.config, scene.truth)
    old = scene.engine
    scene.add(80)
    second.apply(Changes(scene.truth.seq(), NO_KEYS, *last(scene, 80)))
    scene.settle()
    old.snapshot()
    scene.engine = second
    scene.settle()
    old.close()
    second.snapshot()
    scene.check(10)
    scene.reopen()
    scene.check(10)


def last(scene: Scene, count: int) -> tuple[np.ndarray, np.ndarray]:
    keys = scene.truth.keys()[-count:]
    return keys, scene.truth.vectors(keys)


def test_the_folder_does_not_grow_without_end(opens: Opens) -> None:
    scene = opens(delta_limit=20)
    for _ in range(30):
        scene.remove(scene.add(40)[:38])
        scene.settle()
    scene.engine.snapshot()
    size = sum(path.stat().st_size for path in scene.config.directory.rglob("*") if path.is_file())
    assert size < 30 * 1024


def test_warnings_do_not_tell_paths(opens: Opens, caplog: pytest.LogCaptureFixture) -> None:
    scene = opens(delta_limit=50)
    scene.add(80)
    scene.settle()
    scene.engine.close()  # reading a mapped file that was cut would end the process
    os.truncate(next(scene.config.directory.glob("*/rows.bin")), 3)
    with caplog.at_level(logging.DEBUG):
        scene.reopen()
    assert "damaged" in caplog.text
    assert str(scene.config.directory) not in caplog.text


def test_auto_goes_by_the_size_of_the_whole(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "EXACT_NUMBERS", 400 * auto.LEAST_DIM)
    scene = opens(delta_limit=50)
    scene.engine.rebuild(IndexSpec("auto"), nothing)
    scene.add(300)
    scene.settle()
    assert [segment["backend"] for segment in scene.engine.stats().segments] == ["exact"]
    scene.add(110)
    scene.settle()
    segments = scene.engine.stats().segments
    assert {segment["algorithm"] for segment in segments} == {"hnsw"}
    assert sum(int(str(segment["live"])) for segment in segments) == 410
    scene.add(60)
    scene.settle()
    assert [s["algorithm"] for s in scene.engine.stats().segments] == ["hnsw", "hnsw"]


def test_a_cancelled_rebuild_leaves_the_spec(opens: Opens) -> None:
    scene = opens(delta_limit=50)
    scene.add(80)

    def cancel(phase: str, done: int, total: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        scene.engine.rebuild(IndexSpec("exact"), cancel)
    scene.add(81)
    scene.settle()
    assert {segment["backend"] for segment in scene.engine.stats().segments} == {"plain"}


def test_rows_that_wait_long_are_sealed_though_few(opens: Opens) -> None:
    scene = opens(idle_s=1)
    scene.add(300)
    assert scene.engine.stats().indexed == 0
    end = time.monotonic() + 20
    while scene.engine.stats().indexed < 300:
        assert time.monotonic() < end
        time.sleep(0.02)
    scene.settle()
    scene.check(10)
    scene.reopen()
    assert scene.engine.stats().indexed == 300
