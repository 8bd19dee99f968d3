"""Comparing at equal effect: what a method costs where it does as much as another. Ours."""

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
"""(effect, cost)."""


def lowest_curve(points: Sequence[Point]) -> list[Point]:
    """The lower convex hull of the points, by rising effect: the least cost that a mixture of them has at each effect.

    Generous to whom it is drawn for: between two settings it takes their best mixture as reached.
    """
    best: dict[float, float] = {}
    for effect, cost in points:
        best[effect] = min(cost, best.get(effect, cost))
    hull: list[Point] = []
    for point in sorted(best.items()):
        while len(hull) >= 2 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _above(a: Point, b: Point, c: Point) -> bool:
    """Whether b lies on or above the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) <= (c[0] - a[0]) * (b[1] - a[1])


def cost_at(points: Sequence[Point], effect: float) -> float | None:
    """The least cost of reaching at least `effect`; None where no point gets there."""
    hull = lowest_curve(points)
    if not hull or hull[-1][0] < effect:
        return None
    costs = [cost for reached, cost in hull if reached >= effect]
    for (low, cost_low), (high, cost_high) in pairwise(hull):
        # A segment that falls ends in a point that costs less than all of it.
        if low < effect < high and cost_low < cost_high:
            costs.append(cost_low + (cost_high - cost_low) * (effect - low) / (high - low))
    return min(costs)
