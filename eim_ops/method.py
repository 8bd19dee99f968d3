"""The settings of one edit, checked when made."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Method:
    """How an edit is computed. Everything here changes pixels, so everything here is in the fingerprint.

    steps: sampler steps from sigma_max down to 0; inversion takes the same grid upwards.
    sigma_max: how deep the edit reaches, in (0, 1].
    inversion: `fixed_point` (2 evaluations a step) or `euler` (1).
    image_half: `dds` shifts the latent as well; `none` moves the text half alone.
    draws: noise draws of the image direction; each costs 2 evaluations per (image, attribute).
    text_scale, image_scale: length of each half at strength 1.
    guidance: along the edit, `v_src + guidance * (v(c(alpha)) - v_src)`; 1 costs no second branch.
    """

    steps: int = 20
    sigma_max: float = 0.9
    inversion: Literal["fixed_point", "euler"] = "fixed_point"
    image_half: Literal["dds", "none"] = "dds"
    draws: int = 4
    text_scale: float = 1.0
    image_scale: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("steps", self.steps, 1 <= self.steps <= 1000, "a whole number from 1 to 1000"),
            ("sigma_max", self.sigma_max, 0 < self.sigma_max <= 1, "a number above 0, at most 1"),
            ("inversion", self.inversion, self.inversion in ("fixed_point", "euler"), "fixed_point or euler"),
            ("image_half", self.image_half, self.image_half in ("dds", "none"), "dds or none"),
            ("draws", self.draws, 1 <= self.draws <= 256, "a whole number from 1 to 256"),
            ("text_scale", self.text_scale, 0 <= self.text_scale <= 10, "a number from 0 to 10"),
            ("image_scale", self.image_scale, 0 <= self.image_scale <= 10, "a number from 0 to 10"),
            ("guidance", self.guidance, 0 < self.guidance <= 50, "a number above 0, at most 50"),
        )
        for key, value, holds, allowed in checks:
            if not holds:
                raise ValueError(f"method.{key} is {value!r}; allowed: {allowed}")
