"""An embedder that knows patches keeps the contract, and one that misplaces them is caught."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.backends.embed.base import EmbedderOptions, PatchVectors, Window
from lookalike.backends.embed.drawn import dead_leaves
from lookalike.backends.testing.embed import EmbedderConformance
from lookalike.backends.types import RgbImage
from mosaic import Mosaic


class TestMosaic(EmbedderConformance):
    embedder_cls = Mosaic


class _Whole(Mosaic):
    """Believes that it sees the whole picture."""

    def patch_window(self, height: int, width: int) -> Window:
        return Window(0.0, 0.0, 1.0, 1.0)


class _Narrow(Mosaic):
    """Believes that it sees less than it does."""

    def patch_window(self, height: int, width: int) -> Window:
        return Window(0.4, 0.4, 0.2, 0.2)


class _Turned(Mosaic):
    """Gives columns for rows."""

    def embed_patches(self, batch: list[np.ndarray]) -> PatchVectors:  # type: ignore[override]
        return np.ascontiguousarray(super().embed_patches(batch).swapaxes(1, 2))


class _Long(Mosaic):
    """Does not bring vectors to length 1."""

    def embed_patches(self, batch: list[np.ndarray]) -> PatchVectors:  # type: ignore[override]
        return 2 * super().embed_patches(batch)


class _Depends(Mosaic):
    """Looks at the other pictures of the batch."""

    def embed_patches(self, batch: list[np.ndarray]) -> PatchVectors:  # type: ignore[override]
        made = super().embed_patches(batch) + 0.3 * super().embed_patches(batch).mean(axis=0)
        return np.asarray(made / np.linalg.norm(made, axis=-1, keepdims=True), np.float32)


@pytest.mark.parametrize(
    ("cheat", "claim"),
    [
        (_Whole, "test_what_changes_in_a_corner_changes_the_patches_of_that_corner"),
        (_Narrow, "test_what_is_outside_of_the_window_changes_no_patch"),
        (_Turned, "test_what_changes_in_a_corner_changes_the_patches_of_that_corner"),
        (_Long, "test_patches_are_finite_float32_rows_of_length_one"),
        (_Depends, "test_patches_of_a_batch_of_one_equal_those_of_a_batch_of_many"),
    ],
)
def test_the_suite_catches(cheat: type[Mosaic], claim: str) -> None:
    print("seed", EmbedderConformance.seed)
    rng = np.random.default_rng(EmbedderConformance.seed)
    # Far wider than high, so that half of the picture is not half of its middle square.
    pictures: list[RgbImage] = [dead_leaves(rng, 40, 240) for _ in range(6)]
    getattr(EmbedderConformance(), claim)(Mosaic.open(EmbedderOptions()), pictures)
    with pytest.raises(AssertionError):
        getattr(EmbedderConformance(), claim)(cheat.open(EmbedderOptions()), pictures)
