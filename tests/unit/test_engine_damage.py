"""Whatever happens to an engine's files, it opens and answers the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine_parts import ForgetfulIndex, Opens, PlainIndex, opener, renamed
from lookalike.backends.testing.scene import Scene
from lookalike.backends.types import IndexSpec

ROUNDS = 10


@pytest.fixture
def opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    open_scene, scenes = opener(tmp_path, monkeypatch)
    yield open_scene
    for scene in scenes:
        scene.engine.close()


@pytest.fixture
def golden(opens: Opens) -> Scene:
    """A closed engine with several segments, dead rows, and changes since its snapshot."""
    scene = opens(delta_limit=30)
    for count in (200, 90, 40):
        scene.add(count)
        scene.remove(scene.some(5))
        scene.settle()
    scene.engine.snapshot()
    scene.remove(scene.some(5))
    scene.add(10)
    scene.engine.close()
    assert len(scene.engine.stats().segments) >= 2
    return scene


def opened_the_same(scene: Scene, directory: Path) -> str:
    """Open the engine on these files; check its answers now and once it has settled."""
    scene.reopen(renamed(scene, directory))
    for _ in range(2):
        assert scene.engine.stats().count == len(scene.truth.items)
        scene.check(10)
        scene.check(1, queries=scene.truth.vectors(scene.some(20)))
        scene.settle()
    recovered = scene.engine.stats().recovered
    scene.engine.close()
    assert str(directory) not in recovered
    return recovered


def files_of(directory: Path) -> list[Path]:
    return sorted(path.relative_to(directory) for path in directory.rglob("*") if path.is_file())


def damaged_everywhere(
    scene: Scene, tmp_path: Path, damage: Callable[[Path, np.random.Generator], None], rounds: int
) -> None:
    rng = np.random.default_rng(99)
    print("seed 99")
    source = scene.config.directory
    kinds = {path.name: path for path in files_of(source)}
    assert set(kinds) == {"manifest.json", "rows.bin", "index.bin"}
    for kind, relative in kinds.items():
        for i in range(rounds):
            copy = tmp_path / f"{kind}-{i}"
            shutil.copytree(source, copy)
            damage(copy / relative, rng)
            assert opened_the_same(scene, copy) != "", f"{kind}, round {i}: nobody noticed"
            shutil.rmtree(copy)


def test_undamaged_files_are_used(golden: Scene) -> None:
    assert opened_the_same(golden, golden.config.directory) == ""


def test_truncated_files_are_noticed(golden: Scene, tmp_path: Path) -> None:
    def truncate(path: Path, rng: np.random.Generator) -> None:
        os.truncate(path, int(rng.integers(path.stat().st_size)))

    damaged_everywhere(golden, tmp_path, truncate, ROUNDS)


def test_flipped_bits_are_noticed_before_an_index_sees_them(golden: Scene, tmp_path: Path) -> None:
    def flip(path: Path, rng: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        place = int(rng.integers(len(data)))
        if path.name == "manifest.json":  # white space between its values means nothing
            while chr(data[place]).isspace():
                place = int(rng.integers(len(data)))
        data[place] ^= 1 << int(rng.integers(7))
        path.write_bytes(data)

    PlainIndex.loaded.clear()
    damaged_everywhere(golden, tmp_path, flip, 2 * ROUNDS)
    assert set(PlainIndex.loaded) == {PlainIndex.text}


def test_zeroed_pages_are_noticed(golden: Scene, tmp_path: Path) -> None:
    def zero(path: Path, rng: np.random.Generator) -> None:
        data = bytearray(path.read_bytes())
        start = int(rng.integers(max(1, len(data) - 100)))
        data[start : start + 100] = b"\1" * len(data[start : start + 100])
        path.write_bytes(data)

    damaged_everywhere(golden, tmp_path, zero, 5)


def test_missing_files_are_noticed(golden: Scene, tmp_path: Path) -> None:
    damaged_everywhere(golden, tmp_path, lambda path, rng: path.unlink(), 1)


def test_a_folder_in_a_files_place_is_noticed(golden: Scene, tmp_path: Path) -> None:
    def folder(path: Path, rng: np.random.Generator) -> None:
        path.unlink()
        path.mkdir()

    damaged_everywhere(golden, tmp_path, folder, 1)


def test_one_damaged_segment_costs_only_itself(golden: Scene, tmp_path: Path) -> None:
    directory = golden.config.directory
    victim = max(directory.glob("segment-*"))
    os.truncate(victim / "rows.bin", 100)
    golden.reopen()
    assert "segments were damaged" in golden.engine.stats().recovered
    assert golden.engine.stats().segments, "the sound segments were thrown away too"
    golden.check(10)


def test_a_damaged_index_is_built_anew_over_its_rows(golden: Scene) -> None:
    victim = min(golden.config.directory.glob("segment-*"))
    (victim / "index.bin").write_bytes(b"rubbish")
    golden.reopen()
    golden.check(10)
    golden.settle()
    stats = golden.engine.stats()
    assert stats.indexed >= stats.count - 30


@pytest.mark.parametrize("name", ["manifest.json", "rows.bin", "index.bin"])
def test_files_swapped_between_owners_are_noticed(
    golden: Scene, opens: Opens, tmp_path: Path, name: str
) -> None:
    stranger = opens(name="stranger", seed=8, delta_limit=30)
    for count in (200, 90, 40):
        stranger.add(count)
        stranger.settle()
    stranger.engine.snapshot()
    copy = tmp_path / "copy"
    shutil.copytree(golden.config.directory, copy)
    for relative in files_of(copy):
        source = stranger.config.directory / relative
        if relative.name == name and source.exists():
            shutil.copy(source, copy / relative)
    recovered = opened_the_same(golden, copy)
    if name != "index.bin":  # the plain index's files are all alike
        assert recovered


def test_a_strangers_whole_folder_is_not_used(golden: Scene, opens: Opens) -> None:
    stranger = opens(name="stranger", seed=8, delta_limit=30)
    stranger.add(200)
    stranger.settle()
    stranger.engine.snapshot()
    stranger.truth.number = 0
    assert "another owner" in opened_the_same(golden, stranger.config.directory)


def test_an_older_copy_of_each_file_changes_nothing(opens: Opens, tmp_path: Path) -> None:
    scene = opens(delta_limit=30)
    scene.add(100)
    scene.settle()
    scene.engine.snapshot()
    old = tmp_path / "old"
    shutil.copytree(scene.config.directory, old)
    scene.remove(scene.some(60))
    scene.add(80)
    scene.settle()
    scene.engine.snapshot()
    scene.engine.close()
    new = scene.config.directory
    for relative in files_of(old):
        copy = tmp_path / "copy"
        shutil.copytree(new, copy)
        (copy / relative).parent.mkdir(exist_ok=True)
        shutil.copy(old / relative, copy / relative)
        opened_the_same(scene, copy)
        shutil.rmtree(copy)
    opened_the_same(scene, old)


@pytest.mark.parametrize("wanted", [IndexSpec(), IndexSpec("exact")], ids=["auto", "exact"])
def test_an_older_copy_of_another_kind_is_not_searched_where_all_is_compared(
    opens: Opens, wanted: IndexSpec
) -> None:
    scene = opens(ForgetfulIndex, delta_limit=30)
    scene.add(100)
    scene.settle()
    scene.engine.snapshot()
    scene.reopen()
    assert not scene.check(3).exact, "what is wanted is loaded"
    scene.reopen(replace(scene.config, index=wanted))
    for _ in range(2):
        assert scene.check(3).exact
        scene.settle()


def test_stray_files_are_ignored_and_swept(golden: Scene) -> None:
    directory = golden.config.directory
    outside = directory.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"mine")
    (directory / "manifest.json.new").write_bytes(b"half")
    (directory / "building-00000042").mkdir()
    (directory / "building-00000042" / "rows.bin").write_bytes(b"half")
    (directory / "segment-00000077").mkdir()
    (directory / "core").write_bytes(b"x" * 1000)
    (directory / "link").symlink_to(outside)
    assert opened_the_same(golden, directory) == ""
    golden.reopen()
    golden.engine.snapshot()
    kept = {path.name for path in directory.iterdir()}
    named = json.loads((directory / "manifest.json").read_text())["manifest"]["segments"]
    assert kept == {"manifest.json", *(segment["name"] for segment in named)}
    assert (outside / "precious").read_bytes() == b"mine"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"manifest": 1, "sha256": 2}',
        "[" * 100_000,
        "\xff",
        '{"sha256": "", "manifest": {}}',
    ],
)
def test_a_manifest_of_rubbish_is_thrown_away(golden: Scene, text: str) -> None:
    (golden.config.directory / "manifest.json").write_text(text, encoding="latin-1")
    assert "manifest" in opened_the_same(golden, golden.config.directory)


def test_a_store_that_went_back_makes_the_snapshot_unusable_for_good(opens: Opens) -> None:
    """The same keys may stand for other vectors now, also when the seq has caught up."""
    scene = opens(delta_limit=30)
    scene.add(100)
    scene.settle()
    scene.engine.snapshot()
    scene.engine.close()
    seq = scene.truth.number
    scene.truth.number = seq - 1
    scene.truth.items = {key: scene.random(1)[0] for key in scene.truth.items}
    scene.reopen()
    assert "went back" in scene.engine.stats().recovered
    scene.check(10)
    scene.engine.close()
    scene.truth.number = seq + 5
    scene.reopen()
    scene.check(10)


def test_a_stale_manifest_is_gone_before_a_new_one_is_written(opens: Opens) -> None:
    scene = opens(delta_limit=1000)
    scene.add(100)
    scene.engine.rebuild(scene.config.index, lambda phase, done, total: None)
    scene.engine.close()
    scene.truth.number -= 1
    scene.reopen()
    assert not (scene.config.directory / "manifest.json").exists()


@pytest.mark.parametrize("name", ["seq", "spec", "metric", "dim", "format", "segments"])
def test_no_value_of_a_manifest_is_believed_without_its_checksum(golden: Scene, name: str) -> None:
    path = golden.config.directory / "manifest.json"
    outer = json.loads(path.read_text())
    value = outer["manifest"][name]
    match value:
        case int():
            outer["manifest"][name] = value - 1
        case str():
            outer["manifest"][name] = value.upper()
        case list():
            value.pop()
        case dict():
            value["backend"] = "exact"
    path.write_text(json.dumps(outer))
    assert "checksum" in opened_the_same(golden, golden.config.directory)
