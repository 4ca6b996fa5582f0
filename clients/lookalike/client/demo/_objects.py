"""The things in the gallery, each a few solids with a paint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lookalike.client.demo._shapes import (
    Array,
    Point,
    Solid,
    ball,
    blended,
    box,
    drum,
    egg,
    joined,
    ring,
    rod,
    roof,
    turned,
    within,
    without,
)

Rgb = tuple[float, float, float]
Pattern = Callable[[Point], Array]
"""Where the second colour shows: 0 to 1 for each point."""

WHITE, BLACK, STEEL = (0.92, 0.91, 0.88), (0.05, 0.05, 0.06), (0.55, 0.57, 0.6)
WOOD, LEAF, GLASS = (0.42, 0.24, 0.12), (0.16, 0.42, 0.14), (0.12, 0.2, 0.28)
BRICK, YELLOW, ORANGE = (0.55, 0.2, 0.13), (0.95, 0.72, 0.1), (0.95, 0.42, 0.05)
NAVY = (0.05, 0.09, 0.3)
CREAM, COFFEE, CLAY = (0.93, 0.85, 0.7), (0.16, 0.08, 0.04), (0.6, 0.27, 0.15)


@dataclass(frozen=True, slots=True)
class Part:
    """A solid and its look; `color` None takes the colour of the variant."""

    solid: Solid
    color: Rgb | None = None
    gloss: float = 0.3
    """How much of the light it mirrors, 0 to 1."""
    pattern: Pattern | None = None
    second: Rgb = WHITE
    glow: float = 0.0


@dataclass(frozen=True, slots=True)
class Thing:
    """Something to look at, standing on the ground, at most about 2 wide and high."""

    name: str
    parts: tuple[Part, ...]
    height: float
    reach: float
    """Radius of a ball around (0, height / 2, 0) that holds everything."""
    price: float
    tags: tuple[str, ...] = field(default=())


def _mug() -> Thing:
    cup = without(drum((0, 0.6, 0), 0.52, 0.6, 0.05), drum((0, 0.8, 0), 0.45, 0.7, 0.03))
    handle = without(ring((0.58, 0.62, 0), 0.3, 0.075, axis=2), drum((0, 0.6, 0), 0.5, 0.6))
    parts = (
        Part(blended(cup, handle, 0.06), gloss=0.6, pattern=_band(0.2, 0.32)),
        Part(drum((0, 0.98, 0), 0.45, 0.02, 0.005), COFFEE, 0.5),
    )
    return Thing("mug", parts, 1.2, 1.05, 8.5, ("kitchen",))


def _vase() -> Thing:
    outer = [(0, 0.28), (0.1, 0.3), (0.5, 0.52), (0.8, 0.44), (1.05, 0.2), (1.2, 0.18), (1.3, 0.28)]
    body = without(turned(outer), turned([(0.9, 0.2), (1.2, 0.13), (1.4, 0.25)]))
    heads = [(-0.28, 1.85, 0.1), (0.3, 1.78, -0.12), (0.03, 2.0, 0.05)]
    stems = joined(*(rod((0, 1.0, 0), head, 0.02) for head in heads))
    petals = joined(*(egg(head, (0.19, 0.12, 0.19)) for head in heads))
    hearts = joined(*(ball((x, y + 0.08, z), 0.09) for x, y, z in heads))
    parts = (
        Part(body, gloss=0.7, pattern=_waves),
        Part(stems, LEAF, 0.1),
        Part(petals, (0.95, 0.6, 0.7), 0.1),
        Part(hearts, YELLOW, 0.1),
    )
    return Thing("vase", parts, 2.1, 1.2, 34.0, ("home", "flowers"))


def _beach_ball() -> Thing:
    return Thing(
        "ball",
        (Part(ball((0, 0.75, 0), 0.75), gloss=0.5, pattern=_panels),),
        1.5,
        1.0,
        12.0,
        ("toy",),
    )


def _chair() -> Thing:
    legs = joined(*(
        rod((x * 0.5, 0, z * 0.45), (x * 0.42, 0.8, z * 0.4), 0.05, 0.06)
        for x in (-1, 1) for z in (-1, 1)
    ))  # fmt: skip
    posts = joined(*(rod((-0.44, 0.8, z), (-0.56, 1.85, z), 0.05) for z in (-0.4, 0.4)))
    slats = joined(*(
        box((-0.47 - 0.1 * i, 1.2 + 0.27 * i, 0), (0.03, 0.085, 0.4), 0.02, turn=0.12) for i in range(3)
    ))  # fmt: skip
    seat = box((0, 0.83, 0), (0.53, 0.07, 0.5), 0.06)
    parts = (Part(joined(legs, posts), WOOD, 0.2), Part(joined(seat, slats), gloss=0.2))
    return Thing("chair", parts, 1.9, 1.25, 59.0, ("furniture",))


def _lamp() -> Thing:
    shade = without(
        turned([(1.25, 0.62), (2.0, 0.3)], 0.85), turned([(1.2, 0.62), (2.05, 0.25)], 0.85)
    )
    stand = joined(drum((0, 0.06, 0), 0.4, 0.06, 0.04), rod((0, 0.1, 0), (0, 1.7, 0), 0.045))
    parts = (
        Part(shade, gloss=0.05, glow=0.35),
        Part(stand, (0.62, 0.48, 0.25), 0.8),
        Part(ball((0, 1.5, 0), 0.16), (1.0, 0.9, 0.6), 0.0, glow=1.5),
    )
    return Thing("lamp", parts, 2.0, 1.2, 45.0, ("furniture", "light"))


def _house() -> Thing:
    windows = joined(*(box((x, 0.62, 0.72), (0.15, 0.16, 0.05), 0.02) for x in (-0.42, 0.42)))
    sides = joined(*(box((x, 0.62, 0), (0.05, 0.17, 0.2), 0.02) for x in (-0.82, 0.82)))
    parts = (
        Part(box((0, 0.5, 0), (0.82, 0.5, 0.72), 0.01), gloss=0.05),
        Part(roof((0, 1.0, 0), (1.0, 0.75, 0.84)), BRICK, 0.05, _tiles, (0.4, 0.12, 0.08)),
        Part(box((0.5, 1.5, -0.2), (0.12, 0.32, 0.12), 0.01), (0.45, 0.3, 0.25), 0.05),
        Part(box((0, 0.34, 0.72), (0.15, 0.34, 0.06), 0.02), WOOD, 0.2),
        Part(joined(windows, sides), GLASS, 0.9),
    )
    return Thing("house", parts, 1.85, 1.45, 90.0, ("building",))


def _car() -> Thing:
    body = box((0, 0.45, 0), (1.15, 0.24, 0.5), 0.14)
    cabin = within(
        egg((-0.08, 0.62, 0), (0.78, 0.52, 0.47)), box((0, 0.8, 0), (0.8, 0.27, 0.5), 0.1)
    )
    spots = [(x, 0.25, z) for x in (-0.68, 0.7) for z in (-0.47, 0.47)]
    wheels = joined(*(drum(spot, 0.25, 0.09, 0.05, axis=2) for spot in spots))
    hubs = joined(*(drum((x, y, z * 1.12), 0.13, 0.055, 0.02, axis=2) for x, y, z in spots))
    lights = joined(*(egg((1.1, 0.5, z), (0.08, 0.08, 0.1)) for z in (-0.33, 0.33)))
    parts = (
        Part(blended(body, cabin, 0.1), gloss=0.8, pattern=_car_windows, second=GLASS),
        Part(wheels, BLACK, 0.1),
        Part(hubs, STEEL, 0.9),
        Part(lights, (1.0, 0.95, 0.75), 0.9, glow=0.4),
    )
    return Thing("car", parts, 1.2, 1.35, 24.0, ("toy", "vehicle"))


def _tree() -> Thing:
    tiers = joined(*(
        turned([(low, radius), (low + 0.08, radius), (low + high, 0.02)], 0.75)
        for low, high, radius in ((0.4, 0.85, 0.75), (0.85, 0.75, 0.58), (1.28, 0.75, 0.4))
    ))  # fmt: skip
    baubles = joined(*(
        ball((r * np.cos(a), y, r * np.sin(a)), 0.07)
        for y, r, a in ((0.62, 0.62, 0.3), (0.62, 0.62, 1.7), (0.62, 0.62, 3.1), (0.62, 0.62, 4.6),
                        (1.05, 0.46, 1.0), (1.05, 0.46, 2.4), (1.05, 0.46, 4.0), (1.05, 0.46, 5.6),
                        (1.5, 0.3, 0.4), (1.5, 0.3, 1.9), (1.5, 0.3, 3.6), (1.5, 0.3, 5.0))
    ))  # fmt: skip
    parts = (
        Part(rod((0, 0, 0), (0, 0.6, 0), 0.13), WOOD, 0.05),
        Part(tiers, LEAF, 0.05),
        Part(baubles, gloss=0.9),
    )
    return Thing("tree", parts, 2.05, 1.2, 29.0, ("plant",))


def _fish() -> Thing:
    body = egg((0.1, 0.7, 0), (0.8, 0.44, 0.24))
    tail = joined(egg((-0.88, 0.92, 0), (0.3, 0.12, 0.05)), egg((-0.88, 0.5, 0), (0.3, 0.12, 0.05)))
    fins = joined(egg((0.0, 1.12, 0), (0.36, 0.16, 0.04)), egg((0.15, 0.3, 0), (0.2, 0.16, 0.04)))
    eyes = joined(*(ball((0.62, 0.8, z), 0.085) for z in (-0.15, 0.15)))
    pupils = joined(*(ball((0.66, 0.81, z), 0.055) for z in (-0.2, 0.2)))
    parts = (
        Part(blended(body, joined(tail, fins), 0.15), gloss=0.6, pattern=_stripes),
        Part(eyes, WHITE, 0.8),
        Part(pupils, BLACK, 0.9),
    )
    return Thing("fish", parts, 1.3, 1.3, 15.0, ("animal",))


def _rocket() -> Thing:
    hull = turned([(0.3, 0.26), (0.7, 0.4), (1.2, 0.36), (1.6, 0.2), (1.95, 0.01)], 0.75)
    fins = joined(
        *(box((x * 0.42, 0.38, 0), (0.1, 0.34, 0.035), 0.03, turn=x * -0.35) for x in (-1, 1)),
        box((0, 0.38, 0.42), (0.035, 0.34, 0.1), 0.03),
        box((0, 0.38, -0.42), (0.035, 0.34, 0.1), 0.03),
    )
    parts = (
        Part(hull, WHITE, 0.5, _nose, (0.75, 0.1, 0.1)),
        Part(fins, gloss=0.5),
        Part(ring((0, 1.05, 0.36), 0.14, 0.04, axis=2), STEEL, 0.9),
        Part(drum((0, 1.05, 0.33), 0.13, 0.05, 0.01, axis=2), GLASS, 0.9),
        Part(drum((0, 0.24, 0), 0.2, 0.1, 0.02), STEEL, 0.8),
    )
    return Thing("rocket", parts, 2.0, 1.15, 19.0, ("toy", "vehicle"))


def _mushroom() -> Thing:
    stem = turned([(0, 0.3), (0.2, 0.24), (0.7, 0.2), (0.95, 0.26)])
    cap = without(egg((0, 0.85, 0), (0.78, 0.6, 0.78)), box((0, 0.2, 0), (1, 0.56, 1)))
    parts = (Part(stem, CREAM, 0.05), Part(cap, gloss=0.4, pattern=_dots))
    return Thing("mushroom", parts, 1.45, 1.05, 4.0, ("plant",))


def _cactus() -> Thing:
    arms = joined(
        rod((0, 0.5, 0), (0, 1.75, 0), 0.24, 0.22),
        rod((0, 0.95, 0), (0.5, 1.0, 0), 0.12), rod((0.5, 1.0, 0), (0.52, 1.4, 0), 0.12),
        rod((0, 1.15, 0), (-0.45, 1.2, 0), 0.11), rod((-0.45, 1.2, 0), (-0.47, 1.6, 0), 0.11),
    )  # fmt: skip
    pot = turned([(0, 0.34), (0.38, 0.44), (0.4, 0.5), (0.54, 0.5)], 0.8)
    parts = (
        Part(arms, LEAF, 0.15, _ribs, (0.3, 0.6, 0.25)),
        Part(pot, gloss=0.3),
        Part(egg((0, 1.98, 0), (0.13, 0.1, 0.13)), (0.95, 0.35, 0.55), 0.1),
    )
    return Thing("cactus", parts, 2.05, 1.2, 14.0, ("plant",))


def _duck() -> Thing:
    body = blended(
        egg((0, 0.48, 0), (0.72, 0.48, 0.5)), egg((-0.62, 0.72, 0), (0.26, 0.2, 0.22)), 0.3
    )
    head = ball((0.42, 1.12, 0), 0.36)
    wings = joined(*(egg((-0.08, 0.58, z), (0.4, 0.24, 0.12)) for z in (-0.42, 0.42)))
    eyes = joined(*(ball((0.66, 1.22, z), 0.065) for z in (-0.2, 0.2)))
    parts = (
        Part(blended(blended(body, head, 0.22), wings, 0.06), gloss=0.6),
        Part(egg((0.82, 1.05, 0), (0.2, 0.07, 0.18)), ORANGE, 0.5),
        Part(eyes, BLACK, 0.9),
    )
    return Thing("duck", parts, 1.5, 1.15, 6.0, ("toy", "animal"))


def _teapot() -> Thing:
    body = egg((0, 0.58, 0), (0.66, 0.56, 0.66))
    spout = rod((0.5, 0.45, 0), (1.0, 0.95, 0), 0.16, 0.07)
    handle = without(ring((-0.68, 0.62, 0), 0.32, 0.06, axis=2), egg((0, 0.58, 0), (0.6, 0.5, 0.6)))
    parts = (
        Part(
            blended(blended(body, spout, 0.15), handle, 0.06), gloss=0.8, pattern=_band(0.62, 0.72)
        ),
        Part(joined(egg((0, 1.08, 0), (0.34, 0.09, 0.34)), ball((0, 1.24, 0), 0.09)), WHITE, 0.8),
    )
    return Thing("teapot", parts, 1.35, 1.25, 27.0, ("kitchen",))


def things() -> tuple[Thing, ...]:
    """Return every thing of the gallery."""
    return (
        _mug(), _vase(), _beach_ball(), _chair(), _lamp(), _house(), _car(), _tree(),
        _fish(), _rocket(), _mushroom(), _cactus(), _duck(), _teapot(),
    )  # fmt: skip


def _step(value: Array, at: float, width: float = 0.02) -> Array:
    share: Array = np.clip((value - np.float32(at)) / np.float32(width) + np.float32(0.5), 0, 1)
    return share


def _band(low: float, high: float) -> Pattern:
    return lambda p: _step(p[1], low) * (1 - _step(p[1], high))


def _waves(p: Point) -> Array:
    turn = np.arctan2(p[2], p[0])
    return (
        _step(np.abs(p[1] - np.float32(0.55) - np.sin(6 * turn) * np.float32(0.06)), 0.07) * -1 + 1
    )


def _panels(p: Point) -> Array:
    turn = np.arctan2(p[2], p[0]) * np.float32(3 / np.pi)
    top = _step(np.abs(p[1] - np.float32(0.75)), 0.7)
    return np.maximum(_step(np.abs(turn % 2 - 1), 0.5, 0.06), top)


def _tiles(p: Point) -> Array:
    row = (p[1] * 11) % 1
    return _step(row, 0.85, 0.2)


def _car_windows(p: Point) -> Array:
    height = _step(p[1], 0.74) * (1 - _step(p[1], 0.98))
    post = _step(np.abs(p[0] + np.float32(0.05)), 0.05) * (1 - _step(np.abs(p[0]), 0.62))
    side = post * _step(np.abs(p[2]), 0.2)
    ends = _step(np.abs(p[0]), 0.56) * (1 - _step(np.abs(p[2]), 0.34))
    share: Array = height * np.maximum(side, ends)
    return share


def _stripes(p: Point) -> Array:
    return _step(np.cos((p[0] + np.float32(0.12) * np.cos(5 * p[1])) * 10), 0.45, 0.2) * (
        1 - _step(p[0], 0.5)
    )


def _nose(p: Point) -> Array:
    return np.maximum(_step(p[1], 1.5), _step(p[1], 0.55) * -1 + 1)


def _dots(p: Point) -> Array:
    x, y, z = p[0], p[1] - np.float32(0.85), p[2]
    found = np.zeros_like(x)
    for tilt, turn in (
        (0.0, 0.0),
        *((0.75, i * 1.257) for i in range(5)),
        *((1.3, i * 0.9) for i in range(7)),
    ):
        dx = x - np.float32(0.78 * np.sin(tilt) * np.cos(turn))
        dy = y - np.float32(0.6 * np.cos(tilt))
        dz = z - np.float32(0.78 * np.sin(tilt) * np.sin(turn))
        found = np.maximum(found, 1 - _step(np.sqrt(dx * dx + dy * dy + dz * dz), 0.13))
    return found


def _ribs(p: Point) -> Array:
    return _step(np.cos(np.arctan2(p[2], p[0]) * 9), 0.6, 0.5)
