"""Signed distance functions: how far a point is from a solid, negative inside.

The formulas are Inigo Quilez's (iquilezles.org/articles/distfunctions). A point is a
tuple of three float32 arrays of one shape; y is up and the ground is y = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]
Point: TypeAlias = tuple[Array, Array, Array]
Solid: TypeAlias = Callable[[Point], Array]
Triple: TypeAlias = tuple[float, float, float]


def ball(center: Triple, radius: float) -> Solid:
    """Return a sphere."""

    def solid(p: Point) -> Array:
        x, y, z = _from(p, center)
        distance: Array = np.sqrt(x * x + y * y + z * z) - np.float32(radius)
        return distance

    return solid


def egg(center: Triple, radii: Triple) -> Solid:
    """Return an ellipsoid (a bound, not the exact distance)."""
    inverse = [np.float32(1 / radius) for radius in radii]

    def solid(p: Point) -> Array:
        x, y, z = (a * k for a, k in zip(_from(p, center), inverse, strict=True))
        near = np.sqrt(x * x + y * y + z * z)
        x, y, z = x * inverse[0], y * inverse[1], z * inverse[2]
        far = np.sqrt(x * x + y * y + z * z)
        distance: Array = near * (near - 1) / np.maximum(far, np.float32(1e-4))
        return distance

    return solid


def box(center: Triple, half: Triple, rounding: float = 0.02, *, turn: float = 0.0) -> Solid:
    """Return a box with rounded edges; `turn` in radians about the z axis."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))

    def solid(p: Point) -> Array:
        x, y, z = _from(p, center)
        if turn:
            x, y = cos * x + sin * y, cos * y - sin * x
        qx, qy, qz = (
            np.abs(a) - np.float32(h - rounding) for a, h in zip((x, y, z), half, strict=True)
        )
        inside = np.minimum(np.maximum(qx, np.maximum(qy, qz)), 0)
        qx, qy, qz = np.maximum(qx, 0), np.maximum(qy, 0), np.maximum(qz, 0)
        distance: Array = np.sqrt(qx * qx + qy * qy + qz * qz) + inside - np.float32(rounding)
        return distance

    return solid


def rod(start: Triple, end: Triple, radius: float, end_radius: float | None = None) -> Solid:
    """Return a capsule between two points, tapering to `end_radius`."""
    axis = np.subtract(end, start).astype(np.float32)
    scale = np.float32(1 / float(axis @ axis))
    growth = np.float32((radius if end_radius is None else end_radius) - radius)

    def solid(p: Point) -> Array:
        x, y, z = _from(p, start)
        along = np.clip((x * axis[0] + y * axis[1] + z * axis[2]) * scale, 0, 1)
        x, y, z = x - along * axis[0], y - along * axis[1], z - along * axis[2]
        distance: Array = np.sqrt(x * x + y * y + z * z) - (np.float32(radius) + along * growth)
        return distance

    return solid


def drum(
    center: Triple, radius: float, half: float, rounding: float = 0.02, axis: int = 1
) -> Solid:
    """Return a cylinder along an axis (0, 1, 2 for x, y, z) with rounded edges."""
    others = [i for i in range(3) if i != axis]

    def solid(p: Point) -> Array:
        q = _from(p, center)
        side = np.sqrt(q[others[0]] ** 2 + q[others[1]] ** 2) - np.float32(radius - rounding)
        cap = np.abs(q[axis]) - np.float32(half - rounding)
        inside = np.minimum(np.maximum(side, cap), 0)
        side, cap = np.maximum(side, 0), np.maximum(cap, 0)
        distance: Array = np.sqrt(side * side + cap * cap) + inside - np.float32(rounding)
        return distance

    return solid


def ring(center: Triple, radius: float, thickness: float, axis: int = 1) -> Solid:
    """Return a torus around an axis."""
    others = [i for i in range(3) if i != axis]

    def solid(p: Point) -> Array:
        q = _from(p, center)
        around = np.sqrt(q[others[0]] ** 2 + q[others[1]] ** 2) - np.float32(radius)
        distance: Array = np.sqrt(around * around + q[axis] ** 2) - np.float32(thickness)
        return distance

    return solid


def turned(profile: list[tuple[float, float]], flatness: float = 0.7) -> Solid:
    """Return a solid of revolution about y from (height, radius) pairs, joined smoothly.

    `flatness` shortens the marching steps where the profile is steep.
    """
    heights, radii = (np.array(column, np.float32) for column in zip(*profile, strict=True))
    fine = np.linspace(heights[0], heights[-1], 64, dtype=np.float32)
    smooth = np.interp(fine, heights, radii)
    for _ in range(3):
        smooth[1:-1] = (smooth[:-2] + 2 * smooth[1:-1] + smooth[2:]) / 4
    curve = smooth.astype(np.float32)
    bottom, top = heights[0], heights[-1]

    def solid(p: Point) -> Array:
        x, y, z = p
        at = np.clip((y - bottom) / (top - bottom), 0, 1) * 63
        low = np.minimum(at.astype(np.int32), 62)
        part = at - low
        radius = curve[low] * (1 - part) + curve[low + 1] * part
        side = (np.sqrt(x * x + z * z) - radius) * np.float32(flatness)
        distance: Array = np.maximum(side, np.maximum(bottom - y, y - top))
        return distance

    return solid


def roof(center: Triple, half: Triple) -> Solid:
    """Return a prism with its ridge along z; `half[1]` is its whole height."""
    length = np.float32(1 / np.hypot(half[0], half[1]))

    def solid(p: Point) -> Array:
        x, y, z = _from(p, center)
        slope = (np.abs(x) * np.float32(half[1]) + y * np.float32(half[0])) * length
        slope = slope - np.float32(half[0] * half[1]) * length
        return np.maximum(np.maximum(slope, -y), np.abs(z) - np.float32(half[2]))

    return solid


def without(solid: Solid, hole: Solid) -> Solid:
    """Return the first solid with the second cut out."""
    return lambda p: np.maximum(solid(p), -hole(p))


def within(solid: Solid, other: Solid) -> Solid:
    """Return what two solids share."""
    return lambda p: np.maximum(solid(p), other(p))


def joined(*solids: Solid) -> Solid:
    """Return the union of solids."""

    def solid(p: Point) -> Array:
        distance = solids[0](p)
        for other in solids[1:]:
            distance = np.minimum(distance, other(p))
        return distance

    return solid


def blended(first: Solid, second: Solid, width: float) -> Solid:
    """Return the union of two solids with a fillet of that width."""
    k = np.float32(width)

    def solid(p: Point) -> Array:
        a, b = first(p), second(p)
        h = np.maximum(k - np.abs(a - b), 0) / k
        distance: Array = np.minimum(a, b) - h * h * k * np.float32(0.25)
        return distance

    return solid


def _from(p: Point, center: Triple) -> Point:
    return p[0] - np.float32(center[0]), p[1] - np.float32(center[1]), p[2] - np.float32(center[2])
