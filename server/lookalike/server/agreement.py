"""Which parts of two pictures agree: windows of gradients, matched and put to the vote.

1. Windows of a fifth of the longer side, on a grid, each described by 4 x 4 histograms
   of 8 gradient directions (Lowe, IJCV 2004, without its key points), of the one
   picture at one scale and of the other at nine.
2. Each window of the first finds its best of the other at every scale, and these vote
   for scale and offset (Ballard's generalised Hough transform, 1981).
3. Windows that agree with the winner make a pair of regions; then the rest votes again.

The same thing in both pictures is found whatever stands around it, up to half or
double the size. Two things that are only of a kind seldom agree in their gradients.
Smooth areas have nothing to compare. What is turned or mirrored is not recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.types import RgbImage
from lookalike.server.domain import Region
from lookalike.server.looks import Grey, sample

Heat: TypeAlias = NDArray[np.float32]
"""(rows, columns) float32, 0 to 1."""
_Points: TypeAlias = NDArray[np.float64]

MOST_CELLS = 16
"""Cells of a heat map along the longer side."""
MOST_MATCHES = 16

_SIDE = 160
"""Longer side of the first picture, and of the second at scale 1, in pixels."""
_CELL = 4
"""Side of the cells that gradients are summed in."""
_WINDOW = 8 * _CELL
_STRIDE = 2
"""Cells from a window of the first picture to the next; of the second, each is looked at."""
_SCALES = tuple(2 ** (step / 4) for step in range(-4, 5))
_DIRECTIONS = 8
_FLAT = 2.5
"""Mean slope, in grey levels a pixel, below which a window shows nothing."""
_ALIKE = 0.55
"""Least correlation of two windows that may be the same."""
_BIN, _NEAR = 8.0, 12.0
"""Pixels of a cell of the vote, and by which those who agree may differ at first."""
_EXACT = 6.0
"""And when scale and offset have been fitted."""
_LEAST = 4
"""Windows that make a region."""
_CHANCE, _MANY = 0.6, 6
"""Likeness that is worth nothing, and windows that make half of the strength there can be:
of pictures that have nothing in common, 95 % stay below 0.2."""
WEAKEST = 0.1
"""Strength of a match that is worth mentioning."""
_WHOLE = 0.55
"""Of the windows that show something where the other picture lies, so large a part must
agree for all of it to be the region."""
_LONELY = 0.3
"""What a likeness counts for in the heat map if its place fits no region."""


@dataclass(frozen=True, slots=True)
class RegionMatch:
    """Two regions that agree; `strength` 0 to 1."""

    query_region: Region
    item_region: Region
    strength: float


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """What two pictures have in common."""

    matches: tuple[RegionMatch, ...]
    """The strongest first, at most 16."""
    query_map: Heat
    item_map: Heat


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """Windows of a picture at one scale: n that show something."""

    at: _Points
    """(n, 2) middles: down and right, in pixels of the picture at scale 1."""
    described: Grey
    """(n, 128), mean 0, length 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Windows of the first picture with windows of the second that may be the same."""

    row: NDArray[np.int64]
    """Window of the first."""
    step: NDArray[np.int64]
    """Index of the scale."""
    here: _Points
    there: _Points
    likeness: NDArray[np.float64]

    def only(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> _Pairs:
        return _Pairs(*(getattr(self, name)[which] for name in self.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class _Placement:
    """How the second picture lies on the first: here = scale * there + offset."""

    scale: float
    offset: _Points
    pairs: _Pairs
    """Those who agree, one for each window."""


def agree(query: RgbImage, item: RgbImage) -> Agreement:
    """Compare two pictures of any size; some 100 ms and 20 MB. Any thread."""
    frame, other_frame = _shape(query), _shape(item)
    first = _windows(_resized(_grey(query), frame), 1.0, _STRIDE)
    pairs = _pairs(first, _grey(item), other_frame)
    found = list(_placements(pairs, other_frame))
    matches = [_match(one, first, frame, other_frame) for one in found]
    matches = [match for match in matches if match.strength >= WEAKEST]
    matches.sort(key=lambda match: -match.strength)
    return Agreement(
        tuple(matches[:MOST_MATCHES]),
        *_maps(pairs, [one.pairs for one in found], frame, other_frame),
    )


def heat_shape(height: float, width: float) -> tuple[int, int]:
    """Return rows and columns of the heat map of a picture."""
    longer = max(height, width)
    rows, columns = (max(1, round(MOST_CELLS * n / longer)) for n in (height, width))
    return rows, columns


# ------------------------------------------------------------------- windows


def _shape(image: RgbImage) -> tuple[int, int]:
    height, width = image.shape[:2]
    scale = _SIDE / max(height, width)
    return max(_WINDOW, round(height * scale)), max(_WINDOW, round(width * scale))


def _grey(image: RgbImage) -> Grey:
    """Return the picture in grey, at most twice as large as the largest scale needs."""
    stride = max(1, max(image.shape[:2]) // (4 * _SIDE))
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    grey: Grey = (image[::stride, ::stride] @ luma).astype(np.float32, copy=False)
    return grey


def _resized(grey: Grey, shape: tuple[int, int]) -> Grey:
    return sample(grey, (0.0, 0.0, float(grey.shape[0]), float(grey.shape[1])), shape)


def _windows(grey: Grey, scale: float, stride: int) -> _Windows:
    """Describe the windows of a grey picture that shows the whole at `scale`."""
    sums = _histograms(grey)
    views = np.lib.stride_tricks.sliding_window_view(sums, (7, 7), axis=(0, 1))
    views = views[::stride, ::stride, :, ::2, ::2]
    rows, columns = views.shape[:2]
    raw = views.reshape(rows * columns, -1)
    down, right = np.divmod(np.arange(rows * columns), columns)
    middles = (np.stack([down, right], axis=1) * stride * _CELL + _WINDOW / 2) / scale
    # Each pixel of a window is in up to four of its histograms' cells, in one on average.
    shows = raw.sum(axis=1) > _FLAT * _WINDOW * _WINDOW
    described = raw[shows]
    described = described / np.linalg.norm(described, axis=1, keepdims=True)
    described = np.minimum(described, np.float32(0.2))
    described -= described.mean(axis=1, keepdims=True)
    described /= np.maximum(np.linalg.norm(described, axis=1, keepdims=True), np.float32(1e-6))
    return _Windows(middles[shows], described)


def _histograms(grey: Grey) -> Grey:
    """Return (rows, columns, 8): slopes by direction, summed over squares of two cells."""
    down, right = np.gradient(grey)
    size = np.hypot(down, right)
    turn = np.arctan2(down, right) * np.float32(_DIRECTIONS / (2 * np.pi)) % _DIRECTIONS
    low = turn.astype(np.int64)  # may be 8 by rounding, which is 0
    share = turn - low
    rows, columns = grey.shape[0] // _CELL, grey.shape[1] // _CELL
    inside = np.s_[: rows * _CELL, : columns * _CELL]
    cell = np.add.outer(
        np.arange(rows * _CELL) // _CELL * columns, np.arange(columns * _CELL) // _CELL
    )
    sums = np.zeros(rows * columns * _DIRECTIONS)
    for direction, part in ((low, 1 - share), (low + 1, share)):
        at = cell * _DIRECTIONS + direction[inside] % _DIRECTIONS
        sums += np.bincount(at.ravel(), (part * size)[inside].ravel(), len(sums))
    cells = sums.astype(np.float32).reshape(rows, columns, _DIRECTIONS)
    squares: Grey = cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]
    return squares


def _pairs(first: _Windows, other: Grey, frame: tuple[int, int]) -> _Pairs:
    """Find for each window the best of the other picture at each scale."""
    parts = []
    for step, scale in enumerate(_SCALES):
        shape = round(frame[0] * scale), round(frame[1] * scale)
        if min(shape) < _WINDOW or not len(first.at):
            continue
        second = _windows(_resized(other, shape), scale, 1)
        if not len(second.at):
            continue
        likeness = first.described @ second.described.T
        best = likeness.argmax(axis=1)
        rows = np.arange(len(best))
        parts.append(
            (rows, np.full(len(best), step), first.at, second.at[best], likeness[rows, best])
        )
    if not parts:
        none = np.zeros(0, np.int64)
        return _Pairs(none, none, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
    return _Pairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


# -------------------------------------------------------------------- voting


def _placements(pairs: _Pairs, frame: tuple[int, int]) -> Iterator[_Placement]:
    """Yield placements by votes; windows that found their place do not vote again."""
    left = pairs.only(pairs.likeness > _ALIKE)
    middle = np.array(frame) / 2
    for _ in range(MOST_MATCHES):
        if len(left.row) < _LEAST:
            return
        found = _fitted(left, middle)
        if found is None:
            return
        yield found
        left = left.only(~np.isin(left.row, found.pairs.row))


def _fitted(pairs: _Pairs, middle: _Points) -> _Placement | None:
    """Return the placement with the most votes, fitted to those who agree."""
    scales = np.array(_SCALES)[pairs.step]
    # Where the middle of the other picture comes to lie: there, a wrong scale shifts least.
    places = pairs.here - scales[:, np.newaxis] * (pairs.there - middle)
    step, place = _winner(pairs, places)
    close = (np.abs(pairs.step - step) <= 1) & (np.abs(places - place).max(axis=1) <= _NEAR)
    chosen = _one_each(pairs.only(close))
    if len(chosen.row) < _LEAST:
        return None
    scale, offset = _fit(chosen)
    error = np.abs(pairs.here - scale * pairs.there - offset).max(axis=1)
    exact = (error <= _EXACT) & (np.abs(pairs.step - step) <= 1)
    chosen = _one_each(pairs.only(exact))
    if len(chosen.row) < _LEAST:
        return None
    return _Placement(*_fit(chosen), chosen)


def _winner(pairs: _Pairs, places: _Points) -> tuple[int, _Points]:
    """Return the scale's index and the place that get the most votes."""
    low = places.min(axis=0)
    bins = ((places - low) / _BIN).astype(np.int64)
    votes = np.zeros((len(_SCALES) + 2, *(bins.max(axis=0) + 3)))
    np.add.at(votes, (pairs.step + 1, bins[:, 0] + 1, bins[:, 1] + 1), pairs.likeness - _ALIKE / 2)
    for axis in range(3):  # neighbours count, so that no edge of a bin divides a crowd
        votes = votes + np.roll(votes, 1, axis) + np.roll(votes, -1, axis)
    step, down, right = np.unravel_index(int(votes.argmax()), votes.shape)
    return int(step) - 1, low + (np.array([down, right]) - 0.5) * _BIN


def _one_each(pairs: _Pairs) -> _Pairs:
    """Keep the likeliest pair of each window."""
    order = np.lexsort((-pairs.likeness, pairs.row))
    _, first = np.unique(pairs.row[order], return_index=True)
    return pairs.only(order[first])


def _fit(pairs: _Pairs) -> tuple[float, _Points]:
    """Fit here = scale * there + offset by weighted least squares."""
    weight = pairs.likeness[:, np.newaxis] / pairs.likeness.sum()
    here, there = (weight * pairs.here).sum(axis=0), (weight * pairs.there).sum(axis=0)
    spread = float((weight * (pairs.there - there) ** 2).sum())
    # Windows that lie together tell little of the scale; that of their votes holds it.
    voted = float((weight[:, 0] * np.array(_SCALES)[pairs.step]).sum())
    held = (_WINDOW / 2) ** 2
    shared = float((weight * (pairs.there - there) * (pairs.here - here)).sum())
    scale = (shared + held * voted) / (spread + held)
    return scale, here - scale * there


# ------------------------------------------------------------------- answers


def _match(
    one: _Placement, first: _Windows, frame: tuple[int, int], other_frame: tuple[int, int]
) -> RegionMatch:
    """Return the regions of a placement and how well they agree."""
    half = _WINDOW / 2
    start, stop = one.pairs.here.min(axis=0) - half, one.pairs.here.max(axis=0) + half
    low = np.maximum(one.offset, 0)
    high = np.minimum(one.offset + one.scale * np.array(other_frame), frame)
    inside = ((first.at - half >= low - 2) & (first.at + half <= high + 2)).all(axis=1)
    count = len(one.pairs.row)
    if count >= _WHOLE * max(int(inside.sum()), 1) and (high - low > _WINDOW).all():
        start, stop = low, high  # what is smooth in it cannot tell
    there, there_stop = (start - one.offset) / one.scale, (stop - one.offset) / one.scale
    beyond = (float(one.pairs.likeness.mean()) - _CHANCE) / (1 - _CHANCE)
    strength = max(0.0, beyond) * count / (count + _MANY)
    return RegionMatch(
        _region(start, stop, frame), _region(there, there_stop, other_frame), min(strength, 1.0)
    )


def _region(start: _Points, stop: _Points, frame: tuple[int, int]) -> Region:
    low = np.clip(start / frame, 0, 1 - 1e-3)
    high = np.clip(stop / frame, low + 1e-3, 1)
    (top, left), (height, width) = low.tolist(), (high - low).tolist()
    return Region(left, top, width, height)


def _maps(
    pairs: _Pairs, placed: list[_Pairs], frame: tuple[int, int], other_frame: tuple[int, int]
) -> tuple[Heat, Heat]:
    """Return the heat maps of both pictures."""
    lonely = _one_each(pairs) if len(pairs.row) else pairs
    heats = []
    for name, shape in (("here", frame), ("there", other_frame)):
        heat = np.zeros(heat_shape(*shape), np.float32)
        for found, worth in ((lonely, _LONELY), *((one, 1.0) for one in placed)):
            _heat_up(heat, getattr(found, name), found.likeness * worth, shape)
        heats.append(heat)
    return heats[0], heats[1]


def _heat_up(heat: Heat, at: _Points, values: NDArray[np.float64], frame: tuple[int, int]) -> None:
    """Raise the cells in the inner half of each window to its value."""
    cells = np.array(heat.shape)
    low = np.floor((at - _WINDOW / 4) / frame * cells + 0.5).astype(int)
    high = np.ceil((at + _WINDOW / 4) / frame * cells - 0.5).astype(int)
    for (top, left), (bottom, right), value in zip(
        low, np.maximum(high, low + 1), values, strict=True
    ):
        part = heat[max(top, 0) : bottom, max(left, 0) : right]
        np.maximum(part, np.float32(np.clip(value, 0, 1)), out=part)
