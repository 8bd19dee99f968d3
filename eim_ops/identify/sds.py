"""The image half of a direction by delta denoising (DDS): the Hessian taken as the identity."""

from collections.abc import Sequence

import torch
from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning
from eim_ops.noise import levels, noise, noised


def dds_direction(
    backbone: Backbone, clean: Tensor, source: Conditioning, target: Conditioning,
    seeds: Sequence[int], draws: int, sigma_max: float,
) -> Tensor:  # fmt: skip
    """n_x = -E[sigma dv], dv = v(x, sigma, c_tgt) - v(x, sigma, c_src), the same noise in both terms.

    clean: z0 (B, C, h, w); returns the same shape. `-sigma dv` is the change of the denoised image
    z0_hat = x - sigma v, so the length is that of a difference of clean latents. `draws` noise levels
    lie evenly in [0.2, sigma_max]. Costs 2 evaluations a draw and row. Source: DDS; the weight is ours.
    """
    total = torch.zeros_like(clean, dtype=torch.promote_types(clean.dtype, torch.float32))
    for sigma, eps in zip(levels(draws, sigma_max).to(clean), noise(seeds, draws, clean.shape[1:]), strict=True):
        x = noised(clean, eps.to(clean), sigma)
        change = backbone.velocity(x, sigma, target) - backbone.velocity(x, sigma, source)
        total -= sigma * change.to(total.dtype)
    return (total / draws).to(clean.dtype)
