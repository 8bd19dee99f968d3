"""Aspect buckets: the few sizes of one area at which a model edits images of many aspect ratios.

A model call has one shape. The ratios of neighbours are a factor of sqrt(4/3) apart, so that 4:3 and 16:9 are among
them, and end at (4/3)^3, near 21:9, both ways: thirteen sizes where the model's step is small beside its sides.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

_SPACING = math.sqrt(4 / 3)
_EACH_WAY = 6


class Size(NamedTuple):
    """Of an image, in pixels, as Pillow orders it."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Its area."""
        return self.width * self.height


def aspect_buckets(side: int, step: int, largest_side: int | None = None) -> tuple[Size, ...]:
    """Sizes of about `side`^2 pixels whose sides are multiples of `step`, from tall to wide; each with its transpose.

    Sides are rounded to the step, which bends ratios and areas: at 1024 px in steps of 16 by 1.6 % at most. Sizes that
    would exceed `largest_side` are left out.
    """
    found = set()
    for power in range(_EACH_WAY + 1):
        stretch = _SPACING ** (power / 2)
        wide, low = _to_step(side * stretch, step), _to_step(side / stretch, step)
        if largest_side is None or wide <= largest_side:
            found |= {Size(wide, low), Size(low, wide)}
    return tuple(sorted(found, key=lambda size: (Fraction(size.width, size.height), size)))


def aspect_factor(one: Size, other: Size) -> Fraction:
    """How much wider one is than the other for its height, or the other way round: 1 for equal aspect ratios.

    It is by what an image is stretched that is brought to the other's ratio whole; cropped, it loses 1 - 1 / factor.
    """
    across, along = one.width * other.height, one.height * other.width
    return Fraction(max(across, along), min(across, along))


def nearest_bucket(image: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect ratio is nearest by its factor. Of two that are equally near the squarer one, which of a
    transposed image is the transposed one; between tall and wide, as near for a square, wide."""
    square = Size(1, 1)
    return min(buckets, key=lambda size: (aspect_factor(image, size), aspect_factor(size, square), -size.width))


def _to_step(length: float, step: int) -> int:
    """Halves go up; what a platform's rounding leaves of one goes with it."""
    return max(step, math.floor(round(length / step, 6) + 0.5) * step)
