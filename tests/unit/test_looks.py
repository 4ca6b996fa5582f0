from __future__ import annotations

import numpy as np
import pytest

from copied_pictures import things
from lookalike.server.looks import PAD, RATIO, STEPS, Grey, Look, blur, sample


def noise(height: int, width: int) -> Grey:
    print("seed 11")
    values = np.random.default_rng(11).normal(0, 50, (height, width))
    return values.astype(np.float32)


def plainly_sampled(lines: np.ndarray, start: float, stop: float, count: int) -> np.ndarray:
    """Resample rows as the definition says: a triangle about each new row's centre."""
    scale = (stop - start) / count
    rows = []
    for i in range(count):
        centre = min(max(start + (i + 0.5) * scale - 0.5, 0), len(lines) - 1)
        away = np.abs(np.arange(len(lines)) - centre) / max(scale, 1.0)
        weights = np.maximum(1 - away, 0)
        rows.append(weights @ lines / weights.sum())
    return np.array(rows)


@pytest.mark.parametrize(
    ("shape", "box", "wanted"),
    [
        ((48, 64), (0, 0, 48, 64), (16, 24)),
        ((48, 64), (0, 0, 48, 64), (96, 128)),
        ((48, 64), (3.3, 7.9, 41.2, 60.5), (16, 24)),
        ((48, 64), (3.3, 7.9, 11.2, 20.5), (64, 40)),
        ((48, 64), (-5.5, -3.0, 60.0, 70.5), (30, 30)),
        ((1, 64), (0, 0, 1, 64), (8, 8)),
        ((3, 700), (0, 0, 3, 700), (8, 160)),
    ],
)
def test_a_box_is_resampled_by_triangles(
    shape: tuple[int, int], box: tuple[float, float, float, float], wanted: tuple[int, int]
) -> None:
    grey = noise(*shape)
    down = plainly_sampled(grey.astype(np.float64), box[0], box[2], wanted[0])
    both = plainly_sampled(down.T, box[1], box[3], wanted[1]).T
    sampled = sample(grey, box, wanted)
    assert sampled.dtype == np.float32
    assert sampled.shape == wanted
    np.testing.assert_allclose(sampled, both, atol=5e-3)


@pytest.mark.parametrize("radius", [1, 3, 6])
@pytest.mark.parametrize("shape", [(32, 48), (5, 30), (1, 7)])
def test_a_blur_is_the_mean_of_a_square(shape: tuple[int, int], radius: int) -> None:
    grey = noise(*shape)
    padded = np.pad(grey.astype(np.float64), radius, mode="edge")
    squares = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1,) * 2)
    np.testing.assert_allclose(blur(grey, radius), squares.mean(axis=(2, 3)), atol=1e-3)


def test_transforms_are_of_the_picture_made_small() -> None:
    look = Look(things(5))
    spectra, shapes = look.scaled
    plain, shape = look.plain
    assert shapes[STEPS] == shape
    np.testing.assert_allclose(spectra[STEPS], np.conj(plain[0]), atol=1e-4)
    half = sample(look.grey, look.box, (look.grey.shape[0] // 2, look.grey.shape[1] // 2))
    for i, (transform, (height, width)) in enumerate(zip(spectra, shapes, strict=True)):
        assert height == pytest.approx(shape[0] * RATIO ** (i - STEPS), abs=1)
        small = sample(half, (0, 0, *half.shape), (height, width))
        away = small - blur(small, 3)
        wanted = away / np.sqrt(blur(away * away, 3) + 25)
        found = np.fft.irfft2(np.conj(transform), s=(PAD, PAD), norm="ortho")
        np.testing.assert_allclose(found[:height, :width], wanted, atol=1e-3)
        assert np.abs(found[height:]).max(initial=0) < 1e-3
        assert np.abs(found[:, width:]).max(initial=0) < 1e-3
