"""Looks at a thing: a vectorised sphere tracer with soft shadows, in numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.client.demo._objects import NAVY, WHITE, Rgb, Thing
from lookalike.client.demo._shapes import Array, Point

WIDTH, HEIGHT = 320, 240
_STEPS = 36
_SHADOW_STEPS = 14
_VIEW = 0.36
"""Tangent of half the vertical angle of view."""


@dataclass(frozen=True, slots=True)
class View:
    """Where one stands: angles in radians about the thing, distance in its sizes."""

    turn: float
    tilt: float
    distance: float
    shift: tuple[float, float] = (0.0, 0.0)
    """Of the thing in the frame, in heights of the frame."""


@dataclass(frozen=True, slots=True)
class Light:
    """A sun and a sky; colours are linear."""

    direction: tuple[float, float, float]
    color: Rgb
    sky: Rgb


@dataclass(frozen=True, slots=True)
class Ground:
    """What the thing stands on, and what is behind it."""

    kind: str
    first: Rgb
    second: Rgb
    back: Rgb


class Sight:
    """What rays meet from one view; painted many times with other colours and lights."""

    def __init__(self, thing: Thing, view: View) -> None:
        self._thing = thing
        scale = thing.reach
        self._center = np.array([0, thing.height * 0.48, 0], np.float32)
        away = np.array(
            [
                np.sin(view.turn) * np.cos(view.tilt),
                np.sin(view.tilt),
                np.cos(view.turn) * np.cos(view.tilt),
            ]
        )
        self._eye = (self._center + away * scale * view.distance / _VIEW).astype(np.float32)
        self._rays = _rays(-away, view.shift)
        self._pixel = np.float32(2 * _VIEW / HEIGHT)
        self._trace()
        self._meet_ground()

    def _distance(self, p: Point) -> Array:
        parts = self._thing.parts
        distance = parts[0].solid(p)
        for part in parts[1:]:
            np.minimum(distance, part.solid(p), out=distance)
        return distance

    def _at(self, rows: NDArray[np.intp], t: Array) -> Point:
        x, y, z = (self._eye[i] + t * self._rays[i][rows] for i in range(3))
        return x, y, z

    def _trace(self) -> None:
        """March every ray that enters the ball around the thing; keep the closest approach."""
        offset = self._eye - self._center
        b = sum(offset[i] * self._rays[i] for i in range(3))
        c = np.float32(offset @ offset - self._thing.reach**2)
        disc = b * b - c
        rows = np.flatnonzero(disc > 0)
        root = np.sqrt(disc[rows])
        t, far = -b[rows] - root, -b[rows] + root
        best = np.full(WIDTH * HEIGHT, 9, np.float32)
        depth = np.zeros(WIDTH * HEIGHT, np.float32)
        for step in range(_STEPS):
            d = self._distance(self._at(rows, t))
            closeness = d / (t * self._pixel)
            nearer = closeness < best[rows]
            best[rows[nearer]] = closeness[nearer]
            depth[rows[nearer]] = t[nearer]
            t = t + d
            if step % 2:
                go = (closeness > 0.2) & (t < far)
                rows, t, far = rows[go], t[go], far[go]
                if not rows.size:
                    break
        self._hit = np.flatnonzero(best < 1)
        # A ray that passes within a pixel covers it in part: edges come out smooth.
        self._cover = np.clip((1 - best[self._hit]) * np.float32(1.4), 0, 1)
        self._points = self._at(self._hit, depth[self._hit])
        self._normals = self._normal(self._points)
        distances = np.stack([part.solid(self._points) for part in self._thing.parts])
        self._which = distances.argmin(0)
        self._shares = [self._pattern(i) for i in range(len(self._thing.parts))]

    def _pattern(self, i: int) -> Array | None:
        """Return where the second colour of part `i` shows, for its own points."""
        pattern = self._thing.parts[i].pattern
        rows = np.flatnonzero(self._which == i)
        if pattern is None or not rows.size:
            return None
        x, y, z = (a[rows] for a in self._points)
        return pattern((x, y, z))[:, None]

    def _normal(self, p: Point) -> Point:
        """Return the gradient of the distance by four probes (a tetrahedron)."""
        step = np.float32(0.004)
        total = [np.zeros_like(p[0]) for _ in range(3)]
        for signs in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
            probe = p[0] + signs[0] * step, p[1] + signs[1] * step, p[2] + signs[2] * step
            d = self._distance(probe)
            for i in range(3):
                total[i] += signs[i] * d
        length = np.sqrt(total[0] ** 2 + total[1] ** 2 + total[2] ** 2) + np.float32(1e-6)
        return total[0] / length, total[1] / length, total[2] / length

    def _meet_ground(self) -> None:
        down = np.minimum(self._rays[1], np.float32(-1e-3))
        t = -self._eye[1] / down
        self._ground = self._eye[0] + t * self._rays[0], self._eye[2] + t * self._rays[2]
        reach = np.float32(self._thing.reach)
        self._fade = np.exp(-np.hypot(*self._ground) / (4 * reach)) * (self._rays[1] < -1e-3)
        near = np.hypot(*self._ground)
        self._near = np.flatnonzero((near < 3.4 * reach) & (self._rays[1] < 0))
        self._beneath = np.flatnonzero((near < 1.4 * reach) & (self._rays[1] < 0))
        x, z = (a[self._beneath] for a in self._ground)
        contact = self._distance((x, np.full_like(x, 0.02), z))
        self._contact = 1 - np.float32(0.55) * np.exp(-np.maximum(contact, 0) * 6)
        self._shadows: dict[tuple[float, float, float], tuple[Array, Array]] = {}

    def _sun(self, light: Light) -> tuple[Array, Array]:
        """Return the share of the sun on the thing's points and on the ground near it."""
        if light.direction not in self._shadows:
            way = _unit(light.direction)
            normals, lift = self._normals, np.float32(0.03)
            facing = np.clip(sum(n * w for n, w in zip(normals, way, strict=True)), 0, 1)
            x, y, z = (p + lift * n for p, n in zip(self._points, normals, strict=True))
            ground = (a[self._near] for a in self._ground)
            gx, gz = ground
            self._shadows[light.direction] = (
                facing * self._shadow((x, y, z), way),
                way[1] * self._shadow((gx, np.zeros_like(gx), gz), way),
            )
        return self._shadows[light.direction]

    def _shadow(self, p: Point, way: tuple[np.float32, ...]) -> Array:
        """Return how much of the sun reaches the points, 0 to 1, with a soft rim."""
        lit = np.ones_like(p[0])
        # Only points whose way to the sun enters the ball around the thing.
        offset = [p[i] - self._center[i] for i in range(3)]
        b = sum(offset[i] * way[i] for i in range(3))
        disc = b * b - sum(a * a for a in offset) + np.float32(self._thing.reach**2)
        rows = np.flatnonzero((disc > 0) & (-b + np.sqrt(np.maximum(disc, 0)) > 0))
        q = tuple(a[rows] for a in p)
        far = -b[rows] + np.sqrt(disc[rows])
        t = np.maximum(-b[rows] - np.sqrt(disc[rows]), np.float32(0.05))
        dark = np.ones_like(t)
        for _ in range(_SHADOW_STEPS):
            d = self._distance((q[0] + t * way[0], q[1] + t * way[1], q[2] + t * way[2]))
            np.minimum(dark, 9 * d / t, out=dark)
            t = np.minimum(t + np.clip(d, 0.03, 0.35), far)
        lit[rows] = np.clip(dark, 0, 1)
        smooth: Array = lit * lit * (3 - 2 * lit)
        return smooth

    def paint(self, color: Rgb, light: Light, ground: Ground) -> NDArray[np.uint8]:
        """Return (240, 320, 3) uint8 sRGB of the thing in one colour, light and place."""
        sun, on_ground = self._sun(light)
        image = self._paint_ground(light, ground, on_ground)
        base, gloss, glow = self._surface(color)
        warm, sky = np.array(light.color, np.float32), np.array(light.sky, np.float32)
        normal = np.stack(self._normals, -1)
        looks = np.stack([ray[self._hit] for ray in self._rays], -1)
        up = 0.5 + 0.5 * normal[:, 1:2]
        low = np.clip(0.55 + 0.9 * self._points[1] / np.float32(self._thing.height), 0.55, 1)
        bounce = np.array(ground.first, np.float32) * (0.35 * (1 - up))
        lit = base * (sky * low[:, None] * up + bounce + sun[:, None] * warm + glow[:, None])
        half = np.array(_unit(light.direction), np.float32) - looks
        half /= np.linalg.norm(half, axis=-1, keepdims=True)
        shine = np.clip((normal * half).sum(-1), 0, 1) ** 2
        for _ in range(5):  # to the 64th power
            shine = shine * shine
        shine *= gloss * np.minimum(sun * 4, 1)
        rim = np.clip(1 + (normal * looks).sum(-1), 0, 1) ** 3 * gloss * np.float32(0.35)
        lit += shine[:, None] * warm + rim[:, None] * sky
        cover = self._cover[:, None]
        image[self._hit] = image[self._hit] * (1 - cover) + lit * cover
        return _develop(image)

    def _surface(self, color: Rgb) -> tuple[Array, Array, Array]:
        """Return colour (n, 3), gloss (n,) and glow (n,) of what was hit."""
        parts = self._thing.parts
        base = np.array([part.color or color for part in parts], np.float32)[self._which]
        pale = min(color) > 0.5  # white on white would show no pattern
        for i, share in enumerate(self._shares):
            if share is not None:
                rows = np.flatnonzero(self._which == i)
                own = parts[i].color is None and parts[i].second == WHITE and pale
                second = np.array(NAVY if own else parts[i].second, np.float32)
                base[rows] = base[rows] * (1 - share) + second * share
        gloss = np.array([part.gloss for part in parts], np.float32)[self._which]
        glow = np.array([part.glow for part in parts], np.float32)[self._which]
        return base, gloss, glow

    def _paint_ground(self, light: Light, ground: Ground, sun_near: Array) -> Array:
        warm, sky = np.array(light.color, np.float32), np.array(light.sky, np.float32)
        first, second = np.array(ground.first, np.float32), np.array(ground.second, np.float32)
        share = _texture(ground.kind, *self._ground)[:, None]
        sun = np.full(WIDTH * HEIGHT, _unit(light.direction)[1], np.float32)
        sun[self._near] = sun_near
        lit = (first + (second - first) * share) * (sky + sun[:, None] * warm)
        lit[self._beneath] *= self._contact[:, None]
        height = np.repeat(np.linspace(1.15, 0.75, HEIGHT, dtype=np.float32), WIDTH)[:, None]
        back = np.array(ground.back, np.float32) * (sky + np.float32(0.6) * warm) * height
        fade = np.clip(self._fade * np.float32(2.2), 0, 1)[:, None]
        image: Array = back + (lit - back) * fade
        return image


def _rays(forward: NDArray[np.float64], shift: tuple[float, float]) -> Point:
    right = np.cross(forward, (0, 1, 0))
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    x = ((x + 0.5) * 2 - WIDTH) / HEIGHT - 2 * shift[0]
    y = (HEIGHT - (y + 0.5) * 2) / HEIGHT - 2 * shift[1]
    rays = forward + (x[..., None] * right + y[..., None] * up) * _VIEW
    rays = (rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3).astype(np.float32)
    a, b, c = (np.ascontiguousarray(rays[:, i]) for i in range(3))
    return a, b, c


def _texture(kind: str, x: Array, z: Array) -> Array:
    """Return where the ground's second colour shows, 0 to 1."""
    share: Array
    match kind:
        case "checker":
            return _tick(x * 1.4) * _tick(z * 1.4) * np.float32(0.5) + np.float32(0.5)
        case "wood":
            plank = np.floor(z * 2.2)
            grain = np.sin(x * 2.2 + 7 * np.sin(plank * 5) + 1.3 * np.sin(z * 31 + x * 1.1 + plank))
            seam = np.abs((z * 2.2) % 1 - np.float32(0.5)) > 0.485
            share = np.clip(0.45 + 0.3 * grain + 0.2 * np.sin(plank * 12.9) + 0.5 * seam, 0, 1)
            return share
        case "stripes":
            return _tick(x * 1.1 + z * 0.5) * np.float32(0.5) + np.float32(0.5)
        case "grass":
            blades = np.sin(x * 23 + 3 * np.sin(z * 17)) * np.sin(z * 29 + 2 * np.sin(x * 13))
            share = np.clip(0.5 + 0.5 * blades, 0, 1)
            return share
        case _:
            return np.clip(np.hypot(x, z) * np.float32(0.2), 0, 1)


def _tick(a: Array) -> Array:
    """Return a square wave of -1 and 1 with soft edges."""
    share: Array = np.clip(np.sin(a * np.float32(np.pi)) * 14, -1, 1)
    return share


def _unit(direction: tuple[float, float, float]) -> tuple[np.float32, ...]:
    length = float(np.linalg.norm(direction))
    return tuple(np.float32(a / length) for a in direction)


def _develop(image: Array) -> NDArray[np.uint8]:
    """Turn linear light into sRGB, with a soft shoulder instead of clipped whites."""
    steps = np.linspace(0, 4, 4097)
    curve = np.clip(steps * (1 + steps * 0.15) / (1 + steps * 0.4), 0, 1) ** (1 / 2.2)
    table = (curve * 255 + 0.5).astype(np.uint8)
    return table[(np.clip(image, 0, 4) * 1024).astype(np.int32)].reshape(HEIGHT, WIDTH, 3)
