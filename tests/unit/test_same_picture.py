from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from copied_pictures import CHANGES, Pixels, altered, things
from lookalike.server.images import decode, thumbnail
from lookalike.server.looks import Look
from lookalike.server.same_picture import Evidence, compare, is_same
from made_pictures import scene
from shared_data import shared

SEEDS = range(5)


def look(data: bytes) -> Look:
    return Look(decode(data, max_pixels=10**7).image)


def stored(pixels: Pixels) -> Look:
    """A picture as a collection keeps it."""
    return look(thumbnail(pixels))


@pytest.mark.parametrize("change", CHANGES)
def test_an_altered_copy_is_the_same_picture(change: str) -> None:
    for seed in SEEDS:
        print(f"seed {seed}")
        original = things(seed)
        copy = look(altered(original, change, seed))
        assert is_same(copy, stored(original))
        assert is_same(stored(original), copy)


def test_other_pictures_are_not_the_same() -> None:
    looks = [stored(things(seed)) for seed in SEEDS] + [stored(scene(seed)) for seed in SEEDS]
    for i, one in enumerate(looks):
        for other in looks[:i]:
            assert not is_same(one, other)


@pytest.mark.parametrize("moved", [4, 8, 16])
def test_the_same_things_photographed_again_are_another_picture(moved: float) -> None:
    for seed in SEEDS:
        print(f"seed {seed}")
        assert not is_same(stored(things(seed)), stored(things(seed, moved)))


def test_the_same_frame_makes_no_same_picture() -> None:
    def framed(seed: int) -> Look:
        pixels = np.full((300, 400, 3), (20, 40, 120), np.uint8)
        pixels[12:-12, 12:-12] = 255
        pixels[30:270, 40:360] = things(seed)
        return stored(pixels)

    assert is_same(framed(1), framed(1))
    assert is_same(framed(1), stored(things(1)))
    for seed in SEEDS:
        assert not is_same(framed(seed), framed(seed + 100))


def test_one_thing_on_an_even_ground_is_told_from_another() -> None:
    def on_white(seed: int) -> Look:
        pixels = np.full((240, 320, 3), 255, np.uint8)
        pixels[80:170, 100:220] = things(seed)[:90, :120]
        return stored(pixels)

    for seed in SEEDS:
        assert is_same(on_white(seed), on_white(seed))
        assert not is_same(on_white(seed), on_white(seed + 50))


def test_pictures_with_nothing_in_them_are_the_same_if_their_greys_are() -> None:
    grey, other = (Look(np.full((90, 120, 3), level, np.uint8)) for level in (128, 150))
    assert is_same(grey, Look(np.full((90, 120, 3), 130, np.uint8)))
    assert not is_same(grey, other)
    assert not is_same(grey, stored(things(1)))
    assert not is_same(stored(things(1)), grey)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (3, 2000), (2, 2), (40, 9)])
def test_pictures_of_any_shape_can_be_compared(shape: tuple[int, int]) -> None:
    print("seed 3")
    noise = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    odd, plain = Look(noise), stored(things(0))
    for one, other in ((odd, plain), (plain, odd)):
        assert not is_same(one, other)
    is_same(odd, odd)


def test_noise_is_like_itself_alone() -> None:
    print("seed 4")
    rng = np.random.default_rng(4)
    noises = [Look(rng.integers(0, 256, (200, 260, 3), dtype=np.uint8)) for _ in range(3)]
    assert is_same(noises[0], noises[0])
    assert not is_same(noises[0], noises[1])
    assert not is_same(noises[1], noises[2])


def test_a_repeated_pattern_does_not_take_the_place_of_a_picture() -> None:
    y, x = np.mgrid[0:240, 0:320]
    stripes = ((x // 10 % 2) * 200 + 20).astype(np.uint8)
    checks = (((x // 10 + y // 10) % 2) * 200 + 20).astype(np.uint8)
    striped, checked = (Look(np.repeat(p[..., None], 3, 2)) for p in (stripes, checks))
    assert not is_same(striped, checked)
    assert not is_same(checked, stored(things(2)))


def test_fewer_blocks_must_agree_better() -> None:
    assert Evidence(agreeing=24, textured=60, strength=0.42).same
    assert not Evidence(agreeing=7, textured=16, strength=0.42).same
    assert not Evidence(agreeing=5, textured=5, strength=1.0).same


def test_threads_do_not_change_the_answer() -> None:
    one, other = stored(things(7)), look(altered(things(7), "cropped", 7))
    wanted = compare(one, other)
    with ThreadPoolExecutor(4) as pool:
        again = pool.map(lambda _: compare(one, other), range(16))
        assert all(found == wanted for found in again)


@pytest.mark.shared
def test_photographs_are_the_same_as_their_copies_and_as_nothing_else() -> None:
    folder = shared("data/photos")
    files = [files[0] for kind in sorted(folder.iterdir()) if (files := sorted(kind.iterdir()))]
    originals = [decode(file.read_bytes(), max_pixels=10**7).image for file in files[::2]]
    promised = ("saved anew", "smaller", "cropped", "grey", "written on")
    kept = [stored(original) for original in originals]
    same = [
        is_same(look(altered(original, change, i)), kept[i])
        for i, original in enumerate(originals)
        for change in promised
    ]
    assert np.mean(same) >= 0.97
    hard = [sorted((folder / name).iterdir())[:12] for name in ("airplanes", "grocery_milk")]
    for kind in hard:
        looks = [look(file.read_bytes()) for file in kind]
        wrong = [is_same(one, other) for i, one in enumerate(looks) for other in looks[:i]]
        assert np.mean(wrong) <= 0.01
