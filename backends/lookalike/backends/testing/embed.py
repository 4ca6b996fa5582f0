"""What every embedder must do: subclass `EmbedderConformance` in a test file.

    class TestMine(EmbedderConformance):
        embedder_cls = MyEmbedder

One that needs a checkpoint overrides the fixture `options`; one that is made in
another way than by `open` overrides the fixture `embedder`. A claim that cannot
hold is not deleted but overridden with `@pytest.mark.xfail(reason=...)`.

Troubleshooting: every test says in its docstring what a failure usually means.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from lookalike.backends.embed.base import (
    Embedder,
    EmbedderOptions,
    PatchEmbedder,
    PatchVectors,
    TextEmbedder,
    Window,
)
from lookalike.backends.embed.drawn import dead_leaves
from lookalike.backends.types import RgbImage, Vectors

SAME = 0.99999
"""Cosine that two vectors of one picture reach at least."""


def cosines(left: Vectors, right: Vectors) -> Vectors:
    """Return (n,) cosines of the rows of two (n, dim) matrices."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    products = np.einsum("ij,ij->i", a, b)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(products / lengths, dtype=np.float32)


class EmbedderConformance:
    """The contract of `Embedder`, as tests. Subclasses name the class."""

    embedder_cls: ClassVar[type[Embedder]]
    seed: ClassVar[int] = 20240607

    @pytest.fixture
    def options(self) -> EmbedderOptions:
        return EmbedderOptions(device="cpu")

    @pytest.fixture
    def embedder(self, options: EmbedderOptions) -> Iterator[Embedder]:
        opened = self.embedder_cls.open(options)
        yield opened
        opened.close()

    @pytest.fixture
    def pictures(self) -> list[RgbImage]:
        sys.stdout.write(f"seed {self.seed}\n")
        rng = np.random.default_rng(self.seed)
        sizes = [(96, 128), (128, 96), (200, 300), (64, 64)] * 8
        return [dead_leaves(rng, height, width) for height, width in sizes]

    def test_vectors_are_finite_float32_rows_of_the_named_dimension(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: cast to float32 last, and find `dim` by embedding, not from a config."""
        vectors = embedder.embed_images(pictures[:5])
        assert vectors.shape == (5, embedder.dim)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        assert np.isfinite(vectors).all()
        assert (np.linalg.norm(vectors, axis=1) > 1e-6).all()

    def test_no_pictures_give_no_rows(self, embedder: Embedder) -> None:
        """Troubleshooting: `embed_images` answers this itself; do not override it."""
        assert embedder.embed_images([]).shape == (0, embedder.dim)

    def test_different_pictures_differ(self, embedder: Embedder, pictures: list[RgbImage]) -> None:
        """Troubleshooting: a constant vector means that weights or pixels are not used."""
        vectors = embedder.embed_images(pictures[:8])
        for row in range(1, 8):
            assert cosines(vectors[:1], vectors[row : row + 1])[0] < SAME

    def test_a_batch_of_one_equals_a_batch_of_many(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: batch normalisation in training mode, padding that is attended to."""
        together = embedder.embed_images(pictures)
        alone = np.concatenate([embedder.embed_images([picture]) for picture in pictures])
        assert cosines(together, alone).min() >= SAME

    def test_order_in_a_batch_is_kept(self, embedder: Embedder, pictures: list[RgbImage]) -> None:
        """Troubleshooting: sorting by size for speed must be undone at the end."""
        forward = embedder.embed_images(pictures[:6])
        backward = embedder.embed_images(pictures[:6][::-1])
        assert cosines(forward, backward[::-1]).min() >= SAME

    def test_preparing_on_eight_threads_equals_preparing_on_one(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: a scratch buffer on the instance is shared; make it per call."""
        alone = embedder.embed_prepared([embedder.prepare(picture) for picture in pictures])
        with ThreadPoolExecutor(8, "conformance") as pool:
            rounds = list(pool.map(embedder.prepare, pictures * 4))
        for start in range(0, len(rounds), len(pictures)):
            together = embedder.embed_prepared(rounds[start : start + len(pictures)])
            assert cosines(alone, together).min() >= SAME

    @pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (4000, 10), (2, 3), (7, 129)])
    @pytest.mark.parametrize("fill", ["noise", "black", "white"])
    def test_odd_pictures_have_vectors_too(
        self, embedder: Embedder, shape: tuple[int, int], fill: str
    ) -> None:
        """Troubleshooting: divide by a length or a deviation only after a look at zero."""
        rng = np.random.default_rng(self.seed)
        picture = {
            "noise": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            "black": np.zeros((*shape, 3), np.uint8),
            "white": np.full((*shape, 3), 255, np.uint8),
        }[fill]
        vector = embedder.embed_images([picture])
        assert vector.shape == (1, embedder.dim)
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) > 1e-6

    def test_the_picture_is_left_as_it_was(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: work on a copy; pictures may be read-only and shared."""
        picture = pictures[0].copy()
        picture.flags.writeable = False
        embedder.embed_images([picture])
        np.testing.assert_array_equal(picture, pictures[0])

    def test_opening_twice_gives_the_same_space_and_the_same_vectors(
        self, embedder: Embedder, options: EmbedderOptions, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: no clock, object id or unseeded number may enter either."""
        again = type(embedder).open(options)
        try:
            assert again.space == embedder.space != ""
            assert again.dim == embedder.dim > 0
            first, second = embedder.embed_images(pictures[:4]), again.embed_images(pictures[:4])
            assert cosines(first, second).min() >= SAME
        finally:
            again.close()

    def test_what_the_server_plans_with_is_set(self, embedder: Embedder) -> None:
        """Troubleshooting: set `device`, `decode_side` and `max_batch` in `open`."""
        assert embedder.device
        assert embedder.decode_side >= 0
        assert embedder.max_batch >= 1

    def test_texts_have_vectors_beside_the_pictures(self, embedder: Embedder) -> None:
        """Troubleshooting: report a text as truncated exactly when words of it were not read."""
        if not isinstance(embedder, TextEmbedder):
            pytest.skip("this embedder does not read texts")
        short, long = "a red bicycle", "a red bicycle " * 400
        found = embedder.embed_texts([short, long, short])
        assert found.vectors.shape == (3, embedder.dim)
        assert found.vectors.dtype == np.float32
        assert np.isfinite(found.vectors).all()
        assert found.truncated == [False, True, False]
        assert cosines(found.vectors[:1], found.vectors[2:])[0] >= SAME
        alone = embedder.embed_texts([short])
        assert cosines(found.vectors[:1], alone.vectors)[0] >= SAME

    def test_patches_are_finite_float32_rows_of_length_one(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: leave out the token of the whole picture, normalise in float32 last."""
        patches = _embed_patches(embedder, pictures[:5])
        count, rows, columns, dim = patches.shape
        assert count == 5
        assert rows * columns > 1
        assert dim > 0
        assert patches.dtype == np.float32
        assert patches.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(patches, axis=3), 1, atol=1e-4)
        assert _patches_of(embedder).patches_know_texts in (True, False)
        if _patches_of(embedder).patches_know_texts:
            assert isinstance(embedder, TextEmbedder)
            assert dim == embedder.dim

    def test_patches_of_a_batch_of_one_equal_those_of_a_batch_of_many(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: as for vectors; grids must also be in the order of the pictures."""
        together = _embed_patches(embedder, pictures[:6])
        for picture, grid in zip(pictures[:6], together, strict=True):
            [alone] = _embed_patches(embedder, [picture])
            dim = grid.shape[-1]
            assert cosines(grid.reshape(-1, dim), alone.reshape(-1, dim)).min() >= SAME

    @pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (4000, 10), (7, 129), (96, 128)])
    def test_windows_of_patches_lie_inside_the_picture(
        self, embedder: Embedder, shape: tuple[int, int]
    ) -> None:
        """Troubleshooting: fractions of the upright picture as `prepare` gets it, not pixels."""
        window = _patches_of(embedder).patch_window(*shape)
        assert isinstance(window, Window)
        for start, side in ((window.left, window.width), (window.top, window.height)):
            assert -1e-9 <= start < start + side <= 1 + 1e-9

    def test_what_is_outside_of_the_window_changes_no_patch(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: the window is too small, or at the wrong place."""
        for picture in pictures[:3]:
            rows, columns = _inside(_patches_of(embedder), picture, margin=0.05)
            changed = 255 - picture
            changed[rows, columns] = picture[rows, columns]
            before, after = _embed_patches(embedder, [picture, changed])
            dim = before.shape[-1]
            assert cosines(before.reshape(-1, dim), after.reshape(-1, dim)).min() >= SAME

    def test_what_changes_in_a_corner_changes_the_patches_of_that_corner(
        self, embedder: Embedder, pictures: list[RgbImage]
    ) -> None:
        """Troubleshooting: the window is too large, or columns come before rows."""
        for picture in pictures[:3]:
            for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
                changed = picture.copy()
                rows, columns = _inside(_patches_of(embedder), picture)
                corner = _end(rows, down, 4), _end(columns, right, 4)
                changed[corner] = 255 - changed[corner]
                before, after = _embed_patches(embedder, [picture, changed])
                moved = 1 - (before * after).sum(axis=2)
                assert moved.max() > 1e-3
                height, width = (slice(0, side) for side in moved.shape)
                sums = {
                    (d, r): moved[_end(height, d, 2), _end(width, r, 2)].sum()
                    for d in (0, 1)
                    for r in (0, 1)
                }
                assert max(sums, key=lambda corner: sums[corner]) == (down, right)

    def test_no_claim_is_overridden_without_a_reason(self) -> None:
        """Troubleshooting: mark the override with `@pytest.mark.xfail(reason="...")`."""
        for name, claim in vars(EmbedderConformance).items():
            own = getattr(type(self), name)
            if name.startswith("test_") and own is not claim:
                marks = [mark for mark in getattr(own, "pytestmark", []) if mark.name == "xfail"]
                assert any(mark.kwargs.get("reason") for mark in marks), (
                    f"{name} is overridden without xfail(reason=...)"
                )


def _patches_of(embedder: Embedder) -> PatchEmbedder:
    if not isinstance(embedder, PatchEmbedder):
        pytest.skip("this embedder has no patches")
    return embedder


def _embed_patches(embedder: Embedder, pictures: list[RgbImage]) -> PatchVectors:
    seer = _patches_of(embedder)
    return seer.embed_patches([seer.prepare(picture) for picture in pictures])


def _inside(embedder: PatchEmbedder, picture: RgbImage, margin: float = 0.0) -> tuple[slice, slice]:
    """Return the rows and columns of the window; a margin, for resizing looks at neighbours."""
    height, width = picture.shape[:2]
    window = embedder.patch_window(height, width)
    sides = []
    for start, side, pixels in (
        (window.top, window.height, height),
        (window.left, window.width, width),
    ):
        first, last = (start - margin) * pixels, (start + side + margin) * pixels
        sides.append(slice(max(0, int(first)), min(pixels, int(np.ceil(last)))))
    return sides[0], sides[1]


def _end(whole: slice, last: int, parts: int) -> slice:
    """Return the first or the last of equal parts."""
    length = -(-(whole.stop - whole.start) // parts)
    return (
        slice(whole.stop - length, whole.stop) if last else slice(whole.start, whole.start + length)
    )
