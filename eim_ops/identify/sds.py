"""The image half of a direction by delta denoising (DDS): the Hessian taken as the identity."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning, per_row

_LOWEST_SIGMA = 0.2


def noise(seeds: Sequence[int], draws: int, shape: Sequence[int]) -> Tensor:
    """float32 (draws, B, *shape): row i depends on seeds[i] alone. Drawn on the CPU, the same on every device."""
    rows = [torch.randn((draws, *shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows, dim=1)


@torch.no_grad()
def dds_direction(
    backbone: Backbone, clean: Tensor, source: Conditioning, target: Conditioning,
    seeds: Sequence[int], draws: int, sigma_max: float,
) -> Tensor:  # fmt: skip
    """n_x = -E[sigma dv], dv = v(x, sigma, c_tgt) - v(x, sigma, c_src), the same noise in both terms.

    clean: z0 (B, C, h, w); returns the same shape. `-sigma dv` is the change of the denoised image
    z0_hat = x - sigma v, so the length is that of a difference of clean latents. `draws` noise levels
    lie evenly in [0.2, sigma_max]. Costs 2 evaluations a draw and row. Source: DDS; the weight is ours.
    """
    total = torch.zeros_like(clean)
    spread = (torch.arange(draws, dtype=torch.float32) + 0.5) / draws
    lowest = min(_LOWEST_SIGMA, sigma_max)
    sigmas = (lowest + (sigma_max - lowest) * spread).to(clean.device)
    for sigma, eps in zip(sigmas, noise(seeds, draws, clean.shape[1:]), strict=True):
        level = per_row(sigma[None], clean)
        x = (1 - level) * clean + level * eps.to(clean)
        total -= level * (backbone.velocity(x, sigma, target) - backbone.velocity(x, sigma, source))
    return total / draws
