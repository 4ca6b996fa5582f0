"""What embedders keep between two starts is whole, or as if it were not there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike.backends.embed._kept import Kept


def fill(folder: Path) -> None:
    (folder / "image.xml").write_text("<net/>")
    (folder / "image.bin").write_bytes(bytes(range(256)) * 10)


def test_a_record_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache")
    assert kept.record("choice") is None
    assert kept.keep_record("choice", {"ms": 1.5, "ways": ["a", "b"]})
    assert kept.keep_record("choice", {"ms": 2.5})
    assert Kept(tmp_path / "cache").record("choice") == {"ms": 2.5}
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["choice.json"], "and no draft"


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("1.5", "9.5"),
        lambda text: json.dumps([1, 2]),
        lambda text: json.dumps({"record": [], "sha256": ""}),
        lambda text: "",
        lambda text: "\udcff",
    ],
)
def test_a_damaged_record_is_as_if_it_were_not_there(
    harm: Callable[[str], str], tmp_path: Path
) -> None:
    kept = Kept(tmp_path)
    kept.keep_record("choice", {"ms": 1.5})
    file = tmp_path / "choice.json"
    file.write_bytes(harm(file.read_text()).encode("utf-8", "surrogateescape"))
    assert kept.record("choice") is None
    kept.keep_record("choice", {"ms": 3})
    assert kept.record("choice") == {"ms": 3}


def test_a_folder_comes_back_with_all_its_files(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache")
    assert kept.folder("net") is None
    folder = kept.keep_folder("net", fill)
    assert folder == kept.folder("net") == tmp_path / "cache" / "net"
    assert (folder / "image.xml").read_text() == "<net/>"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["net"], "and no draft"


def flip(folder: Path) -> None:
    data = bytearray((folder / "image.bin").read_bytes())
    data[1000] ^= 4
    (folder / "image.bin").write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda folder: os.truncate(folder / "image.bin", 100),
        lambda folder: (folder / "image.xml").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"files": {}}'),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: os.truncate(folder / "manifest.json", 20),
    ],
)
def test_a_damaged_folder_is_made_again(harm: Callable[[Path], None], tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keep_folder("net", fill)
    harm(tmp_path / "net")
    assert kept.folder("net") is None
    assert kept.keep_folder("net", fill) is not None
    assert kept.folder("net") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["net"], "the damaged one is gone"


def test_a_failure_while_filling_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    kept.keep_folder("net", fill)

    def fail(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    assert kept.keep_folder("net", fail) is None
    assert kept.folder("net") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    for name, age_s in ((".net-old", 90_000), (".net-new", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.bin").write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    assert Kept(tmp_path).keep_folder("net", fill) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == [".net-new", "net"]


@pytest.mark.parametrize("folder", [True, False])
def test_what_may_not_write_writes_nothing(folder: bool, tmp_path: Path) -> None:
    kept = Kept(tmp_path / "cache" if folder else None, may_write=False)
    assert not kept.keep_record("choice", {})
    assert kept.keep_folder("net", fill) is None
    assert kept.record("choice") is None
    assert kept.folder("net") is None
    assert not (tmp_path / "cache").exists()


def test_a_full_or_forbidden_disk_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = Kept(tmp_path / "file" / "cache")
    assert not kept.keep_record("choice", {})
    assert kept.keep_folder("net", fill) is None
