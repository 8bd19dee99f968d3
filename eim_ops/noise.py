"""Noise that depends on an image's seed alone: not on its neighbours, the batch, or the device. And latents with it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eim_ops.joint import per_row, widened

_LOWEST_SIGMA = 0.2
"""Below it a velocity tells of pixels, not of attributes."""


def noise(seeds: Sequence[int], draws: int, shape: Sequence[int]) -> Tensor:
    """float32 (draws, B, *shape): row i depends on seeds[i] alone, draw m not on how many follow. Drawn on the CPU."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack(
        [torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]) for _ in range(draws)]
    )


def noised(clean: Tensor, eps: Tensor, sigma: Tensor, shift: Tensor | None = None) -> Tensor:
    """x_sigma = (1 - sigma) z0 + sigma eps, with `shift`, a difference at that level, added; sigma scalar or (B,).

    In the dtype of `clean`, but formed in float32 at least: in half precision a shift below half a unit in the last
    place of x would be lost if x were rounded first. A shift of zeros changes no bit.
    """
    wide = widened(clean)
    level = per_row(sigma.reshape(-1), wide)
    x = (1 - level) * wide + level * eps
    return (x if shift is None else x + shift).to(clean.dtype)


def levels(draws: int, sigma_max: float) -> Tensor:
    """float32 (draws,): noise levels evenly over [0.2, sigma_max], each in the middle of its share. Ours."""
    lowest = min(_LOWEST_SIGMA, sigma_max)
    return lowest + (sigma_max - lowest) * (torch.arange(draws, dtype=torch.float32) + 0.5) / draws
