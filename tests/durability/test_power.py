"""When the power fails, what was acknowledged is there and all else is whole or absent."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from durability.powercut import PLANTS, cut_power
from durability.powercut_disk import DiskLog, Record, write_image
from durability.powercut_files import RecordedFiles

SEED = int(os.environ.get("PROVE_SEED", "2"))
CUTS_OF_A_SEED = 24


def cut_many(cuts: int) -> None:
    """Cut the power so often; the seeds are in what is printed and in each failure."""
    seeds = range(SEED * 10**6, SEED * 10**6 + -(-cuts // CUTS_OF_A_SEED))
    reports = [cut_power(seed, cuts=CUTS_OF_A_SEED) for seed in seeds]
    failures = [failure for report in reports for failure in report.failures]
    print(
        f"seeds {seeds.start} to {seeds.stop - 1}: {sum(r.cuts for r in reports)} cuts, "
        f"{sum(r.records for r in reports)} changes of the disk, "
        f"{sum(r.acknowledged for r in reports)} acknowledged commits and "
        f"{sum(r.snapshots for r in reports)} durable snapshots looked for, "
        f"{sum(r.in_doubt for r in reports)} commits in doubt, {len(failures)} failures"
    )
    assert not failures, "\n".join(failures[:20])


def test_what_was_acknowledged_survives_power_cuts() -> None:
    cut_many(60)


@pytest.mark.prove
@pytest.mark.timeout(7200)
def test_what_was_acknowledged_survives_many_power_cuts() -> None:
    cut_many(int(os.environ.get("PROVE_CUTS", "1000")))


def test_a_seed_gives_the_same_disks_byte_for_byte() -> None:
    first, second = (cut_power(SEED, cuts=16) for _ in range(2))
    assert first == second
    assert first.digest != cut_power(SEED + 1, cuts=16).digest


@pytest.mark.parametrize("plant", PLANTS)
def test_a_forgotten_sync_is_noticed(plant: str) -> None:
    for seed in range(SEED, SEED + 20):
        report = cut_power(seed, plant)
        if report.failures:
            print(f"seed {seed}, after {report.cuts} cuts: {report.failures[0]}")
            return
    pytest.fail(f"nobody noticed that {PLANTS[plant]}")


# ------------------------------------------------------------- the disk itself


def left(log: DiskLog, upto: int, folder: Path) -> set[tuple[tuple[str, bytes], ...]]:
    """Return what 200 cuts at one place left: names with contents."""
    found = set()
    for seed in range(200):
        write_image(log.cut(upto, random.Random(seed)), folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        found.add(tuple((str(p.relative_to(folder)), p.read_bytes()) for p in files))
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    return found


@pytest.fixture
def log(tmp_path: Path) -> DiskLog:
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"o" * 1024)
    return DiskLog(root)


def test_what_is_synced_is_there_and_what_is_not_may_be_there_in_parts(
    log: DiskLog, tmp_path: Path
) -> None:
    files = RecordedFiles(log)
    with files.opened(log.root / "old", os.O_WRONLY) as file:
        files.write(file, b"a" * 512)
        files.sync(file)
        files.write_at(file, b"b" * 1024, 0)
    contents = {content for [(_, content)] in left(log, len(log.records), tmp_path / "left")}
    a, b, o = b"a" * 512, b"b" * 512, b"o" * 512
    assert contents == {a + o, b + o, a + b, b + b}
    before = {content for [(_, content)] in left(log, 1, tmp_path / "left")}
    assert before == {o + o, a + o}


def test_a_file_may_be_longer_without_what_was_written(log: DiskLog, tmp_path: Path) -> None:
    files = RecordedFiles(log)
    with files.opened(log.root / "old", os.O_WRONLY) as file:
        files.write_at(file, b"x", 1024)
    contents = {content for [(_, content)] in left(log, len(log.records), tmp_path / "left")}
    assert contents == {b"o" * 1024, b"o" * 1024 + b"x", b"o" * 1024 + b"\0"}


def test_a_new_name_is_sure_only_once_its_folder_is_synced(log: DiskLog, tmp_path: Path) -> None:
    files = RecordedFiles(log)
    with files.opened(log.root / "new", os.O_WRONLY | os.O_CREAT) as file:
        files.write(file, b"n")
        files.sync(file)
    files.sync_folder(log.root)
    files.rename(log.root / "new", log.root / "old")
    unsure, old, new = len(log.records), ("old", b"o" * 1024), ("new", b"n")
    files.sync_folder(log.root)
    assert left(log, unsure, tmp_path / "left") == {(new, old), (("old", b"n"),)}
    assert left(log, len(log.records), tmp_path / "left") == {(("old", b"n"),)}
    assert left(log, unsure - 2, tmp_path / "left") == {(old,), (new, old)}
    assert [r for r in log.records if r.kind == "move"] == [Record("move", 0, "old", "new", 2)]
