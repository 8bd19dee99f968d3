"""The settings of one edit, checked when made."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TrajectoryKind = Literal["fixed_point", "midpoint", "euler", "coupled"]
NoiseKind = Literal["antithetic", "independent"]
ImageHalf = Literal["hsds", "dds", "none"]

_ROUNDING = 1e-9
"""Of a share times a number of steps: 0.55 of 20 is 11, in floats a little more."""


@dataclass(frozen=True)
class Method:
    """How an edit is computed. Everything here changes pixels, so everything here is in the fingerprint.

    steps: sampler steps from sigma_max down to 0; the source trajectory has the same grid.
    sigma_max: how deep the edit reaches, in (0, 1].
    grid_shift: bends the model's own grid, sigma to s sigma / (1 + (s - 1) sigma); above 1 it is denser at the top.
    trajectory: the source's: an inversion by `fixed_point` or `midpoint` (2 evaluations a step) or `euler` (1), or
        `coupled` to noise at each step (1 evaluation a step, and no decoding of the unedited source).
    noise: of the coupled trajectory. `antithetic`: every second step has the noise of the step before it, negated, so
        that most of what an edit owes to its noise cancels; `independent`: fresh at each step.
    image_half: `hsds` or `dds` shift the latent as well; `none` moves the text half alone, and so does either at
        `sigma_max` 1, where nothing of the latent is left, or at `image_scale` 0.
    draws: noise draws of the image direction; each costs an evaluation per image, and one per (image, attribute), in
        HSDS 3 + 5 for each iteration.
    iterations: of the HSDS solver.
    damping: of HSDS, in units of one draw's weight; large values give the gradient's direction.
    jacobian: HSDS differentiates under the `target` prompt or under the `source` prompt.
    text_scale, image_scale: length of each half at strength 1.
    guidance: along the edit, `v_src + guidance * (v(c(alpha)) - v_src)`; 1 costs no second branch.
    free_guidance: classifier-free, of the source and of every edit alike; 1 costs no further branch.
    free_guidance_share: of the steps, the noisiest first, that free guidance takes part in; at little noise it changes
        next to nothing (Kynkaanniemi et al. 2024), and a step without it saves an evaluation.
    """

    steps: int = 7
    sigma_max: float = 0.95
    grid_shift: float = 1.0
    trajectory: TrajectoryKind = "coupled"
    noise: NoiseKind = "antithetic"
    image_half: ImageHalf = "dds"
    draws: int = 4
    iterations: int = 2
    damping: float = 1e-3
    jacobian: Literal["target", "source"] = "target"
    text_scale: float = 1.0
    image_scale: float = 1.0
    guidance: float = 1.0
    free_guidance: float = 1.5
    free_guidance_share: float = 0.5

    def __post_init__(self) -> None:
        for key, kind in (
            ("trajectory", TrajectoryKind),
            ("noise", NoiseKind),
            ("image_half", ImageHalf),
            ("jacobian", ("target", "source")),
        ):
            allowed = kind if isinstance(kind, tuple) else get_args(kind)
            if getattr(self, key) not in allowed:
                raise ValueError(f"method.{key} is {getattr(self, key)!r}; allowed: {', '.join(allowed)}")
        checks = (
            ("steps", _whole(self.steps, 1000), "a whole number from 1 to 1000"),
            ("sigma_max", 0 < self.sigma_max <= 1, "a number above 0, at most 1"),
            ("grid_shift", 0.1 <= self.grid_shift <= 10, "a number from 0.1 to 10"),
            ("draws", _whole(self.draws, 256), "a whole number from 1 to 256"),
            ("iterations", _whole(self.iterations, 64), "a whole number from 1 to 64"),
            ("damping", 0 <= self.damping <= 1e6, "a number from 0 to 1000000"),
            ("text_scale", 0 <= self.text_scale <= 10, "a number from 0 to 10"),
            ("image_scale", 0 <= self.image_scale <= 10, "a number from 0 to 10"),
            ("guidance", 0 < self.guidance <= 50, "a number above 0, at most 50"),
            ("free_guidance", 0 < self.free_guidance <= 50, "a number above 0, at most 50"),
            ("free_guidance_share", 0 < self.free_guidance_share <= 1, "a number above 0, at most 1"),
        )
        for key, holds, allowed_values in checks:
            if not holds:
                raise ValueError(f"method.{key} is {getattr(self, key)!r}; allowed: {allowed_values}")

    @property
    def moves_image(self) -> bool:
        """Whether an edit has an image half: it enters at sigma_max, with `1 - sigma_max` of its length."""
        return self.image_half != "none" and self.image_scale > 0 and self.sigma_max < 1

    @property
    def free_guided_steps(self) -> int:
        """How many of the first steps have free guidance."""
        if self.free_guidance == 1:
            return 0
        return max(1, math.ceil(self.free_guidance_share * self.steps - _ROUNDING))


def _whole(value: float, most: int) -> bool:
    return isinstance(value, int) and 1 <= value <= most
