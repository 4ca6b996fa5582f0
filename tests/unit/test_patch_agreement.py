"""Patches that agree become boxes and heat, each in its place in the whole picture.

Troubleshooting: grids are random and named by their seed, which a failing test prints.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.backends.embed.base import Window
from lookalike.server.agreement import heat_shape
from lookalike.server.domain import Region
from lookalike.server.patch_agreement import Patches, agree_in_patches

WHOLE = Window(0.0, 0.0, 1.0, 1.0)
SQUARE = (240, 240)


def grid(
    rng: np.random.Generator, rows: int, columns: int, common: float = 0.0
) -> NDArray[np.float32]:
    """Return unrelated patches of 64 numbers that have a part in common."""
    made = rng.standard_normal((rows, columns, 64)) + common
    return np.asarray(made / np.linalg.norm(made, axis=-1, keepdims=True), np.float32)


def seeded(seed: int) -> np.random.Generator:
    print("seed", seed)
    return np.random.default_rng(seed)


def near(one: Region, other: Region) -> bool:
    return np.allclose(
        [one.left, one.top, one.width, one.height],
        [other.left, other.top, other.width, other.height],
        atol=1e-6,
    )


@pytest.mark.parametrize("common", [0.0, 1.0, 3.0])
def test_a_planted_block_is_the_first_match_whatever_all_patches_have_in_common(
    common: float,
) -> None:
    rng = seeded(1)
    here, there = grid(rng, 8, 8, common), grid(rng, 10, 6, common)
    here[1:5, 3:8] = there[6:10, 0:5]
    found = agree_in_patches(Patches(here, WHOLE, SQUARE), Patches(there, WHOLE, SQUARE))
    match = found.matches[0]
    assert near(match.query_region, Region(3 / 8, 1 / 8, 5 / 8, 4 / 8))
    assert near(match.item_region, Region(0.0, 0.6, 5 / 6, 0.4))
    assert match.strength > 0.8
    inside = found.query_map.reshape(8, 2, 8, 2)[1:5, :, 3:8]
    assert inside.min() > 0.99
    assert found.query_map.mean() < 0.7


def test_two_blocks_at_other_places_are_two_matches() -> None:
    rng = seeded(2)
    here, there = grid(rng, 12, 12), grid(rng, 12, 12)
    here[0:4, 0:4], here[8:12, 6:12] = there[8:12, 8:12], there[0:4, 0:6]
    found = agree_in_patches(Patches(here, WHOLE, SQUARE), Patches(there, WHOLE, SQUARE))
    first, second = found.matches[:2]
    assert near(first.query_region, Region(6 / 12, 8 / 12, 6 / 12, 4 / 12))
    assert near(first.item_region, Region(0, 0, 6 / 12, 4 / 12))
    assert near(second.query_region, Region(0, 0, 4 / 12, 4 / 12))
    assert near(second.item_region, Region(8 / 12, 8 / 12, 4 / 12, 4 / 12))


def test_equal_pictures_agree_all_over() -> None:
    one = Patches(grid(seeded(3), 7, 7), WHOLE, SQUARE)
    found = agree_in_patches(one, one)
    [match] = found.matches
    assert near(match.query_region, Region(0, 0, 1, 1))
    assert near(match.item_region, Region(0, 0, 1, 1))
    assert match.strength > 0.9
    assert found.query_map.min() > 0.99


def test_unlike_pictures_agree_far_less() -> None:
    rng = seeded(4)
    strongest = []
    for _ in range(20):
        pair = [Patches(grid(rng, 8, 8, 0.5), WHOLE, SQUARE) for _ in "ab"]
        matches = agree_in_patches(*pair).matches
        strongest.append(matches[0].strength if matches else 0.0)
    assert max(strongest) < 0.3, strongest


def test_pictures_of_one_colour_have_nothing_to_tell() -> None:
    flat = Patches(np.full((4, 4, 16), 0.25, np.float32), WHOLE, SQUARE)
    found = agree_in_patches(flat, flat)
    assert found.matches == ()
    assert not found.query_map.any()


def test_boxes_and_heat_lie_where_the_window_lies_in_the_picture() -> None:
    rng = seeded(5)
    here, there = grid(rng, 4, 4), grid(rng, 4, 4)
    here[2:4, 0:3] = there[0:2, 1:4]
    middle = Window(0.25, 0.0, 0.5, 1.0)  # of a picture twice as wide as high
    upper = Window(0.0, 0.3, 1.0, 0.4)
    found = agree_in_patches(Patches(here, middle, (200, 400)), Patches(there, upper, (500, 200)))
    match = found.matches[0]
    assert near(match.query_region, Region(0.25, 0.5, 0.375, 0.5))
    assert near(match.item_region, Region(0.25, 0.3, 0.75, 0.2))
    assert found.query_map.shape == heat_shape(200, 400) == (8, 16)
    assert not found.query_map[:, :4].any()
    assert not found.query_map[:, 12:].any()
    assert (found.query_map[4:, 4:10] > 0.99).all()
    assert found.item_map.shape == heat_shape(500, 200) == (16, 6)
    assert not found.item_map[:4].any()
    assert not found.item_map[12:].any()
    assert found.item_map[5:7, 2:].min() > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (37, 37)])
def test_grids_of_any_shape_can_be_compared(shape: tuple[int, int]) -> None:
    rng = seeded(6)
    sides = [Patches(grid(rng, *shape), Window(0.3, 0.1, 0.7, 0.9), (7, 3000)) for _ in "ab"]
    other = Patches(grid(rng, 5, 3), WHOLE, (64, 64))
    for one, two in ((sides[0], sides[1]), (sides[0], sides[0]), (sides[0], other)):
        found = agree_in_patches(one, two)
        assert len(found.matches) <= 16
        strengths = [match.strength for match in found.matches]
        assert strengths == sorted(strengths, reverse=True)
        assert max(found.query_map.shape) <= 16
        assert 0 <= found.query_map.min() <= found.query_map.max() <= 1
        for match in found.matches:
            assert 0 < match.strength <= 1
            for region in (match.query_region, match.item_region):
                assert region.width > 0 < region.height
                assert 0 <= region.left < region.left + region.width <= 1
                assert 0 <= region.top < region.top + region.height <= 1
