"""The cache of vectors by the hash of their picture: bounded, damaged, gone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lookalike.backends.files import Files, NoFiles
from lookalike.server.vector_cache import Known, VectorCache

DIM = 32
MEBI = 2**20


def known(number: int, dim: int = DIM) -> Known:
    vector = np.random.default_rng(number).normal(size=dim).astype(np.float32)
    return Known(vector, 640 + number, 480, "image/png")


def name(number: int) -> str:
    return f"{number:064x}"


def same(one: Known | None, other: Known) -> bool:
    if one is None:
        return False
    facts = (one.width, one.height, one.media_type)
    return facts == (other.width, other.height, other.media_type) and np.array_equal(
        one.vector, other.vector
    )


def opened(folder: Path, most: int = MEBI) -> VectorCache:
    return VectorCache(folder / "vectors", most, Files())


def files(folder: Path) -> list[Path]:
    return sorted((folder / "vectors").iterdir())


def test_what_was_added_is_found_again_after_the_next_start(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for number in range(100):
        cache.add("space", name(number), known(number))
    cache.close()
    cache = opened(tmp_path)
    assert all(same(cache.find("space", name(i)), known(i)) for i in range(100))
    assert cache.find("space", name(100)) is None


def test_a_file_is_known_in_its_own_space_only(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.add("one", name(1), known(1))
    cache.add("two", name(1), known(2, dim=8))
    assert same(cache.find("one", name(1)), known(1))
    assert same(cache.find("two", name(1)), known(2, dim=8))
    assert cache.find("three", name(1)) is None


def test_it_never_outgrows_its_bound(tmp_path: Path) -> None:
    most = 20_000
    cache = opened(tmp_path, most)
    for number in range(2000):
        cache.add("space", name(number), known(number))
        if number % 100 == 0:
            assert sum(path.stat().st_size for path in files(tmp_path)) <= most
    assert same(cache.find("space", name(1999)), known(1999))
    assert cache.find("space", name(0)) is None
    assert len(cache) > 40


def test_what_is_asked_for_stays_while_others_go(tmp_path: Path) -> None:
    cache = opened(tmp_path, 20_000)
    cache.add("space", name(0), known(0))
    for number in range(1, 1000):
        cache.add("space", name(number), known(number))
        if number % 20 == 0:
            assert same(cache.find("space", name(0)), known(0)), number


def test_a_lower_bound_holds_from_the_next_start(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for number in range(1000):
        cache.add("space", name(number), known(number))
    cache.close()
    opened(tmp_path, 20_000).add("space", name(1000), known(1000))
    opened(tmp_path, 20_000)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 20_000 + 180_000 // 2


def _cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def _flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(8):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _swap(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    middle = rng.randrange(len(data))
    path.write_bytes(data[middle:] + data[:middle])


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [_cut, _flip, _empty, _swap, _remove], ids=lambda f: f.__name__)
def test_damage_loses_vectors_and_never_changes_one(
    tmp_path: Path, harm: Callable[[Path, random.Random], None]
) -> None:
    seed = 20240901
    print(f"seed {seed}")
    rng = random.Random(seed)
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        cache = opened(folder)
        for number in range(50):
            cache.add("space", name(number), known(number))
        cache.close()
        harm(rng.choice(files(folder)), rng)
        cache = opened(folder)
        for number in range(50):
            found = cache.find("space", name(number))
            assert found is None or same(found, known(number))
            cache.add("space", name(number), known(number))
        assert all(same(cache.find("space", name(i)), known(i)) for i in range(50))
        cache.close()


def test_a_cache_of_no_bytes_keeps_nothing_and_clears_up(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.add("space", name(1), known(1))
    cache.close()
    cache = opened(tmp_path, 0)
    cache.add("space", name(1), known(1))
    assert cache.find("space", name(1)) is None
    assert not (tmp_path / "vectors").exists()


def test_a_folder_that_may_not_be_written_is_left_alone(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path / "vectors", MEBI, NoFiles())
    cache.add("space", name(1), known(1))
    assert cache.find("space", name(1)) is None
    assert not (tmp_path / "vectors").exists()


def test_a_full_disk_turns_it_off_and_fails_nobody(tmp_path: Path) -> None:
    reserve = 2**62  # more than any disk has
    cache = VectorCache(tmp_path / "vectors", MEBI, Files(reserve))
    cache.add("space", name(1), known(1))
    assert cache.find("space", name(1)) is None
    cache.close()


def test_files_of_others_in_its_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "README").write_text("mine")
    opened(tmp_path, 20_000).add("space", name(1), known(1))
    assert (tmp_path / "vectors" / "README").read_text() == "mine"
