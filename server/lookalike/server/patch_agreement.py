"""Which parts of two pictures agree: what a model sees in their patches, compared.

1. Each patch of the one finds its best of the other, by cosine. What all patches have in
   common is taken off: 0 is as like as any two patches of the two are on average, 1 is equal.
2. Where that divides into likely and unlikely (Otsu, IEEE Trans. SMC 9/1, 1979) is what
   chance gives: models differ a lot in how like they find patches of unlike things.
3. The box over the patches that are likest, counting what is below chance against it: the
   rectangle of the largest sum (Lampert, Blaschko & Hofmann, CVPR 2008, by the method of
   Bentley, CACM 27/9, 1984), in the query; then in the item, over the best for that box;
   and once more in the query, over the best for the item's.
4. The patches of that box are done with; the rest begins anew.

What is of a kind is found, however it is turned, lit or drawn, as far as the model
takes it for the same. Boxes are as fine as the patches, and nothing is said about what
the model does not see, which for many is all but the middle square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.backends.embed.base import Window
from lookalike.server.agreement import (
    MOST_MATCHES,
    WEAKEST,
    Agreement,
    Heat,
    RegionMatch,
    heat_shape,
)
from lookalike.server.domain import Region, Vector
from lookalike.server.embed_queue import PatchGrid

_Grid: TypeAlias = NDArray[np.float32]
_Box: TypeAlias = tuple[slice, slice]
"""Rows and columns of a grid."""

_CHANCE = (0.2, 0.9)
"""Least and most likeness that may be chance: unlike pictures have no likely patches, equal
ones no unlikely ones. Of 150 collages of photographs, seen by two layers of MobileNetV2 in
7 x 7 and in 14 x 14 patches, 89 to 95 % of the first boxes were right (IoU above 0.5). With
0.3 for all they were 86 to 96 %, but everything was likely to a model of random weights.
Taking off the mean patch of each picture, or of both, put the planted patches before the
others less often (AUC 0.74 to 0.92) than taking off the mean likeness (0.87 to 0.95)."""
_MANY = 4
"""Patches that make half of the strength there can be."""
_ALL_ALIKE = 1e-3
"""Less than this from the average to equal: there is nothing to tell apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """The patches of a picture, and where they lie in it."""

    vectors: PatchGrid
    window: Window
    shape: tuple[int, int]
    """Height and width of the picture, px: the shape of its heat map."""

    @property
    def grid(self) -> tuple[int, int]:
        return self.vectors.shape[0], self.vectors.shape[1]

    @property
    def rows(self) -> NDArray[np.float32]:
        """(n, d), one for each patch."""
        return self.vectors.reshape(-1, self.vectors.shape[2])


def agree_in_patches(query: Patches, item: Patches) -> Agreement:
    """Compare two pictures by their patches; 0.2 ms for 49 each, 40 ms for 1369. Any thread."""
    alike = query.rows @ item.rows.T
    common = float(alike.mean())
    scale = 1 - common
    alike = (alike - common) / scale if scale > _ALL_ALIKE else np.zeros_like(alike)
    here, there = alike.max(axis=1), alike.max(axis=0)
    chance = _chance(np.concatenate([here, there]))
    beyond = (alike - chance) / (1 - chance)
    matches = sorted(_matches(beyond, query, item), key=lambda match: -match.strength)
    heats = _heat(here.reshape(query.grid), query), _heat(there.reshape(item.grid), item)
    return Agreement(tuple(matches[:MOST_MATCHES]), *heats)


def place_text(text: Vector, item: Patches) -> Agreement:
    """Say where in a picture a text is, by its (d,) vector; the query has no map. Any thread.

    Texts are nowhere near patches, and how near depends on the text: so all is relative,
    0 is as like as patches are on average, and 1 the likeliest. Something is always that.
    """
    alike = item.rows @ (text / np.linalg.norm(text))
    above = alike - alike.mean()
    best = float(above.max())
    relative = (above / best if best > _ALL_ALIKE else np.zeros_like(above)).reshape(item.grid)
    chance = _chance(relative.ravel())
    box = _densest((relative - chance) / (1 - chance))
    matches = []
    if box is not None:
        strength = min(1.0, max(0.0, float(relative[box].mean())))
        matches.append(RegionMatch(Region(0.0, 0.0, 1.0, 1.0), _region(box, item), strength))
    return Agreement(tuple(matches), np.zeros((0, 0), np.float32), _heat(relative, item))


def _chance(best: NDArray[np.float32]) -> float:
    """Return the value that divides the best likenesses into two groups, within bounds."""
    ordered = np.sort(best).astype(np.float64)
    below = np.arange(1, len(ordered))
    above = len(ordered) - below
    sums = ordered.cumsum()
    apart = (sums[-1] - sums[:-1]) / above - sums[:-1] / below
    at = int((below * above * apart**2).argmax())
    return float(np.clip((ordered[at] + ordered[at + 1]) / 2, *_CHANCE))


def _matches(beyond: _Grid, query: Patches, item: Patches) -> Iterator[RegionMatch]:
    """Yield the boxes that agree, the largest sums first.

    `beyond` is (patches of the query, of the item): 0 is chance, 1 is equal.
    """
    there = beyond.reshape(*query.grid, *item.grid)
    best = there.max(axis=(2, 3))
    free = np.ones(query.grid, np.bool_)
    for _ in range(MOST_MATCHES):
        here = _densest(np.where(free, best, -1))
        if here is None:
            return
        other = _densest(there[here].max(axis=(0, 1)))
        if other is not None:
            again = _densest(np.where(free, there[(..., *other)].max(axis=(2, 3)), -1))
            here = again or here
            strength = _strength(there[here][(..., *other)])
            if strength >= WEAKEST:
                yield RegionMatch(_region(here, query), _region(other, item), strength)
        free[here] = False


def _strength(beyond: _Grid) -> float:
    """Return how well the boxes agree, each patch of the one with its best of the other."""
    best = beyond.max(axis=(2, 3))
    share: float = best.size / (best.size + _MANY)
    return min(1.0, max(0.0, float(best.mean()))) * share


def _densest(beyond: _Grid) -> _Box | None:
    """Return the rectangle with the largest sum, None if nothing is above 0."""
    rows, columns = beyond.shape
    sums = np.zeros((rows + 1, columns + 1))
    sums[1:, 1:] = beyond.astype(np.float64).cumsum(axis=0).cumsum(axis=1)
    top, bottom = np.triu_indices(rows + 1, 1)
    upto = sums[bottom] - sums[top]  # of each band of rows: what lies left of each column
    least = np.minimum.accumulate(upto[:, :-1], axis=1)
    gains = upto[:, 1:] - least
    band, last = np.unravel_index(int(gains.argmax()), gains.shape)
    if gains[band, last] <= 0:
        return None
    first = int(np.flatnonzero(upto[band, : last + 1] == least[band, last])[-1])
    return slice(int(top[band]), int(bottom[band])), slice(first, int(last) + 1)


def _region(box: _Box, of: Patches) -> Region:
    """Return where a box lies in the whole picture."""
    (down, right), (rows, columns), window = box, of.grid, of.window
    left = window.left + right.start / columns * window.width
    top = window.top + down.start / rows * window.height
    width = (right.stop - right.start) / columns * window.width
    height = (down.stop - down.start) / rows * window.height
    return Region(left, top, min(width, 1 - left), min(height, 1 - top))


def _heat(likeness: _Grid, of: Patches) -> Heat:
    """Return the map of the whole picture: each cell has the value of the patch at its middle."""
    shape = heat_shape(*of.shape)
    window = of.window
    starts, sides = (window.top, window.left), (window.height, window.width)
    inside, patch = [], []
    for cells, patches, start, side in zip(shape, of.grid, starts, sides, strict=True):
        middle = ((np.arange(cells) + 0.5) / cells - start) / side
        inside.append((middle >= 0) & (middle < 1))
        patch.append((middle[inside[-1]] * patches).astype(int))
    heat: Heat = np.zeros(shape, np.float32)
    heat[np.ix_(*inside)] = np.clip(likeness[np.ix_(*patch)], 0, 1)
    return heat
